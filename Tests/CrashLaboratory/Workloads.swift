import PersistentHashmap
import VolipMem

extension Workload {
  /// All of them, for tests, `make test-crash` and `make test-crash-long` alike.
  public static let all: [Workload] = onCacheLines + onCacheLines.map(\.onMsync)

  private static let onCacheLines: [Workload] =
    writes + logs + sections + files + heaps + collections + buffers + lanes

  // MARK: Buffered sections

  private static let buffers = [
    Workload("buffered sections") { lab in
      let array = try lab.array(of: 200)
      for _ in 0..<14 {
        for _ in 0..<lab.random(0...5) {
          try lab.bufferedSection { lab.scatter(lab.random(1...6), in: array, 0...199, &$0) }
        }
        switch lab.random(0...6) {
        case 0: try lab.step { try $0.sync() }
        // Whoever reads what a buffered section wrote, and is acknowledged, has read durable bytes.
        case 4: try lab.section { _ in }
        case 5: try lab.abortedSection { _ in }
        case 6:
          try lab.step { pool in
            try pool.pstart(.buffered)
            try pool.pcommit()
            try pool.pend()
          }
        case 1: try lab.announcedSection { lab.scatter(3, in: array, 0...199, &$0) }
        case 2: try lab.abortedSection(.buffered) { lab.scatter(3, in: array, 0...199, &$0) }
        default: try lab.step { try $0.checkpoint() }
        }
      }
    },
    Workload("epochs beside page-tracked writes and lanes") { lab in
      let words = try lab.words(4 * 512)
      let array = try lab.array(of: 100)
      for round in 0..<12 {
        for _ in 0..<lab.random(1...3) {
          try lab.bufferedSection { lab.scatter(2, in: array, 0...99, &$0) }
        }
        switch round % 3 {
        case 0: try lab.section { _ in lab.scatter(2, in: words) }
        case 1: try lab.concurrentSection { lab.scatter(2, in: array, 0...99, &$0) }
        // Its lines go into the image, so it is durable at its end.
        default:
          try lab.step { pool in
            try pool.section(.buffered) { section in
              lab.scatter(1, in: array, 0...99, &section)
              try pool.section { _ in lab.scatter(2, in: words) }
            }
          }
        }
      }
    },
    Workload("a log full of buffered sections") { lab in
      let array = try lab.array(of: 3000)
      for _ in 0..<10 {
        try lab.bufferedSection { lab.scatter(lab.random(200...900), in: array, 0...2999, &$0) }
      }
    },
  ]

  // MARK: Announced writes

  private static let collections = [
    Workload("announced writes") { lab in
      let array = try lab.array(of: 200)
      for _ in 0..<25 {
        try lab.announcedSection { section in
          for _ in 0..<lab.random(1...6) {
            array.value.set(lab.random(0...199), to: lab.random(), in: &section)
          }
        }
      }
    },
    Workload("announced writes and others in one record") { lab in
      let words = try lab.words(4 * 512)
      let array = try lab.array(of: 100)
      for round in 0..<20 {
        try lab.section { section in
          lab.scatter(lab.random(0...4), in: words)
          for _ in 0..<lab.random(0...3) {
            array.value.set(lab.random(0...99), to: lab.random(), in: &section)
          }
        }
        guard round % 4 == 3 else { continue }
        try lab.abortedSection { section in
          lab.scatter(2, in: words)
          array.value.set(lab.random(0...99), to: lab.random(), in: &section)
        }
      }
    },
    Workload("a sorted dictionary grows and shrinks") { lab in
      var made: Ref<PersistentSortedDictionary<UInt64, UInt64>>?
      try lab.section { section in
        made = try section.pool.root("sorted", in: &section) { section in
          try PersistentSortedDictionary(in: &section)
        }
      }
      for round in 0..<24 {
        try lab.announcedSection { section in
          for _ in 0..<lab.random(1...20) {
            let key = lab.random() % 150
            if round % 12 < 6 {
              try made!.value.updateValue(key, forKey: key, in: &section)
            } else {
              try made!.value.removeValue(forKey: key, in: &section)
            }
          }
        }
      }
    },
  ]

  // MARK: Which bytes

  private static let writes = [
    Workload("one line") { lab in
      let words = try lab.words(8)
      for _ in 0..<25 { try lab.section { _ in words[lab.random(0...7)] = lab.random() } }
    },
    Workload("many pages") { lab in
      let words = try lab.words(30 * 512)
      for _ in 0..<12 { try lab.section { _ in lab.scatter(lab.random(1...40), in: words) } }
    },
    Workload("two threads share a commit") { lab in
      let words = try lab.words(30 * 512)
      for _ in 0..<12 { try lab.section { _ in lab.scatter(lab.random(1...40), in: words) } }
    }.with {
      $0.commitThreads = 2
      // What is retained is a matter of time, and the chunks are of retained pages, too.
      $0.isRetaining = false
    },
    Workload("over the ends of lines and pages") { lab in
      let bytes = UnsafeMutableRawPointer(try lab.words(16 * 512))
      for _ in 0..<16 {
        let edge = lab.random(1...15) * (lab.random(0...1) == 0 ? 4096 : 64)
        try lab.section { _ in
          for byte in edge - lab.random(1...30)..<edge + lab.random(1...80) {
            let value = UInt8(truncatingIfNeeded: lab.random())
            bytes.storeBytes(of: value, toByteOffset: byte, as: UInt8.self)
          }
        }
      }
    },
    Workload("zero and equal writes") { lab in
      let words = try lab.words(4 * 512)
      for round in 0..<20 {
        try lab.section { _ in words[round] = words[round] }
        try lab.section { _ in words[lab.random(0...2047)] = round % 3 == 0 ? 0 : lab.random() }
        try lab.section { _ in }
      }
    },
    Workload("there and back") { lab in
      let words = try lab.words(64)
      for round in 0..<24 { try lab.section { _ in words[round % 2 * 32] = UInt64(round / 2 % 2) } }
    },
  ]

  // MARK: The log

  private static let logs = [
    Workload("the log goes round") { lab in
      let words = try lab.words(12 * 512)
      for _ in 0..<40 { try lab.section { _ in lab.scatter(lab.random(20...120), in: words) } }
    },
    Workload("a full log grows") { lab in
      let words = try lab.words(40 * 512)
      for pages in [1, 18, 2, 34, 3] {
        for _ in 0..<3 { try lab.section { _ in lab.scatter(9, in: words) } }
        try lab.section { _ in lab.fill(words + lab.random(0...5) * 512, pages * 512) }
      }
      for _ in 0..<6 { try lab.section { _ in lab.scatter(60, in: words) } }
    },
    Workload("a section too large for the log") { lab in
      let words = try lab.words(20 * 512)
      for _ in 0..<3 {
        try lab.section { _ in lab.scatter(9, in: words) }
        try lab.refusedSection { _ in lab.fill(words, 20 * 512) }
        // As large as the log nearly: wherever the log was, there is room for it.
        try lab.section { _ in lab.fill(words, lab.random(4000...7800)) }
      }
    }.with { $0.logBytesMax = 64 << 10 },
    Workload("checkpoints in between") { lab in
      let words = try lab.words(8 * 512)
      for _ in 0..<14 {
        for _ in 0..<lab.random(0...3) { try lab.section { _ in lab.scatter(5, in: words) } }
        try lab.step { try $0.checkpoint() }
      }
    },
    // Sections that commit before, in and after the flush; another thread flushes.
    Workload("checkpoints beside sections") { lab in
      let words = try lab.words(8 * 512)
      let array = try lab.array(of: 100)
      for _ in 0..<9 {
        func sections() throws {
          for _ in 0..<lab.random(0...2) { try lab.section { _ in lab.scatter(4, in: words) } }
          try lab.announcedSection { lab.scatter(2, in: array, 0...99, &$0) }
        }
        try sections()
        var checkpoint: CheckpointBeside?
        try lab.step { checkpoint = try $0.engine.beginCheckpointBeside() }
        try sections()
        if let checkpoint { try lab.flush(checkpoint, besideFence: sections) }
        try sections()
        try lab.step { try $0.engine.endCheckpointBeside() }
      }
    },
    Workload("superblock updates alone") { lab in
      let words = try lab.words(8)
      for _ in 0..<20 {
        try lab.section { _ in words[0] = lab.random() }
        try lab.step { try $0.checkpoint() }
      }
    },
  ]

  // MARK: Sections

  private static let sections = [
    Workload("aborted and nested sections") { lab in
      let words = try lab.words(10 * 512)
      for _ in 0..<10 {
        try lab.section { _ in lab.scatter(4, in: words) }
        try lab.abortedSection { _ in lab.scatter(30, in: words) }
        try lab.section { _ in
          lab.scatter(2, in: words)
          try lab.pool.section { _ in lab.scatter(2, in: words) }
        }
        try lab.refusedSection { _ in
          lab.scatter(9, in: words)
          try lab.pool.pstart()
          try lab.pool.pabort()
        }
      }
    },
    Workload("pcommit") { lab in
      let words = try lab.words(10 * 512)
      try lab.pool.pstart()
      for _ in 0..<12 {
        lab.scatter(3, in: words)
        try lab.step { try $0.pcommit() }
      }
      try lab.step { try $0.pend() }
    },
    Workload("fences that fail") { lab in
      var words = try lab.words(10 * 512)
      for _ in 0..<8 {
        for _ in 0..<lab.random(0...3) { try lab.section { _ in lab.scatter(4, in: words) } }
        try lab.withFailingFence(after: lab.random(1...6)) {
          while true {
            try lab.section { _ in lab.scatter(3, in: words) }
            try lab.step { try $0.checkpoint() }
          }
        }
        words = try lab.existingWords()
      }
    },
    Workload("without retention") { lab in
      let words = try lab.words(8 * 512)
      for _ in 0..<15 { try lab.section { _ in lab.scatter(lab.random(1...9), in: words) } }
    }.with { $0.isRetaining = false },
  ]

  // MARK: The file

  private static let files = [
    Workload("closed and opened") { lab in
      var words = try lab.words(6 * 512)
      for _ in 0..<8 {
        for _ in 0..<lab.random(0...3) { try lab.section { _ in lab.scatter(5, in: words) } }
        try lab.reopen()
        words = try lab.existingWords()
      }
    },
    Workload("the pool grows") { lab in
      let words = try lab.words(6 * 512)
      for size in 5...8 as ClosedRange<UInt64> {
        for _ in 0..<3 { try lab.section { _ in lab.scatter(5, in: words) } }
        try lab.step { try $0.grow(byteCount: size << 18) }
        try lab.section { _ in lab.fill(try lab.pool.allocate(UInt64.self, count: 2000), 2000) }
      }
    },
  ]

  // MARK: The heap

  private static let heaps = [
    Workload("roots") { lab in
      lab.owns { [] }
      for number in 0..<14 {
        try lab.section { section in
          let name = "root \(number % 9)"
          if number >= 9 { try lab.pool.removeRoot(name, in: &section) }
          _ = try lab.pool.root(name, in: &section) { lab.random() }
        }
      }
    },
    Workload("blocks allocated and freed") { lab in
      try lab.blocks { lab.random(0...9) < 7 ? lab.random(1...300) : lab.random(300...5000) }
    },
    Workload("large runs") { lab in try lab.blocks { lab.random(4097...24_000) } }
      .with { $0.fileBytes = 1280 << 10 },
    Workload("allocated and freed in one section") { lab in
      lab.owns { [] }
      for _ in 0..<15 {
        try lab.section { _ in
          let blocks = try (0..<6).map { _ in
            try lab.pool.allocate(byteCount: lab.random(1...9000))
          }
          for block in blocks.reversed() { try lab.pool.deallocate(block) }
        }
      }
    },
    Workload("the hash map of the demo") { lab in
      var map: UnsafeMutablePointer<HashMap>?
      lab.owns {
        var blocks: [UnsafeRawPointer] = []
        map?.pointee.forEachBlock { blocks.append($0) }
        return blocks
      }
      try lab.section { section in
        map = try lab.pool.root("map", in: &section) { try HashMap(capacity: 8, in: lab.pool) }
      }
      for _ in 0..<30 {
        try lab.section { _ in
          for _ in 0..<lab.random(1...6) {
            let key = lab.random() % 60
            if lab.random(0...3) == 0 {
              _ = try map!.pointee.remove(key, in: lab.pool)
            } else {
              try map!.pointee.insert(key, lab.random(), in: lab.pool)
            }
          }
        }
      }
    },
  ]
}

// MARK: What workloads write

extension LaboratoryPool {
  /// A block of words that a root keeps, zero at first.
  func words(_ count: Int) throws -> UnsafeMutablePointer<UInt64> {
    try section { section in
      let root = try pool.root("words", in: &section) { UnsafeMutablePointer<UInt64>?.none }
      let fresh = try pool.allocate(UInt64.self, count: count)
      fresh.initialize(repeating: 0, count: count)
      root.pointee = fresh
      wordCount = count
    }
    return try existingWords()
  }

  /// The same after the pool was opened again.
  func existingWords() throws -> UnsafeMutablePointer<UInt64> {
    try pool.root("words", as: UnsafeMutablePointer<UInt64>?.self)!.pointee!
  }

  func scatter(_ count: Int, in words: UnsafeMutablePointer<UInt64>) {
    for _ in 0..<count { words[random(0...wordCount - 1)] = random() }
  }

  func fill(_ words: UnsafeMutablePointer<UInt64>, _ count: Int) {
    for index in 0..<count { words[index] = random() }
  }

  /// Allocates, frees and reallocates blocks of random sizes.
  func blocks(_ size: () -> Int) throws {
    var live: [UnsafeMutableRawPointer] = []
    owns { live.map { UnsafeRawPointer($0) } }
    for _ in 0..<14 {
      try section { _ in
        for _ in 0..<random(1...4) {
          let byteCount = size()
          if live.count > 5 || (random(0...2) == 0 && !live.isEmpty) {
            try pool.deallocate(live.remove(at: random(0...live.count - 1)))
          } else if random(0...4) == 0, let last = live.popLast() {
            live.append(try pool.reallocate(last, byteCount: byteCount))
          } else {
            let block = try pool.allocate(byteCount: byteCount)
            block.storeBytes(of: random(), as: UInt64.self)
            live.append(block)
          }
        }
      }
    }
  }
}
