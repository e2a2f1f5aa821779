#!/usr/bin/env bash
# The host's side under ThreadSanitizer: durable memory, pool files, trackers with two threads, the
# heap, sections of many threads, in builds of their own. Left out: guest mode, whose threads run on
# processors that the sanitizer does not see; tests that start helpers; and of the commit's tests
# all that have one thread. A report ends the run with exit status 66.
set -euo pipefail
cd "$(dirname "$0")/.."
export TSAN_OPTIONS=suppressions=$PWD/Scripts/tsan-suppressions.txt
TSAN_OPTIONS+=:halt_on_error=1:exitcode=66:handle_segv=0:handle_sigbus=0
export SWIFT_BACKTRACE=enable=no
exec ${SWIFT:-swift} test --sanitize thread --scratch-path .build/tsan --disable-xctest \
  --filter 'VolipPersistenceTests|VolipPoolTests|VolipWriteSetTests|VolipHeapTests' \
  --filter 'VolipCommitTests.*(sectionsOfTwoThreads|threadsThatEnd|aThreadThat)' \
  --filter 'VolipCommitTests.(CommitThreadsTests|CheckpointThreadTests|LaneTests|GroupTests)'
