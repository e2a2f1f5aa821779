import Glibc
import VolipMem

/// Every verb of the helper by name.
let verbs: [String: @Sendable ([String]) throws -> Void] = [
  "audit-bank": auditBank,
  "create-under-limit": createUnderLimit,
  "hold": hold,
  "huge-pool": hugePool,
  "lone-pages": lonePages,
  "make-bank": makeBank,
  "own-handler": ownHandler,
  "stray-store": strayStore,
  "transfer": transfer,
].merging(hostileVerbs) { _, second in second }
  .merging(survivalVerbs) { _, second in second }
  .merging(guestVerbs) { _, second in second }
  .merging(collectionVerbs) { _, second in second }
  .merging(laneVerbs) { _, second in second }

/// Opens a pool, says so, and keeps it open until standard input ends.
func hold(_ arguments: [String]) throws {
  let pool = try Pool.open(arguments[0])
  print("open")
  fflush(nil)
  while readLine() != nil {}
  try pool.close()
}
