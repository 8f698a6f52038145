#!/usr/bin/env python3
"""A client of images/kvcache: cache.py ADDRESS. The cache is expected to have 8 MiB. Prints "kept" if all is as it should be."""
import random
import socket
import sys
import time

s = socket.create_connection((sys.argv[1], 11211)); f = s.makefile("rb")
def ask(text, lines=1):
    s.sendall(text); return b"".join(f.readline() for _ in range(lines))
ask(b"flush_all\r\n")
# Values of all sizes come back as they were, though each comes in pieces.
for size in (0, 1, 100, 5000, 30000):
    value = random.randbytes(size)
    text = b"set v 5 0 %d\r\n%s\r\n" % (size, value)
    for start in range(0, len(text), 7001): s.sendall(text[start:start + 7001])
    assert f.readline() == b"STORED\r\n"
    assert ask(b"get v\r\n") == b"VALUE v 5 %d\r\n" % size
    assert f.read(size + 2) == value + b"\r\n" and f.readline() == b"END\r\n"
assert ask(b"set v 0 0 2000000\r\n" + bytes(2000000) + b"\r\n") == b"SERVER_ERROR object too large for cache\r\n"
assert ask(b"get v\r\n") == b"END\r\n"
# Four times as much as it may hold: what was used last is there, what was not is gone.
for n in range(4000):
    assert ask(b"set %d 0 0 8000\r\n%s\r\n" % (n, b"x" * 8000)) == b"STORED\r\n"
assert ask(b"get 0\r\n") == b"END\r\n"
assert ask(b"get 3999\r\n", 3).startswith(b"VALUE 3999 0 8000")
s.sendall(b"stats\r\n"); stats = {}
while (line := f.readline()) != b"END\r\n": stats[line.split()[1]] = line.split()[2]
assert 0 < int(stats[b"bytes"]) <= 8 << 20 and int(stats[b"evictions"]) > 2000, stats
# One that asks for much and reads nothing holds nobody up.
deaf = socket.create_connection((sys.argv[1], 11211))
deaf.setblocking(False)
try:
    while True: deaf.send(b"get 3999\r\n" * 1000)
except BlockingIOError: pass
assert ask(b"version\r\n").startswith(b"VERSION")
assert ask(b"set w 0 1 1\r\nx\r\n") == b"STORED\r\n"
time.sleep(2.1)
assert ask(b"get w\r\n") == b"END\r\n"
print("kept")
