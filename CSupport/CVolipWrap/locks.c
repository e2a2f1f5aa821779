// Locks that a thread holds: while it has one, its waits are no safe points.
//
// A lock that another thread unlocks than the one that took it stays counted for the taker, which
// has no safe point any more; who unlocks it while holding another one has one too many.
#define _GNU_SOURCE
#include "internal.h"

static int taken(int result) {
  if (result == 0 || result == EOWNERDEAD)
    wrap_self.locks++;
  return result;
}

static int released(int result) {
  if (result == 0 && wrap_self.locks > 0)
    wrap_self.locks--;
  return result;
}

#define LOCK(name, parameters, ...) \
  EXPORTED int name parameters { return taken(REAL(name)(__VA_ARGS__)); }
#define UNLOCK(name, type) \
  EXPORTED int name(type *lock) { return released(REAL(name)(lock)); }

LOCK(pthread_mutex_lock, (pthread_mutex_t * lock), lock)
LOCK(pthread_mutex_trylock, (pthread_mutex_t * lock), lock)
LOCK(pthread_mutex_timedlock,
     (pthread_mutex_t *restrict lock, const struct timespec *restrict limit), lock, limit)
LOCK(pthread_mutex_clocklock,
     (pthread_mutex_t *restrict lock, clockid_t clock, const struct timespec *restrict limit), lock,
     clock, limit)
UNLOCK(pthread_mutex_unlock, pthread_mutex_t)

LOCK(pthread_rwlock_rdlock, (pthread_rwlock_t * lock), lock)
LOCK(pthread_rwlock_wrlock, (pthread_rwlock_t * lock), lock)
LOCK(pthread_rwlock_tryrdlock, (pthread_rwlock_t * lock), lock)
LOCK(pthread_rwlock_trywrlock, (pthread_rwlock_t * lock), lock)
LOCK(pthread_rwlock_timedrdlock,
     (pthread_rwlock_t *restrict lock, const struct timespec *restrict limit), lock, limit)
LOCK(pthread_rwlock_timedwrlock,
     (pthread_rwlock_t *restrict lock, const struct timespec *restrict limit), lock, limit)
LOCK(pthread_rwlock_clockrdlock,
     (pthread_rwlock_t *restrict lock, clockid_t clock, const struct timespec *restrict limit),
     lock, clock, limit)
LOCK(pthread_rwlock_clockwrlock,
     (pthread_rwlock_t *restrict lock, clockid_t clock, const struct timespec *restrict limit),
     lock, clock, limit)
UNLOCK(pthread_rwlock_unlock, pthread_rwlock_t)

LOCK(pthread_spin_lock, (pthread_spinlock_t * lock), lock)
LOCK(pthread_spin_trylock, (pthread_spinlock_t * lock), lock)
EXPORTED int pthread_spin_unlock(pthread_spinlock_t *lock) {
  return released(REAL(pthread_spin_unlock)(lock));
}

// Those of C11; thrd_success is 0.
LOCK(mtx_lock, (mtx_t * lock), lock)
LOCK(mtx_trylock, (mtx_t * lock), lock)
LOCK(mtx_timedlock, (mtx_t *restrict lock, const struct timespec *restrict limit), lock, limit)
UNLOCK(mtx_unlock, mtx_t)

// A condition wait releases its own mutex, and has it again when it returns. A thread that stops at
// the gate gives it back meanwhile: somebody else may want it, who is waited for. For the program
// that is a wake-up without a reason, which it must expect.

#define CONDITION_WAIT(mutex, call)        \
  ({                                       \
    bool is_waiting_ = gate_begin_wait(1); \
    int result_ = (call);                  \
    if (is_waiting_)                       \
      end_condition_wait(mutex);           \
    result_;                               \
  })

static void end_condition_wait(pthread_mutex_t *mutex) {
  if (gate_try_end_wait())
    return;
  REAL(pthread_mutex_unlock)(mutex);
  gate_end_wait();
  REAL(pthread_mutex_lock)(mutex);
}

EXPORTED int pthread_cond_wait(pthread_cond_t *restrict condition,
                               pthread_mutex_t *restrict mutex) {
  return CONDITION_WAIT(mutex, REAL(pthread_cond_wait)(condition, mutex));
}

EXPORTED int pthread_cond_timedwait(pthread_cond_t *restrict condition,
                                    pthread_mutex_t *restrict mutex,
                                    const struct timespec *restrict limit) {
  return CONDITION_WAIT(mutex, REAL(pthread_cond_timedwait)(condition, mutex, limit));
}

EXPORTED int pthread_cond_clockwait(pthread_cond_t *restrict condition,
                                    pthread_mutex_t *restrict mutex, clockid_t clock,
                                    const struct timespec *restrict limit) {
  return CONDITION_WAIT(mutex, REAL(pthread_cond_clockwait)(condition, mutex, clock, limit));
}

// A mtx_t is a pthread_mutex_t here, as a cnd_t is a condition.
EXPORTED int cnd_wait(cnd_t *condition, mtx_t *mutex) {
  return CONDITION_WAIT((pthread_mutex_t *)mutex, REAL(cnd_wait)(condition, mutex));
}

EXPORTED int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex,
                           const struct timespec *restrict limit) {
  return CONDITION_WAIT((pthread_mutex_t *)mutex, REAL(cnd_timedwait)(condition, mutex, limit));
}
