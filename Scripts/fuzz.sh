#!/usr/bin/env bash
# libFuzzer with AddressSanitizer over pools that are opened, recovered, checked, walked and used.
# Usage: fuzz.sh [runs] [processes]; more options for libFuzzer in FUZZ_ARGUMENTS. Inputs that reach
# something new are kept in .build/fuzzer/corpus, one that ends the process in .build/fuzzer/found.
# Ends with `executions N, findings N`.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-100000}
processes=${2:-2}
scratch=.build/fuzzer
VOLIP_FUZZER=1 ${SWIFT:-swift} build -c release --scratch-path $scratch --product volip-fuzzer \
  --sanitize fuzzer --sanitize address \
  -Xswiftc -sanitize-coverage=edge,inline-8bit-counters,pc-table,trace-cmp >&2
mkdir -p $scratch/corpus $scratch/found $scratch/logs
rm -f $scratch/logs/*
# Pools have handlers of their own for SIGSEGV and SIGBUS.
export ASAN_OPTIONS=symbolize=0:allow_user_segv_handler=1:detect_leaks=0:malloc_context_size=0
ASAN_OPTIONS+=:quarantine_size_mb=16
export SWIFT_BACKTRACE=enable=no
status=0
children=()
for ((i = 0; i < processes; i++)); do
  $scratch/release/volip-fuzzer $scratch/corpus Tests/HostilePoolTests/Corpus \
    -runs=$((runs / processes)) -max_len=160 -len_control=0 -reload=1 -timeout=20 \
    -artifact_prefix=$scratch/found/ -print_final_stats=1 ${FUZZ_ARGUMENTS:-} \
    > $scratch/logs/$i 2>&1 &
  children+=($!)
done
for child in "${children[@]}"; do wait "$child" || status=1; done
executions=$(awk '/number_of_executed_units/ {n += $2} END {print n + 0}' $scratch/logs/*)
echo "executions $executions, findings $(find $scratch/found -type f | wc -l)"
exit $status
