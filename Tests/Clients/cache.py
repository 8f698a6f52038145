#!/usr/bin/env python3
"""A client of images/kvcache: cache.py ADDRESS. The cache is expected to have 8 MiB. Prints "kept" if all is as it should be."""
import random
import socket
import sys
import threading
import time


class Client:
    def __init__(self):
        self.socket = socket.create_connection((sys.argv[1], 11211))
        self.socket.settimeout(10)
        self.file = self.socket.makefile("rb")

    def send(self, text):
        self.socket.sendall(text)

    def line(self):
        return self.file.readline()

    def ask(self, text):
        self.send(text)
        return self.line()

    def store(self, key, value, expiry=0):
        answer = self.ask(b"set %s 5 %d %d\r\n%s\r\n" % (key, expiry, len(value), value))
        assert answer == b"STORED\r\n", answer

    def get(self, key):
        """The value, None if there is none."""
        first = self.ask(b"get %s\r\n" % key)
        if first == b"END\r\n":
            return None
        word, name, flags, size = first.split()
        assert (word, name, flags) == (b"VALUE", key, b"5"), first
        value = self.file.read(int(size) + 2)[:-2]
        assert self.line() == b"END\r\n"
        return value

    def stats(self):
        self.send(b"stats\r\n")
        stats = {}
        while (line := self.line()) != b"END\r\n":
            _, name, value = line.split(maxsplit=2)
            stats[name.decode()] = value
        return stats


def values_come_back(client):
    """Of all sizes, though each is sent in pieces; what is too large is refused, and takes what was there with it."""
    for size in (0, 1, 100, 5000, 30000):
        value = random.randbytes(size)
        text = b"set v 5 0 %d\r\n%s\r\n" % (size, value)
        for start in range(0, len(text), 7001):
            client.send(text[start:start + 7001])
        assert client.line() == b"STORED\r\n"
        assert client.get(b"v") == value
    too_large = client.ask(b"set v 0 0 2000000\r\n" + bytes(2_000_000) + b"\r\n")
    assert too_large == b"SERVER_ERROR object too large for cache\r\n", too_large
    assert client.get(b"v") is None


def memory_is_bounded(client):
    """Values of one size after another, each ten times as much as there is room for: what was stored last is there, and is what it was."""
    for size in (10, 60, 200, 900, 4000, 20000):
        count = 80_000_000 // (size + 100) if size >= 900 else 100_000
        for start in range(0, count, 500):
            names = [b"%d-%d" % (size, n) for n in range(start, min(count, start + 500))]
            client.send(b"".join(b"set %s 5 0 %d noreply\r\n%s\r\n" % (name, size, name.ljust(size, b".")) for name in names))
        last = b"%d-%d" % (size, count - 1)
        assert client.get(last) == last.ljust(size, b"."), size
        stats = client.stats()
        assert 4 << 20 < int(stats["bytes"]) <= 8 << 20, (size, stats)
    assert client.get(b"900-0") is None and int(stats["evictions"]) > 100_000, stats


def what_is_used_stays(client):
    client.ask(b"flush_all\r\n")
    client.store(b"hot", b"here")
    for n in range(20_000):
        client.send(b"set cold%d 5 0 3000 noreply\r\n%s\r\n" % (n, b"x" * 3000))
        if n % 20 == 0:
            assert client.get(b"hot") == b"here", n
    assert client.get(b"cold0") is None


def nobody_is_held_up(client):
    """By one that asks for much and reads nothing, nor by one that asks again as fast as it is answered, nor by one line that asks for very much."""
    client.store(b"large", b"x" * 30_000)
    deaf = Client()
    deaf.socket.setblocking(False)
    try:
        while True:
            deaf.socket.send(b"get large\r\n" * 1000)
    except BlockingIOError:
        pass
    greedy = Client()
    is_over = False

    def ask_on():
        while not is_over:
            greedy.send(b"get large large\r\n" * 20)

    def read_on():
        while not is_over:
            greedy.socket.recv(1 << 20)

    threads = [threading.Thread(target=ask_on, daemon=True), threading.Thread(target=read_on, daemon=True)]
    for thread in threads:
        thread.start()
    # Each of them may be any thread's of the server.
    for _ in range(16):
        start = time.monotonic()
        other = Client()
        assert other.ask(b"version\r\n").startswith(b"VERSION")
        assert time.monotonic() - start < 5
    is_over = True
    many = Client()
    many.send(b"get" + b" large" * 2000 + b"\r\n")
    for _ in range(2000):
        assert many.line() == b"VALUE large 5 30000\r\n"
        assert many.file.read(30_002) == b"x" * 30_000 + b"\r\n"
    assert many.line() == b"END\r\n" and many.ask(b"version\r\n").startswith(b"VERSION")
    for line in (b"get " + b"x" * 20_000 + b"\r\n", b"x" * 20_000):
        assert Client().ask(line).startswith(b"ERROR line too long")


def connections_are_bounded(client):
    """Values that never become whole, on more connections than there is memory for: some are refused, the others are served on."""
    halves = [Client() for _ in range(400)]
    for half in halves:
        try:
            half.send(b"set h 0 0 30000\r\n" + b"x" * 29_999)
        except OSError:
            pass
    client.store(b"k", b"v")
    assert client.get(b"k") == b"v"
    refused = 0
    for half in halves:
        try:
            refused += half.ask(b"x\r\n") != b"STORED\r\n"
        except OSError:
            refused += 1
    assert refused > 0
    more = []
    try:
        for _ in range(1100):
            more.append(Client())
    except OSError:
        pass
    assert client.get(b"k") == b"v"
    for one in more:
        one.socket.close()
        one.file.close()


def time_goes_by(client):
    client.store(b"w", b"x", 1)
    client.store(b"f", b"x")
    assert client.ask(b"flush_all 2\r\n") == b"OK\r\n"
    client.store(b"g", b"x")
    assert client.get(b"f") == b"x"
    time.sleep(3.1)
    assert client.get(b"w") is None and client.get(b"f") is None and client.get(b"g") is None
    client.store(b"f", b"y")
    assert client.get(b"f") == b"y"


client = Client()
for check in (values_come_back, memory_is_bounded, what_is_used_stays, nobody_is_held_up, connections_are_bounded, time_goes_by):
    check(client)
print("kept")
