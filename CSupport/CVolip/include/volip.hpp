// volip.hpp: persistent memory for C++17, over volip.h. Nothing to link but libvolip.
//
//   using List = std::list<int, volip::allocator<int>>;
//
//   auto pool = volip::pool::map("list.pool", 64 << 20);
//   {
//     volip::section section(pool);                   // pstart
//     auto &list = volip::root<List>("list");         // made where there is none
//     list.push_front(42);                            // an ordinary std::list
//   }                                                 // pend; an exception rolls back instead
//
// Errors are exceptions of volip::error, with the code and the sentence of volip.h.
//
// What an abort takes back is the pool, and nothing else. Objects outside it (on the stack, on the
// heap) stay as they are: those that changed in the section stay changed, and pointers, references,
// iterators and containers among them that refer to memory which the section allocated refer to
// nothing any more. So what refers to such memory is declared after the section, and is destroyed
// before it ends.
//
// For a pool: types without virtual functions and without pointers out of the pool. The standard
// containers with volip::allocator are such types; what they look like belongs to the standard
// library, so a pool is for programs of one standard library (libstdc++ and libc++ differ).
#ifndef VOLIP_HPP
#define VOLIP_HPP

#include <volip.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>

namespace volip {

/// What failed: a code of volip.h and its sentence.
class error : public std::runtime_error {
public:
  error(volip_code code, const char *text) : std::runtime_error(text), code_(code) {}

  volip_code code() const noexcept { return code_; }

  /// Throws the last failure of the calling thread.
  [[noreturn]] static void raise() { throw error(volip_last_error(), volip_error_text()); }

  /// Throws for any code but VOLIP_OK.
  static void check(volip_code code) {
    if (code != VOLIP_OK)
      raise();
  }

private:
  volip_code code_;
};

/// The name of a type and its version, as its root keeps them. Of a type of your own whose meaning
/// changes without its name or size, specialize this and count.
template <class T> struct type_name {
  static const char *get() noexcept { return typeid(T).name(); }
};

/// An open pool. Moved, not copied; closed by its destructor.
class pool {
public:
  /// Opens the pool at `path`, or makes one of `byte_count` bytes where there is none.
  static pool map(const std::string &path, std::uint64_t byte_count,
                  const volip_options &options = {}) {
    return pool(volip_pmap(path.c_str(), byte_count, &options));
  }

  /// Opens a pool, and recovers it after a crash.
  static pool open(const std::string &path, const volip_options &options = {}) {
    return pool(volip_open(path.c_str(), &options));
  }

  /// Makes a pool of `byte_count` bytes, 1 MiB to 8 TiB.
  static pool create(const std::string &path, std::uint64_t byte_count,
                     const volip_options &options = {}) {
    return pool(volip_create(path.c_str(), byte_count, &options));
  }

  pool(pool &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}

  pool &operator=(pool &&other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }

  /// A section that the thread still has open in this pool is aborted first.
  ~pool() {
    while (handle_ != nullptr && volip_section_pool() == handle_)
      volip_pabort();
    if (handle_ != nullptr)
      volip_close(handle_);
  }

  /// Closes the pool. Unlike the destructor it tells of errors, and that a section is open.
  void close() {
    const volip_code code = volip_close(handle_);
    if (code != VOLIP_NESTED_SECTION)
      handle_ = nullptr;
    error::check(code);
  }

  /// The value of the root `name`, or nullptr where there is none. Wants no section.
  /// Errors: VOLIP_ROOT_LAYOUT_MISMATCH where it is of another type.
  template <class T> T *find(const char *name) const {
    void *found = volip_find_root(handle_, name, sizeof(T), type_name<T>::get());
    if (found == nullptr && volip_last_error() != VOLIP_NO_ROOT)
      error::raise();
    return static_cast<T *>(found);
  }

  /// For the functions of volip.h.
  volip_pool *handle() const noexcept { return handle_; }

private:
  explicit pool(volip_pool *handle) : handle_(handle) {
    if (handle == nullptr)
      error::raise();
  }

  volip_pool *handle_;
};

/// A section of the calling thread, from its construction to its destruction. Where it is destroyed
/// by an exception on its way out, the pool becomes what it was before.
class section {
public:
  explicit section(const pool &pool) : exceptions_(std::uncaught_exceptions()) {
    error::check(volip_pstart(pool.handle()));
  }

  /// Ends the section, if neither commit nor abort did. Throws what commit throws, but never while
  /// an exception is on its way.
  ~section() noexcept(false) {
    if (!is_open_)
      return;
    if (std::uncaught_exceptions() > exceptions_)
      volip_pabort();
    else
      error::check(volip_pend());
  }

  /// Ends the section: its writes are durable, with those of the section around it if there is one.
  void commit() {
    is_open_ = false;
    error::check(volip_pend());
  }

  /// Ends the section and takes its writes back, with those of the section around it.
  void abort() {
    is_open_ = false;
    error::check(volip_pabort());
  }

  section(const section &) = delete;
  section &operator=(const section &) = delete;

private:
  const int exceptions_;
  bool is_open_ = true;
};

/// Allocates in the pool whose section the calling thread has open. Has no state, so a container in
/// a pool is as large as any other. To allocate or free without a section is an error: thrown, and
/// from a destructor the end of the program, with what is wrong on standard error.
template <class T> class allocator {
public:
  using value_type = T;
  using propagate_on_container_move_assignment = std::true_type;
  using is_always_equal = std::true_type;

  allocator() noexcept = default;
  template <class U> allocator(const allocator<U> &) noexcept {}

  T *allocate(std::size_t count) {
    if (count > std::numeric_limits<std::size_t>::max() / 2 / sizeof(T))
      throw std::bad_array_new_length();
    void *memory = alignof(T) <= 16 ? volip_allocate(count * sizeof(T))
                                    : volip_allocate_aligned(count * sizeof(T), alignof(T));
    if (memory == nullptr)
      error::raise();
    return static_cast<T *>(memory);
  }

  void deallocate(T *memory, std::size_t) { error::check(volip_free(memory)); }
};

template <class T, class U>
constexpr bool operator==(const allocator<T> &, const allocator<U> &) noexcept {
  return true;
}

template <class T, class U>
constexpr bool operator!=(const allocator<T> &, const allocator<U> &) noexcept {
  return false;
}

/// The value of the root `name` in the pool whose section the calling thread has open; made from
/// `arguments` where there is none. Its address is the same for ever.
/// Errors: VOLIP_ROOT_LAYOUT_MISMATCH where it is of another type, VOLIP_NO_SECTION.
template <class T, class... Arguments> T &root(const char *name, Arguments &&...arguments) {
  static_assert(alignof(T) <= 64, "roots are aligned to 64 bytes");
  volip_pool *pool = volip_section_pool();
  if (pool == nullptr)
    throw error(VOLIP_NO_SECTION, "No section is open on this thread: declare one first.");
  const char *type = type_name<T>::get();
  void *found = volip_find_root(pool, name, sizeof(T), type);
  if (found != nullptr)
    return *static_cast<T *>(found);
  if (volip_last_error() != VOLIP_NO_ROOT)
    error::raise();
  void *memory = volip_root(pool, name, sizeof(T), type);
  if (memory == nullptr)
    error::raise();
  try {
    return *::new (memory) T(std::forward<Arguments>(arguments)...);
  } catch (...) {
    volip_remove_root(pool, name);
    throw;
  }
}

/// Gives a root's value back, destroyed first, and its name. Nothing where there is none.
template <class T> void remove_root(const char *name) {
  volip_pool *pool = volip_section_pool();
  if (pool == nullptr)
    throw error(VOLIP_NO_SECTION, "No section is open on this thread: declare one first.");
  void *found = volip_find_root(pool, name, sizeof(T), type_name<T>::get());
  if (found == nullptr && volip_last_error() == VOLIP_NO_ROOT)
    return;
  if (found == nullptr)
    error::raise();
  static_cast<T *>(found)->~T();
  error::check(volip_remove_root(pool, name));
}

} // namespace volip

#endif
