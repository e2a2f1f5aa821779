// The C library's own functions behind the interposed ones.
#ifndef CVOLIPWRAP_REAL_H
#define CVOLIPWRAP_REAL_H

#include <aio.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define REAL_FUNCTIONS(X)                                                                        \
  X(accept) X(accept4) X(clock_nanosleep) X(close) X(close_range) X(connect) X(copy_file_range)  \
  X(creat) X(dup) X(dup2) X(dup3) X(epoll_pwait) X(epoll_pwait2) X(epoll_wait) X(execv)          \
  X(execve) X(execvp) X(execvpe) X(fallocate) X(fcntl) X(fdatasync) X(fexecve) X(fopen) X(_Fork) \
  X(fsync) X(ftruncate) X(lseek) X(madvise) X(mmap) X(mremap) X(msync) X(munmap) X(nanosleep)    \
  X(open) X(openat) X(pause) X(pipe2) X(poll) X(ppoll) X(pread) X(preadv) X(preadv2)             \
  X(pselect) X(pthread_barrier_wait) X(pthread_cond_clockwait) X(pthread_cond_timedwait)         \
  X(pthread_cond_wait) X(pthread_create) X(pthread_join) X(pthread_mutex_clocklock)              \
  X(pthread_mutex_lock) X(pthread_mutex_timedlock) X(pthread_mutex_trylock)                      \
  X(pthread_mutex_unlock) X(pthread_rwlock_clockrdlock) X(pthread_rwlock_clockwrlock)            \
  X(pthread_rwlock_rdlock) X(pthread_rwlock_timedrdlock) X(pthread_rwlock_timedwrlock)           \
  X(pthread_rwlock_tryrdlock) X(pthread_rwlock_trywrlock) X(pthread_rwlock_unlock)               \
  X(pthread_rwlock_wrlock) X(pthread_spin_lock) X(pthread_spin_trylock) X(pthread_spin_unlock)   \
  X(pthread_timedjoin_np) X(pwrite) X(pwritev) X(pwritev2) X(quick_exit) X(read) X(readv)        \
  X(recv) X(recvfrom) X(recvmmsg) X(recvmsg) X(select) X(sem_clockwait) X(sem_timedwait)         \
  X(sem_wait) X(send) X(sendfile) X(sendmmsg) X(sendmsg) X(sendto) X(shutdown) X(sigaction)      \
  X(sigsuspend) X(sigtimedwait) X(sigwait) X(sigwaitinfo) X(sleep) X(socketpair) X(splice)       \
  X(syscall) X(tee) X(truncate) X(usleep) X(vmsplice) X(wait4) X(waitid) X(write) X(writev)      \
  X(_exit) X(sync_file_range) X(unlinkat) X(renameat2) X(fclose) X(thrd_create) X(thrd_join)     \
  X(thrd_sleep) X(mtx_lock) X(mtx_trylock) X(mtx_timedlock) X(mtx_unlock) X(cnd_wait)            \
  X(cnd_timedwait) X(timer_create) X(mq_notify) X(fdopen) X(freopen) X(posix_spawn)              \
  X(posix_spawnp) X(epoll_ctl)

struct real {
#define X(name) __typeof__(name) *name;
  REAL_FUNCTIONS(X)
#undef X
};
extern struct real real_functions;
/// Looks all of them up, once.
void real_prepare(void);

/// A function of the C library; before this library's constructor others' may call.
#define REAL(name)                       \
  (__builtin_expect(real_functions.name == NULL, 0) ? (real_prepare(), real_functions.name) \
                                                    : real_functions.name)

#endif
