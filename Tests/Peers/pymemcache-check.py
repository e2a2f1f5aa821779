#!/usr/bin/env python3
"""A client library that nobody here wrote, against a memcached that is killed.

  pymemcache-check.py DEMO KILLS SEED [demo options]

DEMO --supervise starts memcached again. One client at a time sets, changes by cas, counts, appends
and deletes; after each kill every item is what was acknowledged, or what the one request made that
was on its way. Ends in lines: operations, kills, lost, wrong.
"""

import os
import random
import signal
import subprocess
import sys
import threading

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError

KEYS = 300


class Items:
    """What each item must be, and what the request on its way makes of one."""

    def __init__(self):
        self.values, self.pending, self.operations = {}, (None, None), 0

    def change(self, client, generator):
        number = generator.randrange(KEYS)
        key, kind = f"item-{number}", number % 5
        old = self.values.get(key)
        self.operations += 1
        text = b"%d:%d;" % (number, self.operations)
        if kind == 0 or old is None:
            self.request(key, b"1" if kind == 2 else text * (number % 7 + 1),
                         lambda new: client.set(key, new, noreply=False) is True)
        elif kind == 1:
            value, token = client.gets(key)
            assert value == old, (key, value, old)
            self.request(key, text, lambda new: client.cas(key, new, token, noreply=False) is True)
        elif kind == 2:
            self.request(key, b"%d" % (int(old) + 1), lambda new: client.incr(key, 1) == int(new))
        elif kind == 3:
            self.request(key, old + text,
                         lambda new: client.append(key, text, noreply=False) is True)
        else:
            self.request(key, None, lambda new: client.delete(key, noreply=False) is True)

    def request(self, key, new, ask):
        self.pending = key, new
        assert ask(new), (key, new)
        self.values[key] = new
        self.pending = None, None

    def check(self, client):
        """Counts items that are not what was acknowledged, and those that nobody ever wrote."""
        lost = wrong = 0
        keys = [f"item-{number}" for number in range(KEYS)]
        found = client.get_many(keys)
        for key in keys:
            expected, value = self.values.get(key), found.get(key)
            if value == expected:
                continue
            if key == self.pending[0] and value == self.pending[1]:
                self.values[key] = value
                continue
            number = key[5:].encode()
            is_known = value is None or value.isdigit() or value.startswith(number + b":")
            lost, wrong = lost + is_known, wrong + (not is_known)
            print(f"{key}: {value!r}, not {expected!r}", file=sys.stderr)
        self.pending = None, None
        return lost, wrong


def main():
    demo, kills, seed, options = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    generator, items = random.Random(seed), Items()
    server = subprocess.Popen([demo, "--supervise", *options], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    lost = wrong = done = 0
    for line in server.stdout:
        words = line.split()
        if words[0] != "ready":
            continue
        client = Client(words[2], timeout=60)
        more = items.check(client)
        lost, wrong = lost + more[0], wrong + more[1]
        if done == kills:
            break
        killer = threading.Timer(generator.uniform(0, 0.1), os.kill,
                                 (int(words[1]), signal.SIGKILL))
        # However slow the machine is, there are items to be lost.
        ready = items.operations + generator.randrange(50, 300)
        try:
            while True:
                items.change(client, generator)
                if items.operations == ready:
                    killer.start()
        except (MemcacheError, OSError):
            done += 1
        client.close()
    server.stdin.close()
    server.wait()
    print(f"operations {items.operations}\nkills {done}\nlost {lost}\nwrong {wrong}")
    return 0 if done == kills and lost == wrong == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
