import Dispatch
import Foundation
import Synchronization

func useQueues() {
  let results = Mutex<[Int]>([])
  let group = DispatchGroup()
  let queue = DispatchQueue(label: "concurrent", attributes: .concurrent)
  for index in 0..<100 {
    queue.async(group: group) { results.withLock { $0.append(index) } }
  }
  group.wait()
  print("queue", results.withLock { $0.sorted() == Array(0..<100) })
  let serial = DispatchQueue(label: "serial")
  let order = Mutex<[Int]>([])
  for index in 0..<100 { serial.async { order.withLock { $0.append(index) } } }
  serial.sync {}
  print("serial", order.withLock { $0 == Array(0..<100) })
  let total = Mutex(0)
  DispatchQueue.concurrentPerform(iterations: 1000) { index in total.withLock { $0 += index } }
  print("perform", total.withLock { $0 })
  let semaphore = DispatchSemaphore(value: 0)
  DispatchQueue.global().asyncAfter(deadline: .now() + .milliseconds(5)) { semaphore.signal() }
  print("timer", semaphore.wait(timeout: .now() + .seconds(60)) == .success)
  let source = DispatchSource.makeTimerSource(queue: queue)
  let ticks = Mutex(0)
  source.setEventHandler {
    if ticks.withLock({
      $0 += 1; return $0
    }) == 3 {
      semaphore.signal()
    }
  }
  source.schedule(deadline: .now(), repeating: .milliseconds(1))
  source.resume()
  print("source", semaphore.wait(timeout: .now() + .seconds(60)) == .success)
  source.cancel()
}

func useThreads() {
  let values = Mutex<[Int]>([])
  let done = DispatchSemaphore(value: 0)
  for index in 0..<20 {
    let thread = Thread {
      Thread.current.threadDictionary["index"] = index
      values.withLock { $0.append(Thread.current.threadDictionary["index"] as? Int ?? -1) }
      done.signal()
    }
    thread.stackSize = 1 << 20
    thread.start()
  }
  for _ in 0..<20 { done.wait() }
  print("threads", values.withLock { $0.sorted() == Array(0..<20) }, Thread.isMainThread)
  let condition = NSCondition()
  nonisolated(unsafe) var isReady = false
  let waiter = Thread {
    condition.lock()
    isReady = true
    condition.signal()
    condition.unlock()
  }
  condition.lock()
  waiter.start()
  while !isReady { condition.wait() }
  condition.unlock()
  print("condition", isReady)
}

func useMutexes() {
  let shared = Mutex<[String: Int]>([:])
  let counter = Atomic(0)
  DispatchQueue.concurrentPerform(iterations: 8) { thread in
    for index in 0..<2000 {
      shared.withLock { $0["\(index % 10)", default: 0] += thread }
      counter.add(1, ordering: .relaxed)
    }
  }
  print("mutex", shared.withLock { $0.values.reduce(0, +) }, counter.load(ordering: .relaxed))
}

func useTasks() async {
  let squares = await withTaskGroup(of: Int.self) { group in
    for index in 0..<200 {
      group.addTask {
        await Task.yield()
        return index * index
      }
    }
    return await group.reduce(0, +)
  }
  print("group", squares)
  async let one = fibonacci(18)
  async let other = fibonacci(17)
  print("let", await one + other)
  let task = Task.detached {
    while !Task.isCancelled { await Task.yield() }
    return "cancelled"
  }
  task.cancel()
  print("task", await task.value)
  try? await Task.sleep(for: .milliseconds(2))
  let (stream, continuation) = AsyncStream.makeStream(of: Int.self)
  Task.detached {
    for index in 0..<50 { continuation.yield(index) }
    continuation.finish()
  }
  print("stream", await stream.reduce(0, +))
}

private func fibonacci(_ index: Int) async -> Int {
  if index < 2 { return index }
  return await fibonacci(index - 1) + fibonacci(index - 2)
}

private actor Account {
  private(set) var balance = 0

  func deposit(_ amount: Int) { balance += amount }
}

func useActors() async {
  let account = Account()
  await withTaskGroup(of: Void.self) { group in
    for amount in 1...500 { group.addTask { await account.deposit(amount) } }
  }
  print("actor", await account.balance)
}
