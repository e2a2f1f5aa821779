// Lines on standard error from places where nothing of the C library may be called.
#include "internal.h"

void line_text(struct line *line, const char *text) {
  while (*text && line->length < sizeof line->bytes)
    line->bytes[line->length++] = *text++;
}

void line_hex(struct line *line, uint64_t value) {
  line_text(line, "0x");
  int shift = 60;
  while (shift > 0 && (value >> shift) == 0)
    shift -= 4;
  for (; shift >= 0; shift -= 4)
    line_text(line, (char[]){"0123456789abcdef"[value >> shift & 15], 0});
}

void line_number(struct line *line, long value) {
  char digits[24];
  int count = 0;
  unsigned long rest = value < 0 ? -(unsigned long)value : (unsigned long)value;
  do
    digits[count++] = (char)('0' + rest % 10);
  while ((rest /= 10) != 0);
  if (value < 0)
    line_text(line, "-");
  while (count > 0)
    line_text(line, (char[]){digits[--count], 0});
}

void line_write(struct line *line) {
  if (line->length == sizeof line->bytes)
    line->length--;
  line->bytes[line->length++] = '\n';
  RAW(SYS_write, 2, line->bytes, line->length);
}

void machine_stop(const char *what, uint64_t value) {
  struct line line = {.length = 0};
  line_text(&line, what);
  line_hex(&line, value);
  line_write(&line);
  const int abort_signal = 6;
  struct {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
  } standard = {0};
  RAW(SYS_rt_sigaction, abort_signal, &standard, 0, 8);
  uint64_t none = 0;
  RAW(SYS_rt_sigprocmask, 2, &none, 0, 8);
  RAW(SYS_tgkill, RAW(SYS_getpid), RAW(SYS_gettid), abort_signal);
  for (;;)
    RAW(SYS_exit_group, 128 + abort_signal);
}
