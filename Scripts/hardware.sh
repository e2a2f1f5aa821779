#!/usr/bin/env bash
# Guest mode on real virtualization, functionally: QEMU emulates a processor with SVM and nested
# paging, a Debian kernel in it offers /dev/kvm, and the test helper enters guest mode there. What
# differs from shadow paging is tested: system calls that arrive at level 0, guest-physical windows
# (40 physical bits), flushes that really are needed. Nothing is timed. Says `hardware N run, N
# failed`. Then power cuts on an emulated NVDIMM: see power-cuts.py; CUTS says how many, 20 if
# nothing does, 0 for none. Exit status 0 if nothing failed, also when it had to be skipped, with
# the reason.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
  echo "hardware 0 run, 0 failed: skipped, $1"
  exit 0
}

helper=${1:-.build/debug/volip-test-helper}
[ -x "$helper" ] || skip "no $helper"
if ! command -v qemu-system-x86_64 > /dev/null || ! command -v busybox > /dev/null ||
  ! command -v cpio > /dev/null; then
  [ "$(id -u)" -eq 0 ] || skip "qemu-system-x86, busybox-static and cpio are not installed"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    qemu-system-x86 busybox-static cpio > /dev/null 2>&1 || skip "QEMU could not be installed"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kernel_package=$(apt-cache depends linux-image-amd64 2> /dev/null |
  awk '/Depends: linux-image/ {print $2; exit}')
[ -n "$kernel_package" ] || skip "no kernel package is known"
(cd "$work" && apt-get download "$kernel_package" > /dev/null 2>&1) ||
  skip "$kernel_package could not be downloaded"
dpkg-deb -x "$work"/linux-image-*.deb "$work/kernel"

root=$work/root
mkdir -p "$root"/{bin,proc,sys,dev,tmp,pools}
cp "$(command -v busybox)" "$root/bin/"
ln -s busybox "$root/bin/sh"
# In the order in which they are loaded.
modules="irqbypass ccp kvm kvm-amd libnvdimm nfit nd_btt nd_pmem crc16 mbcache jbd2 crc32c_generic
  crc32c-intel ext4"
for module in $modules; do
  find "$work/kernel" -name "$module.ko" -exec cp {} "$root/" \;
done
cp "$helper" "$root/helper"
ldd "$helper" | awk '/=> \// {print $3} /ld-linux/ {print $1}' | while read -r library; do
  mkdir -p "$root/$(dirname "$library")"
  cp -L "$library" "$root/$library"
done

# The kernel changes the code of its scheduler when the first virtual machine comes and when the last
# one goes; QEMU's processors are threads of their own, and about one time in a hundred both go round
# in the breakpoints of that change for ever. So the change is made while there is one processor, and
# a virtual machine is there from then on.
cat > "$root/hold" << 'HOLD'
#!/bin/sh
busybox mkdir /held
busybox mount -t tmpfs none /held
echo 0 > /sys/devices/system/cpu/cpu1/online
/helper make-bank /held/pool > /held/said 2>&1
busybox sleep 1000000 | /helper hold /held/pool >> /held/said 2>&1 &
until busybox grep -q open /held/said; do busybox sleep 0.2; done
echo 1 > /sys/devices/system/cpu/cpu1/online
HOLD
chmod +x "$root/hold"

# A line is a check: what the helper has to say, and its arguments.
cat > "$root/checks" << 'CHECKS'
level 0|guest-facts
exits 0|guest-exits /pools/exits.pool dirty-bits
reported true word 1|guest-stray /pools/stray.pool dirty-bits store
lost 0|guest-short-sections /pools/dirty1.pool 2000 1 dirty-bits
lost 0|guest-short-sections /pools/dirty4.pool 2000 4 dirty-bits
lost 0|guest-short-sections /pools/detect1.pool 2000 1 detect-on-write
lost 0|guest-short-sections /pools/detect4.pool 2000 4 detect-on-write
lost 0|guest-short-sections /pools/adaptive2.pool 2000 2 adaptive
threads 200|guest-threads 200
missed 0|guest-spinner dirty-bits 200
missed 0|guest-spinner detect-on-write 200
missed 0|guest-spinner dirty-log 200
missed .0, 0. extra .0, 0. slots 1 1 0|guest-log-pools 100 1
left 50 of 50|guest-log-leave 50
wrong 0 grown true logged 0|guest-pool-lives dirty-log 1 /pools/lives1.pool /pools/lives2.pool
lost 0|guest-short-sections /pools/log1.pool 2000 1 dirty-log
lost 0|guest-short-sections /pools/log4.pool 2000 4 dirty-log
SIGSEGV, write to address|guest-fault null
wrong 0 left 0|guest-companion signals
wrong 0|guest-companion threads 2
short 0 wrong 0 total true|guest-companion long-write
signals 0 wrong 0|guest-companion half-write
CHECKS
cat > "$root/init" << 'INIT'
#!/bin/sh
busybox mount -t proc none /proc
busybox mount -t sysfs none /sys
busybox mount -t devtmpfs none /dev
busybox mkdir -p /dev/shm
busybox mount -t tmpfs none /pools
for module in irqbypass ccp kvm kvm-amd; do busybox insmod /$module.ko 2> /dev/null; done
export VOLIP_TEST_GUEST=1 VOLIP_PERSISTENCE=cache-line SWIFT_BACKTRACE=enable=no
busybox timeout 120 /hold || echo "CHECK FAILED: no machine is held: $(busybox cat /held/said)"
run=0 failed=0
while IFS='|' read -r expected arguments; do
  run=$((run + 1))
  case "$arguments" in
    guest-companion*) export VOLIP_SYSCALLS=companion ;;
  esac
  busybox timeout 120 /helper $arguments < /dev/null > /tmp/said 2>&1
  if busybox grep -q "$expected" /tmp/said; then
    echo "CHECK passed: $arguments"
  else
    failed=$((failed + 1))
    echo "CHECK FAILED: $arguments: $(busybox head -c 400 /tmp/said)"
  fi
done < /checks
echo "CHECK hardware $run run, $failed failed"
busybox poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc 2> /dev/null | gzip -1) > "$work/initramfs"

timeout 900 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 4096 \
  -kernel "$work"/kernel/boot/vmlinuz-* -initrd "$work/initramfs" \
  -append "console=ttyS0 quiet panic=1" -nographic -no-reboot |
  stdbuf -oL tr -d '\r' | sed -un 's/^.*CHECK //p' | tee "$work/result"
grep -q 'hardware [1-9][0-9]* run, 0 failed' "$work/result"

cuts=${CUTS:-20}
[ "$cuts" -gt 0 ] || exit 0
command -v mke2fs > /dev/null || { echo "cuts 0: skipped, e2fsprogs is not installed"; exit 0; }
cp Scripts/power-cuts-init.sh "$root/init"
echo $modules > "$root/modules"
(cd "$root" && find . | cpio -o -H newc 2> /dev/null | gzip -1) > "$work/initramfs"
Scripts/power-cuts.py --kernel "$work"/kernel/boot/vmlinuz-* --initramfs "$work/initramfs" \
  --device "$work/nvdimm" --cuts "$cuts"
