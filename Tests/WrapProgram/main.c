// wrap-program file CASE FILE; wrap-program VERB FILE [more]
#include "cases.h"

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
