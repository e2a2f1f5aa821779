// Job control: a shell with a terminal of its own, and keys pressed there.
#include "cases.h"

#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <termios.h>

static int terminal;
static char seen[1 << 16];
static size_t seen_bytes;

// Waits until the terminal shows a text, behind what earlier calls have waited for.
static bool shows(const char *text) {
  for (;;) {
    char *found = strstr(seen, text);
    if (found != NULL) {
      found += strlen(text);
      seen_bytes -= (size_t)(found - seen);
      memmove(seen, found, seen_bytes + 1);
      return true;
    }
    struct pollfd one = {.fd = terminal, .events = POLLIN};
    if (seen_bytes + 1 == sizeof seen || poll(&one, 1, 20000) <= 0)
      return false;
    long bytes = read(terminal, seen + seen_bytes, sizeof seen - 1 - seen_bytes);
    if (bytes <= 0)
      return false;
    seen_bytes += (size_t)bytes;
    seen[seen_bytes] = 0;
  }
}

static void press(const char *keys) { (void)!write(terminal, keys, strlen(keys)); }

// What a command prints is told from its echo by the quotes, which the shell takes away.
static void step(const char *name, const char *keys, const char *text) {
  press(keys);
  say("%s: %d\n", name, shows(text));
}

// A step after which the shell is ready for the next.
static void command(const char *name, const char *keys, const char *text) {
  step(name, keys, text);
  shows("ready> ");
}

static pid_t start_shell(void) {
  terminal = posix_openpt(O_RDWR | O_NOCTTY);
  grantpt(terminal);
  unlockpt(terminal);
  const struct winsize size = {.ws_row = 33, .ws_col = 77};
  ioctl(terminal, TIOCSWINSZ, &size);
  const char *name = ptsname(terminal);
  pid_t child = fork();
  if (child == 0) {
    setsid();
    int own = open(name, O_RDWR);
    ioctl(own, TIOCSCTTY, 0);
    for (int i = 0; i < 3; i++)
      dup2(own, i);
    setenv("PS1", "ready> ", 1);
    setenv("ENV", "/dev/null", 1);
    execl("/bin/sh", "sh", "-i", NULL);
  }
  return child;
}

static void job_control(void) {
  pid_t shell = start_shell();
  say("prompt: %d\n", shows("ready> "));
  command("size", "stty size\n", "33 77");
  command("terminal", "test -t 0 && echo a' 'terminal\n", "a terminal");
  command("directory", "cd /usr; echo in' '$(pwd)\n", "in /usr");
  command("variable", "export A=value; sh -c 'echo of\" \"$A'\n", "of value");
  // Says when it goes on.
  step("computes",
       "sh -c 'trap \"echo once\"\" more\" CONT; echo be\"\"gun; while :; do :; done'\n", "begun");
  command("Ctrl-Z", "\x1a", "Stopped");
  command("jobs", "jobs\n", "Stopped");
  command("status", "echo status' '$?\n", "status 0");
  step("bg", "bg\n", "once more");
  command("jobs", "jobs\n", "Running");
  step("fg", "fg\n", "once more");
  step("Ctrl-C", "\x03", "ready> ");
  command("its status", "echo status' '$?\n", "status 130");
  press("cat\n");
  step("reads", "words\n", "words\r\nwords");
  step("end of file", "\x04", "ready> ");
  command("background reader", "cat & echo started' '$?\n", "started 0");
  command("is stopped", "sleep 0.3; jobs\n", "Stopped");
  command("killed", "kill -9 $!; sleep 0.3; jobs\n", "Killed");
  press("exit 8\n");
  shows("nothing more");  // until the terminal is closed: its output must be read
  say_end("shell", shell);
}

const struct plain_case terminal_cases[] = {{"job-control", job_control}, {NULL, NULL}};
