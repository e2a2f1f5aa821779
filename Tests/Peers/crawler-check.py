#!/usr/bin/env python3
"""A memcached that is killed while its LRU crawler would sleep in the middle of the lists.

  crawler-check.py DEMO [demo options]

The crawler puts items of its own, in private memory, into lists that are in the file, and sleeps
there: an epoch of that moment comes back with pointers to nowhere. Asks for a crawl that sleeps for
a second, kills, and reads all items. Ends in lines: kills, lost.
"""

import os
import signal
import socket
import subprocess
import sys

ITEMS = 3000  # it sleeps after every thousand


class Client:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.answers = self.socket.makefile("rb")

    def ask(self, text):
        self.socket.sendall(text)
        return self.answers.readline()

    def set(self, number, value):
        answer = self.ask(b"set item-%d 0 0 %d\r\n%s\r\n" % (number, len(value), value))
        assert answer == b"STORED\r\n", answer

    def has(self, number):
        try:
            if not self.ask(b"get item-%d\r\n" % number).startswith(b"VALUE"):
                return False
            self.answers.readline()
            return self.answers.readline() == b"END\r\n"
        except OSError:
            return False


def main():
    server = subprocess.Popen([sys.argv[1], "--supervise", *sys.argv[2:]], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    kills = lost = 0
    for line in server.stdout:
        words = line.split()
        if words[0] != "ready":
            continue
        client = Client(words[2])
        if kills > 0:
            lost = sum(not client.has(number) for number in range(ITEMS))
            break
        for number in range(ITEMS):
            client.set(number, b"x" * 1000)
        client.ask(b"lru_crawler sleep 1000000\r\n")
        client.ask(b"lru_crawler crawl all\r\n")
        for number in range(20):  # so that there are epochs while it sleeps
            client.set(number, b"y" * 1000)
        os.kill(int(words[1]), signal.SIGKILL)
        kills += 1
    server.stdin.close()
    server.wait()
    print(f"kills {kills}\nlost {lost}")
    return 0 if kills == 1 and lost == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
