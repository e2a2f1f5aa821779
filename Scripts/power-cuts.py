#!/usr/bin/env python3
"""Power cuts on a persistent-memory device.

QEMU emulates a machine with an NVDIMM, on which an ext4 file system with DAX has a pool: libpmem
maps the memory itself and flushes cache lines. The machine says each section that is durable on its
serial console; QEMU is killed at random moments, while the machine boots, recovers or commits. The
next boot recovers and audits. Emulation has no processor cache: this proves booting, DAX mappings,
the file system's own data and growth; the order of flushes is the crash images' to prove.

The last lines are `cuts N`, `lost N`, `torn N`.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

# Trackers by turns; those of the guest run in a virtual machine in the virtual machine.
TRACKERS = ["write-protect", "detect-on-write", "dirty-bits"]
BOOT_SECONDS_MAX = 300
DEVICE_BYTES = 256 << 20
# The file system begins behind the device's table of pages.
TABLE_BYTES = 2 << 20


class Machine:
    def __init__(self, options, tracker):
        size = os.path.getsize(options.device)
        self.lines = []
        self.heard = threading.Condition()
        self.is_over = False
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
             "-machine", "pc,nvdimm=on", "-m", "2G,slots=2,maxmem=8G",
             "-object", f"memory-backend-file,id=memory,share=on,mem-path={options.device},"
             f"size={size}", "-device", "nvdimm,id=nvdimm,memdev=memory",
             "-kernel", options.kernel, "-initrd", options.initramfs,
             "-append", f"console=ttyS0 quiet panic=1 volip.tracker={tracker}",
             "-nographic", "-no-reboot"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for raw in self.process.stdout:
            line = raw.decode("utf-8", "replace").strip()
            match = re.search(r"CUT (.*)", line)
            with self.heard:
                if match:
                    self.lines.append(match.group(1))
                self.heard.notify_all()
        with self.heard:
            self.is_over = True
            self.heard.notify_all()

    def wait_for(self, start, seconds):
        """Whether a line that begins so came in time."""
        end = time.monotonic() + seconds
        with self.heard:
            while not any(line.startswith(start) for line in self.lines):
                left = end - time.monotonic()
                if left <= 0 or self.is_over:
                    return False
                self.heard.wait(left)
            return True

    def cut(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        with self.heard:
            while not self.is_over:
                self.heard.wait(10)

    def last_acknowledged(self):
        # The cut may have come in the middle of the last line.
        numbers = [line.split()[1] for line in self.lines[:-1] if line.startswith("acknowledged ")]
        return int(numbers[-1]) if numbers else 0


def judge(machine, acknowledged, tally):
    """Looks at the audit that a boot began with; returns what it found."""
    for line in machine.lines:
        if line.startswith("error"):
            print(line, flush=True)
            tally["torn"] += 1
    audit = next((line for line in machine.lines if line.startswith("audit ")), None)
    if audit is None:
        return acknowledged
    match = re.fullmatch(r"audit transfers (\d+) sum (-?\d+) consistent (\w+)", audit)
    found = int(match.group(1)) if match else -1
    if found < acknowledged:
        tally["lost"] += 1
    if match is None or match.group(2) != "0" or match.group(3) != "true":
        tally["torn"] += 1
    if found < acknowledged or match is None or match.group(2, 3) != ("0", "true"):
        print(f"acknowledged {acknowledged}, {audit}", flush=True)
    return max(found, acknowledged)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--initramfs", required=True)
    parser.add_argument("--device", required=True, help="the file that is the NVDIMM's memory")
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"power cuts, seed {options.seed}", flush=True)
    generator = random.Random(options.seed)
    with open(options.device, "wb") as device:
        device.truncate(DEVICE_BYTES)
    blocks = (DEVICE_BYTES - TABLE_BYTES) // 4096
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-E", f"offset={TABLE_BYTES}",
         options.device, str(blocks)], check=True)

    tally = {"lost": 0, "torn": 0}
    acknowledged = 0
    size = 0
    for cut in range(options.cuts + 1):
        machine = Machine(options, TRACKERS[cut % len(TRACKERS)])
        # Most cuts while sections run; some before, in the boot, the mount or the recovery.
        if cut == options.cuts or cut == 0 or generator.random() < 0.8:
            is_up = machine.wait_for("acknowledged", BOOT_SECONDS_MAX)
            if not is_up:
                tally["torn"] += 1
                print(f"cut {cut}: no section in {BOOT_SECONDS_MAX} s: {machine.lines}")
            time.sleep(generator.uniform(0.1, 8))
        else:
            time.sleep(generator.uniform(3, 25))
        machine.cut()
        acknowledged = judge(machine, acknowledged, tally)
        acknowledged = max(acknowledged, machine.last_acknowledged())
        paths = [line for line in machine.lines if line.startswith("path ")]
        sizes = [int(line.split()[1]) for line in machine.lines if line.startswith("size ")]
        size = max(sizes, default=size)
        if paths and paths[0] != "path cache-line":
            print(f"cut {cut}: libpmem does not call the memory persistent: {paths[0]}")
            tally["torn"] += 1
        if cut < options.cuts:
            print(f"cut {cut + 1}: acknowledged {acknowledged}, file {size} bytes", flush=True)
    print(f"cuts {options.cuts}\nlost {tally['lost']}\ntorn {tally['torn']}")
    return 0 if tally["lost"] == tally["torn"] == 0 and acknowledged > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
