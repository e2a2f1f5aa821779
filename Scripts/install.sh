#!/usr/bin/env bash
# Copies what a build made to where it is installed: install.sh BUILD PREFIX, below $DESTDIR.
#
#   bin/volip                     the command
#   lib/libvolip.so.VERSION       for C and C++, with the links that loader and linker want
#   lib/libVolip{Preload,Wrap}.so what `volip run` preloads; it looks for them in ../lib
#   lib/pkgconfig/volip.pc
#   include/volip.h, volip.hpp
#   share/man, share/*            pages and completions, if `make man` made them
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
prefix=$2
root=${DESTDIR:-}$prefix
headers=CSupport/CVolip/include

version=$(sed -n 's/^#define VOLIP_VERSION "\(.*\)"/\1/p' "$headers/volip.h")
library=libvolip.so.$version

install -d "$root"/{bin,include,lib/pkgconfig}
install -m 755 "$build/volip" "$root/bin/volip"
strip --strip-unneeded "$root/bin/volip"
# A new file in the old one's place: programs that run with the old one keep it.
install -m 755 "$build/libVolipC.so" "$root/lib/$library"
strip --strip-unneeded "$root/lib/$library"
ln -sf "$library" "$root/lib/${library%.*.*}"
ln -sf "${library%.*.*}" "$root/lib/libvolip.so"
for preloaded in libVolipPreload.so libVolipWrap.so; do
  install -m 755 "$build/$preloaded" "$root/lib/$preloaded"
  strip --strip-unneeded "$root/lib/$preloaded"
done
install -m 644 "$headers/volip.h" "$headers/volip.hpp" "$root/include"
cat > "$root/lib/pkgconfig/volip.pc" << PC
prefix=$prefix
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: volip
Description: Persistent memory with failure-atomic sections
Version: $version
Libs: -L\${libdir} -lvolip
Cflags: -I\${includedir}
PC

# What `make man` leaves: pages, and completions under the names that shells look for.
made=.build/share
if [ -d "$made" ]; then
  install -d "$root/share"
  cp -R "$made/." "$root/share"
fi
