#!/bin/bash
# Builds every fuzz target and runs each for FUZZ_SECONDS (10): make fuzz. Inputs found worth keeping stay in .build/fuzz-corpus; an
# input that crashes is left in .build/fuzz-crashes and fails the run.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-10}
swift build --package-path Fuzz --scratch-path .build/fuzz --sanitize fuzzer > .build/fuzz.log 2>&1 || { tail -n 40 .build/fuzz.log; exit 1; }
mkdir -p .build/fuzz-crashes
# Seeds: real programs for the ELF readers, an ordinary command line for the options.
seed() { mkdir -p ".build/fuzz-corpus/$1"; }
for target in ELFLoader ELFFile Closure; do
  seed $target
  head -c 4096 /bin/busybox > .build/fuzz-corpus/$target/busybox
  head -c 4096 /bin/true > .build/fuzz-corpus/$target/true
done
head -c 16000 /etc/ld.so.cache > .build/fuzz-corpus/Closure/cache
seed Kernel
for kernel in /boot/vmlinuz-* .build/testbed/kernel/boot/vmlinuz-*; do
  if [ -r "$kernel" ]; then head -c 16000 "$kernel" > .build/fuzz-corpus/Kernel/linux; fi
done
seed Options
printf -- '--memory\00064M\000--volume\000.:/data:ro\000--env\000A=B\000--\000/bin/true\000-x' > .build/fuzz-corpus/Options/plain
# An INIT with every feature that the server knows, then a CREATE of "a", a WRITE to it (node 2) and a RENAME to "b".
seed FUSE
python3 - > .build/fuzz-corpus/FUSE/changes 2> /dev/null <<'PYTHON' || true
import struct, sys
def request(opcode, node, body):
    message = struct.pack("<IIQQIIIHH", 40 + len(body), opcode, 7, node, 0, 0, 0, 0, 0) + body
    message = struct.pack("<H", 4096) + message
    length = (len(message) + 1) & ~1
    return bytes([(length - 0x28) >> 1 if length > 0x28 else 0]) + message.ljust(length, b"\0")
out = b"\x01"
out += request(26, 0, struct.pack("<IIIII", 7, 39, 1 << 20, 0xffffffff, 0xffffffff) + bytes(44))
out += request(35, 1, struct.pack("<IIII", 0o302, 0o100644, 0, 0) + b"a\0")
out += request(16, 2, struct.pack("<QQIIQII", 0, 0, 4, 0, 0, 0, 0) + b"data")
out += request(45, 1, struct.pack("<QII", 1, 0, 0) + b"a\0b\0")
out += request(10, 1, b"b\0")
sys.stdout.buffer.write(out)
PYTHON
failed=0
for folder in Fuzz/*/; do
  target=$(basename "$folder")
  seed "$target"
  if timeout $((seconds + 60)) ".build/fuzz/debug/fuzz-$target" -max_total_time="$seconds" -max_len=16384 -timeout=5 -rss_limit_mb=2048 \
    -artifact_prefix=".build/fuzz-crashes/$target-" ".build/fuzz-corpus/$target" > ".build/fuzz-$target.log" 2>&1; then
    echo "fuzz-$target: $(grep -o 'Done [0-9]* runs' ".build/fuzz-$target.log" || echo 'no summary'), nothing found"
  else
    echo "fuzz-$target: FAILED"; tail -n 30 ".build/fuzz-$target.log"; failed=1
  fi
done
exit $failed
