// plain-program CASE; without an argument the names of all cases.
#include "cases.h"

#include <stdarg.h>

void say(const char *format, ...) {
  char text[512];
  va_list values;
  va_start(values, format);
  int bytes = vsnprintf(text, sizeof text, format, values);
  va_end(values);
  (void)!write(1, text, (size_t)bytes);
}

int main(int count, char **arguments) {
  const struct plain_case *const all[] = {signal_cases, fault_cases, memory_cases, process_cases,
                                          terminal_cases};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
    for (const struct plain_case *it = all[i]; it->name != NULL; it++) {
      if (count < 2)
        say("%s\n", it->name);
      else if (strcmp(it->name, arguments[1]) == 0)
        return it->run(), 0;
    }
  return count < 2 ? 0 : 64;
}
