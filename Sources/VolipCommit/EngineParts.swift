// EngineParts: what depends on the size of the pool and is made again when it grows.
//
// A class of constants, not properties of the engine: a variable that holds an object is retained
// and released around each call, 20 times in a section; the steps of a commit take the parts once,
// and their constants need none of it.

final class EngineParts {
  let memory: DurableMemory
  let image: ImageView
  let imageOffset: Int
  let tracker: any Tracker
  let writeSet: WriteSet
  let retention: Retention
  let blocks: ImageBlocks
  let redoLog: RedoLog
  /// Pages whose image failed in the comparison, until the section has rebuilt them.
  @exclusivity(unchecked) var lostPages: [Int] = []

  init(
    _ file: PoolFile, _ memory: DurableMemory, _ workingCopy: WorkingCopy,
    _ options: EngineOptions
  ) throws(PoolError) {
    let geometry = file.superblock.geometry
    self.memory = memory
    imageOffset = Int(geometry.imageOffset)
    image = ImageView(base: memory.address(imageOffset))
    tracker = try chooseTracker(options.tracker, workingCopy)
    writeSet = try WriteSet(pageCapacity: workingCopy.pageCount)
    retention = try Retention(
      pageCapacity: workingCopy.pageCount,
      trapTicks: options.retention ? trapTicks(tracker.kind) : 0)
    blocks = try ImageBlocks(file)
    redoLog = RedoLog(
      file.superblock, file.superblock.logRegion, memory: memory)
  }
}

/// The tracker that was asked for, or the first that works here.
private func chooseTracker(
  _ kind: TrackerKind?, _ workingCopy: WorkingCopy
) throws(PoolError) -> any Tracker {
  if let kind { return try makeTracker(kind, workingCopy) }
  // In the guest there is no falling back: a tracker of the host would be a silent loss of speed.
  if VirtualMachine.isEntered { return try makeTracker(.adaptive, workingCopy) }
  do throws(PoolError) {
    return try makeTracker(.pageMapScan, workingCopy)
  } catch {
    return try makeTracker(.writeProtect, workingCopy)
  }
}
