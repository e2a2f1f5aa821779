#!/bin/sh
# The first process of the machine whose power is cut: mounts the NVDIMM's file system, which gives
# its memory to programs as it is (DAX), recovers and audits the pool that the last cut left, and
# goes on with sections until the next cut. Every line that the host reads begins with CUT.
busybox mount -t proc none /proc
busybox mount -t sysfs none /sys
busybox mount -t devtmpfs none /dev
busybox mkdir -p /dev/shm
for module in $(busybox cat /modules); do
  [ -f /$module.ko ] && busybox insmod /$module.ko 2> /dev/null
done
export SWIFT_BACKTRACE=enable=no
read -r command < /proc/cmdline
tracker=$(echo "$command" | busybox sed 's/.*volip.tracker=\([a-z-]*\).*/\1/')
# A device without a table of its pages has no DAX: the first boot writes one, as ndctl does.
if [ "$(busybox cat /sys/block/pmem0/queue/dax)" = 0 ]; then
  echo namespace0.0 > /sys/bus/nd/drivers/nd_pmem/unbind
  seed=$(busybox cat /sys/bus/nd/devices/region0/pfn_seed)
  pages=/sys/bus/nd/devices/$seed
  busybox cat /proc/sys/kernel/random/uuid > $pages/uuid
  echo 2097152 > $pages/align
  echo ram > $pages/mode
  echo namespace0.0 > $pages/namespace
  echo $seed > /sys/bus/nd/drivers/nd_pmem/bind
fi
[ -b /dev/pmem0 ] || echo "CUT error no /dev/pmem0: $(busybox dmesg | busybox grep -i nvdimm)"
busybox mount -t ext4 -o dax=always /dev/pmem0 /pools ||
  echo "CUT error mount: $(busybox dmesg | busybox tail -n 3)"
busybox grep -q 'pools.*dax' /proc/mounts || echo "CUT error mounted without DAX"
case $tracker in
  dirty-bits | detect-on-write | adaptive | dirty-log)
    export VOLIP_TEST_GUEST=1
    busybox timeout 120 /hold || echo "CUT error no machine is held: $(busybox cat /held/said)"
    ;;
esac
if [ -f /pools/bank.pool ]; then
  echo "CUT audit $(/helper audit-bank /pools/bank.pool 2>&1)"
else
  /helper make-bank /pools/bank.pool > /tmp/said 2>&1 || echo "CUT error $(busybox cat /tmp/said)"
fi
echo "CUT size $(busybox stat -c %s /pools/bank.pool)"
/helper transfer /pools/bank.pool $tracker text 2>&1
echo "CUT error transfer ended"
busybox poweroff -f
