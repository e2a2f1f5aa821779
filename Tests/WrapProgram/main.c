// wrap-program file CASE FILE; wrap-program VERB FILE [more]
#include "cases.h"

#include <dirent.h>

// What the wrapper counts, as others find it among a process's descriptors; below 0 without one.
static int open_statistics(void) {
  DIR *descriptors = opendir("/proc/self/fd");
  int found = -1;
  for (struct dirent *entry; found < 0 && (entry = readdir(descriptors)) != NULL;) {
    char name[64] = "";
    if (readlinkat(dirfd(descriptors), entry->d_name, name, sizeof name - 1) > 0 &&
        strncmp(name, "/memfd:volip-statistics", 23) == 0)
      found = openat(dirfd(descriptors), entry->d_name, O_RDONLY | O_CLOEXEC);
  }
  closedir(descriptors);
  return found;
}

static unsigned long epoch_count(int statistics) {
  unsigned long words[3] = {0};  // magic, version, epochs
  return pread(statistics, words, sizeof words, 0) == sizeof words ? words[2] : 0;
}

// Nobody runs while an epoch is committed and counted: one that is counted after a look has
// everything that was stored before it.
void wait_for_epoch(void) {
  int statistics = open_statistics();
  unsigned long before = epoch_count(statistics);
  while (statistics >= 0 && epoch_count(statistics) == before)
    usleep(1000);
  close(statistics);
}

int main(int count, char **arguments) {
  if (count == 4 && strcmp(arguments[1], "file") == 0)
    for (const struct wrap_case *it = file_cases; it->name != NULL; it++)
      if (strcmp(it->name, arguments[2]) == 0)
        return run_file_case(it, arguments[3]);
  const struct wrap_verb *const tables[] = {verbs, hostile_verbs};
  for (int i = 0; i < 2 && count >= 3; i++)
    for (const struct wrap_verb *it = tables[i]; it->name != NULL; it++)
      if (strcmp(it->name, arguments[1]) == 0)
        return it->run(arguments[2], arguments + 3);
  return 64;
}
