// Calls in which threads wait. Those that return at once, because something is there or because the
// program asked not to wait, are safe points too where that cannot be told beforehand: a program
// keeps no half-done change over a call in which it might wait.
//
// recv and its kin are tried first without waiting; only where there is nothing yet, and the
// descriptor is a blocking one, the thread waits. accept, and read of what is no socket, have no
// such form: on a blocking descriptor they are safe points in any case.
#define _GNU_SOURCE
#include "internal.h"

#include <string.h>
#include <sys/ioctl.h>

#define MIGHT_WAIT(might, call) ((might) ? WAIT(0, call) : (call))

EXPORTED int epoll_wait(int descriptor, struct epoll_event *events, int count, int timeout) {
  return MIGHT_WAIT(timeout != 0, REAL(epoll_wait)(descriptor, events, count, timeout));
}

EXPORTED int epoll_pwait(int descriptor, struct epoll_event *events, int count, int timeout,
                         const sigset_t *mask) {
  return MIGHT_WAIT(timeout != 0, REAL(epoll_pwait)(descriptor, events, count, timeout, mask));
}

static bool is_zero(const struct timespec *time) {
  return time != NULL && time->tv_sec == 0 && time->tv_nsec == 0;
}

EXPORTED int epoll_pwait2(int descriptor, struct epoll_event *events, int count,
                          const struct timespec *timeout, const sigset_t *mask) {
  return MIGHT_WAIT(!is_zero(timeout),
                    REAL(epoll_pwait2)(descriptor, events, count, timeout, mask));
}

EXPORTED int poll(struct pollfd *descriptors, nfds_t count, int timeout) {
  return MIGHT_WAIT(timeout != 0, REAL(poll)(descriptors, count, timeout));
}

EXPORTED int __poll_chk(struct pollfd *descriptors, nfds_t count, int timeout, size_t bytes) {
  if (bytes / sizeof *descriptors < count)
    abort();
  return poll(descriptors, count, timeout);
}

EXPORTED int ppoll(struct pollfd *descriptors, nfds_t count, const struct timespec *timeout,
                   const sigset_t *mask) {
  return MIGHT_WAIT(!is_zero(timeout), REAL(ppoll)(descriptors, count, timeout, mask));
}

EXPORTED int __ppoll_chk(struct pollfd *descriptors, nfds_t count, const struct timespec *timeout,
                         const sigset_t *mask, size_t bytes) {
  if (bytes / sizeof *descriptors < count)
    abort();
  return ppoll(descriptors, count, timeout, mask);
}

EXPORTED int select(int count, fd_set *restrict reads, fd_set *restrict writes,
                    fd_set *restrict others, struct timeval *restrict timeout) {
  bool is_short = timeout != NULL && timeout->tv_sec == 0 && timeout->tv_usec == 0;
  return MIGHT_WAIT(!is_short, REAL(select)(count, reads, writes, others, timeout));
}

EXPORTED int pselect(int count, fd_set *restrict reads, fd_set *restrict writes,
                     fd_set *restrict others, const struct timespec *restrict timeout,
                     const sigset_t *restrict mask) {
  return MIGHT_WAIT(!is_zero(timeout),
                    REAL(pselect)(count, reads, writes, others, timeout, mask));
}

EXPORTED int nanosleep(const struct timespec *time, struct timespec *rest) {
  return WAIT(0, REAL(nanosleep)(time, rest));
}

EXPORTED int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time,
                             struct timespec *rest) {
  return WAIT(0, REAL(clock_nanosleep)(clock, flags, time, rest));
}

EXPORTED int usleep(useconds_t time) { return WAIT(0, REAL(usleep)(time)); }
EXPORTED unsigned sleep(unsigned seconds) { return WAIT(0, REAL(sleep)(seconds)); }
EXPORTED int pause(void) { return WAIT(0, REAL(pause)()); }
EXPORTED int sigsuspend(const sigset_t *mask) { return WAIT(0, REAL(sigsuspend)(mask)); }

EXPORTED int sigwait(const sigset_t *restrict set, int *restrict number) {
  return WAIT(0, REAL(sigwait)(set, number));
}

EXPORTED int sigwaitinfo(const sigset_t *restrict set, siginfo_t *restrict information) {
  return WAIT(0, REAL(sigwaitinfo)(set, information));
}

EXPORTED int sigtimedwait(const sigset_t *restrict set, siginfo_t *restrict information,
                          const struct timespec *restrict limit) {
  return WAIT(0, REAL(sigtimedwait)(set, information, limit));
}

// A semaphore may be a lock: one that is free is taken, and nobody waits.
static bool must_wait(sem_t *semaphore) {
  int saved = errno;
  bool must = sem_trywait(semaphore) != 0;
  errno = saved;
  return must;
}

EXPORTED int sem_wait(sem_t *semaphore) {
  return must_wait(semaphore) ? WAIT(0, REAL(sem_wait)(semaphore)) : 0;
}

EXPORTED int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict limit) {
  return must_wait(semaphore) ? WAIT(0, REAL(sem_timedwait)(semaphore, limit)) : 0;
}

EXPORTED int sem_clockwait(sem_t *restrict semaphore, clockid_t clock,
                           const struct timespec *restrict limit) {
  return must_wait(semaphore) ? WAIT(0, REAL(sem_clockwait)(semaphore, clock, limit)) : 0;
}

EXPORTED int pthread_barrier_wait(pthread_barrier_t *barrier) {
  return WAIT(0, REAL(pthread_barrier_wait)(barrier));
}

EXPORTED pid_t wait4(pid_t child, int *status, int options, struct rusage *usage) {
  return MIGHT_WAIT((options & WNOHANG) == 0, REAL(wait4)(child, status, options, usage));
}

EXPORTED pid_t waitpid(pid_t child, int *status, int options) {
  return wait4(child, status, options, NULL);
}

EXPORTED pid_t wait(int *status) { return wait4(-1, status, 0, NULL); }

EXPORTED pid_t wait3(int *status, int options, struct rusage *usage) {
  return wait4(-1, status, options, usage);
}

EXPORTED int waitid(idtype_t kind, id_t child, siginfo_t *information, int options) {
  return MIGHT_WAIT((options & WNOHANG) == 0, REAL(waitid)(kind, child, information, options));
}

// Whether a call on the descriptor might wait. It is not asked whether something is there: another
// thread may take it first.
bool wrap_might_wait(int descriptor) {
  int saved = errno;
  bool might = (REAL(fcntl)(descriptor, F_GETFL) & O_NONBLOCK) == 0;
  errno = saved;
  return might;
}

// A blocking descriptor with nothing to read: the first try has said so.
static bool shall_wait(int descriptor, ssize_t result, int flags) {
  if (result >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK) || (flags & MSG_DONTWAIT))
    return false;
  return (REAL(fcntl)(descriptor, F_GETFL) & O_NONBLOCK) == 0;
}

EXPORTED ssize_t recvfrom(int descriptor, void *restrict buffer, size_t bytes, int flags,
                          struct sockaddr *restrict address, socklen_t *restrict length) {
  ssize_t result =
      REAL(recvfrom)(descriptor, buffer, bytes, flags | MSG_DONTWAIT, address, length);
  bool is_whole = (flags & MSG_WAITALL) == 0 || result <= 0 || (size_t)result == bytes;
  if (!is_whole) {  // the rest
    ssize_t more = recvfrom(descriptor, (char *)buffer + result, bytes - (size_t)result, flags,
                            address, length);
    return more > 0 ? result + more : result;
  }
  if (!shall_wait(descriptor, result, flags))
    return result;
  return WAIT(0, REAL(recvfrom)(descriptor, buffer, bytes, flags, address, length));
}

EXPORTED ssize_t __recvfrom_chk(int descriptor, void *buffer, size_t bytes, size_t room, int flags,
                                struct sockaddr *address, socklen_t *length) {
  if (bytes > room)
    abort();
  return recvfrom(descriptor, buffer, bytes, flags, address, length);
}

EXPORTED ssize_t recv(int descriptor, void *buffer, size_t bytes, int flags) {
  return recvfrom(descriptor, buffer, bytes, flags, NULL, NULL);
}

EXPORTED ssize_t __recv_chk(int descriptor, void *buffer, size_t bytes, size_t room, int flags) {
  if (bytes > room)
    abort();
  return recv(descriptor, buffer, bytes, flags);
}

EXPORTED ssize_t recvmsg(int descriptor, struct msghdr *message, int flags) {
  if (flags & MSG_WAITALL)
    return WAIT(0, REAL(recvmsg)(descriptor, message, flags));
  const struct msghdr before = *message;
  ssize_t result = REAL(recvmsg)(descriptor, message, flags | MSG_DONTWAIT);
  if (!shall_wait(descriptor, result, flags))
    return result;
  *message = before;
  return WAIT(0, REAL(recvmsg)(descriptor, message, flags));
}

EXPORTED int recvmmsg(int descriptor, struct mmsghdr *messages, unsigned count, int flags,
                      struct timespec *timeout) {
  bool waits = (flags & MSG_DONTWAIT) == 0 && wrap_might_wait(descriptor);
  return MIGHT_WAIT(waits, REAL(recvmmsg)(descriptor, messages, count, flags, timeout));
}

EXPORTED int accept4(int descriptor, struct sockaddr *restrict address,
                     socklen_t *restrict length, int flags) {
  bool waits = wrap_might_wait(descriptor);
  int result = MIGHT_WAIT(waits, REAL(accept4)(descriptor, address, length, flags));
  if (result >= 0)
    descriptor_forget(result);
  return result;
}

EXPORTED int accept(int descriptor, struct sockaddr *restrict address,
                    socklen_t *restrict length) {
  return accept4(descriptor, address, length, 0);
}

EXPORTED int connect(int descriptor, const struct sockaddr *address, socklen_t length) {
  bool waits = wrap_might_wait(descriptor);
  return MIGHT_WAIT(waits, REAL(connect)(descriptor, address, length));
}
