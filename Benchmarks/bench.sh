#!/usr/bin/env bash
# The hash map's figures with all options given; then what trackers and commits cost, collections
# and lanes, and pictures of all of it in results. On standard output, with --json, are the hash
# map's figures alone.
set -euo pipefail
cd "$(dirname "$0")"
bench=.build/release/volip-bench
results=results
mkdir -p $results
rm -f $results/latest.json
$bench hashmap --save $results/latest.json "$@"

others=()
exec 3>&1
for option in "$@"; do
  case $option in
    --quick) others+=(--quick) ;;
    --json) exec 3> /dev/null ;;
  esac
done
mode=host
[ -w /dev/kvm ] && mode=all
for each in primitives commit; do
  $bench $each --mode $mode --save $results/latest.json "${others[@]}" >&3
done
for each in collections lanes; do
  $bench $each --save $results/latest.json "${others[@]}" >&3
done
# The system's, where another one in the path has no matplotlib.
python=python3
$python -c 'import matplotlib' 2> /dev/null || python=/usr/bin/python3
$python plot.py $results/latest.json -o $results || true # says what is missing
