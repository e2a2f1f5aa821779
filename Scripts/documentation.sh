#!/usr/bin/env bash
# The documentation as pages for a browser, of the catalogue and of a debug build's public symbols:
# .build/documentation. Look at it with `python3 -m http.server -d .build/documentation`, under
# /documentation/volipmem. Needs the toolchain alone.
set -euo pipefail
cd "$(dirname "$0")/.."
products=.build/debug
graphs=.build/symbol-graphs
output=.build/documentation
rm -rf $graphs $output
mkdir -p $graphs

options=(-target x86_64-unknown-linux-gnu -sdk / -I $products/Modules -I CSupport/CLibpmem
  -I CSupport/CLibelf)
for shim in CVolimem CVolipPersistence CVolipWriteSet; do
  options+=(-Xcc "-fmodule-map-file=$products/$shim.build/module.modulemap")
done
for module in VolipMem VolipHeap VolipCommit VolipWriteSet VolipMachine VolipPool \
  VolipPersistence; do
  swift-symbolgraph-extract -module-name $module "${options[@]}" -minimum-access-level public \
    -output-dir $graphs > /dev/null
done
docc convert Sources/VolipMem/VolipMem.docc --additional-symbol-graph-dir $graphs \
  --fallback-display-name VolipMem --fallback-bundle-identifier volipmem --output-path $output \
  > .build/documentation.log 2>&1 || { cat .build/documentation.log >&2; exit 1; }
echo "$output/documentation/volipmem"
