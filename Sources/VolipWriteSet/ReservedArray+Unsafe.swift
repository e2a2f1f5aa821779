import Glibc
import VolipPool

/// Room for `capacity` trivial values, zero until written, that costs memory only where touched:
/// tables with an entry for each page of a pool, however large.
public final class ReservedArray<Element: BitwiseCopyable> {
  public let capacity: Int
  @usableFromInline let base: UnsafeMutablePointer<Element>

  public init(capacity: Int) throws(PoolError) {
    precondition(capacity > 0)
    let byteCount = capacity * MemoryLayout<Element>.stride
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
    let answer = attempt("mmap") {
      Int(bitPattern: mmap(nil, byteCount, PROT_READ | PROT_WRITE, flags, -1, 0))
    }
    guard answer >= 0, let memory = UnsafeMutableRawPointer(bitPattern: answer) else {
      throw answer == -Int(ENOMEM)
        ? .addressSpaceExhausted(bytes: UInt64(byteCount))
        : .system(operation: "mmap", errorNumber: Int32(-answer))
    }
    self.capacity = capacity
    // SAFETY: fresh zeroed pages, aligned to 4,096, of at least capacity elements.
    base = memory.bindMemory(to: Element.self, capacity: capacity)
  }

  deinit {
    munmap(base, capacity * MemoryLayout<Element>.stride)
  }

  @inlinable
  public subscript(index: Int) -> Element {
    @inline(__always)
    get {
      precondition(UInt(bitPattern: index) < UInt(bitPattern: capacity))
      return base[index]
    }
    @inline(__always)
    set {
      precondition(UInt(bitPattern: index) < UInt(bitPattern: capacity))
      base[index] = newValue
    }
  }
}
