#!/bin/bash
# The main job, with a few words about each step: what `make demo` runs.
set -euo pipefail
cd "$(dirname "$0")/.."
show() { printf '\n$ %s\n' "$*"; "$@"; }
run=.build/release/osv-run
echo "osv-run starts a virtual machine for one program: a kernel of its own, a few milliseconds of"
echo "start-up, and nothing of this host but what you attach."
show $run --self-test
echo; echo "A unikernel written in Swift, kernel and program in one file:"
show $run --volume .:/data:ro .build/images/hello.elf /data/README.md
echo; echo "Debian's busybox, unmodified, with this directory attached at /data:"
show $run --volume .:/data:ro /bin/busybox sha256sum /data/README.md
echo; echo "The same on this machine itself:"
show /bin/busybox sha256sum README.md
echo; echo "Through pipes, like any command:"
printf '\n$ %s\n' "cat README.md | $run /bin/busybox wc"
cat README.md | $run /bin/busybox wc
if [ -n "$(ip route show default 2> /dev/null)" ]; then
  echo; echo "A server: Debian's redis, unmodified, at port 16379 of this machine:"
  command=($run -p 127.0.0.1:16379:6379 /usr/bin/redis-server --protected-mode no --save '')
  printf '\n$ %s&\n' "$(printf '%q ' "${command[@]}")"
  "${command[@]}" > /dev/null & server=$!
  for _ in $(seq 50); do redis-cli -p 16379 ping > /dev/null 2>&1 && break; kill -0 $server; sleep 0.1; done
  show redis-cli -p 16379 set answer 42
  show redis-cli -p 16379 get answer
  show redis-cli -p 16379 shutdown nosave
  wait $server
fi
