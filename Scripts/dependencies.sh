#!/usr/bin/env bash
# What the build needs beyond a Swift toolchain, make and a C compiler: libpmem, libelf and
# pkg-config, which tells the package manager where they are; with `ratios` libpmemobj and LMDB too,
# with `bench` matplotlib as well, with `memcached` or `peers` those. Quick when all of it is there;
# installs what is missing as root on Debian and its kin; else says what to install.
set -euo pipefail

# What to look for and the Debian package that has it.
missing=()
command -v pkg-config > /dev/null || missing+=(pkg-config)
has_library() {
  command -v pkg-config > /dev/null && pkg-config --exists "$1"
}
has_library libpmem || missing+=(libpmem-dev)
has_library libelf || missing+=(libelf-dev)
if [ "${1:-}" = bench ] || [ "${1:-}" = ratios ]; then # what is measured beside us
  has_library libpmemobj || missing+=(libpmemobj-dev)
  has_library lmdb || missing+=(liblmdb-dev)
fi
if [ "${1:-}" = bench ]; then # what draws
  python3 -c 'import matplotlib' 2> /dev/null ||
    /usr/bin/python3 -c 'import matplotlib' 2> /dev/null || missing+=(python3-matplotlib)
fi
if [ "${1:-}" = memcached ]; then # what is wrapped
  command -v memcached > /dev/null || missing+=(memcached)
  [ -d /usr/lib/python3/dist-packages/pymemcache ] || missing+=(python3-pymemcache)
fi
if [ "${1:-}" = peers ]; then # what is killed
  command -v kchashtest > /dev/null || missing+=(kyotocabinet-utils)
  command -v mdb_dump > /dev/null || missing+=(lmdb-utils)
  command -v sqlite3 > /dev/null || missing+=(sqlite3)
  has_library lmdb || missing+=(liblmdb-dev)
  has_library kyotocabinet || missing+=(libkyotocabinet-dev)
fi
command -v git > /dev/null || missing+=(git) # the package manager fetches packages with it

if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi

if ! command -v apt-get > /dev/null; then
  echo "Missing: ${missing[*]} (Debian's names). Install them with this system's package manager."
  exit 1
fi >&2
if [ "$(id -u)" -ne 0 ]; then
  echo "Missing: ${missing[*]}. Install them with: sudo apt-get install ${missing[*]}"
  exit 1
fi >&2

install_missing() {
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

echo "Installing ${missing[*]}"
# A machine that never ran an update has no lists, or lists of versions that are gone.
if ! install_missing > /dev/null 2>&1; then
  apt-get update -qq
  install_missing > /dev/null
fi
