#!/bin/bash
# Runs a script on hardware KVM that QEMU emulates: TCG with AMD SVM under Debian's cloud kernel.
#
#   testbed.sh SCRIPT FILE...
#
# SCRIPT runs there under busybox sh with the FILEs beside it in /t (its working directory) and /dev/kvm usable;
# what it prints comes out here and its exit status is ours. 124 if the script took longer than TESTBED_SECONDS (300),
# 125 if the bed could not be made or never reached the script. The kernel package is downloaded once into .build/testbed.
#
# QEMU's SVM has bugs, which no guest can survive, nor always the bed's own Linux. It leaves the vector that VMRUN injected in its own
# exception_index, and when something stops that virtual CPU before its next exception, the interrupt is delivered a second time, to a
# guest that has interrupts off (QEMU 7.2; 10 as well with thread=single). And entering or leaving a guest now and then leaves a CPU that
# finds no page any more, not even those of its interrupt table: the bed's Linux right behind an exit, on its own code, as well as guests,
# and one vCPU had the registers of its host. So QEMU logs its interrupts, misdelivered.awk finds these, and the bed has a line for each in
# /tmp/misdelivered, by which the script may tell them from our failures. The bed says every two seconds that it lives; one that
# falls silent for a minute, Linux and all, or dies, is started again. The script finds in /t/passed the lines "ok ..." that it has printed
# until then, and goes on behind them; three beds that stop at the same place are a failure. A script or VM that hangs in a living bed
# ends at TESTBED_SECONDS and is a failure, too.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: testbed.sh SCRIPT FILE..." >&2; exit 125; }
root=$(cd "$(dirname "$0")/../.." && pwd)
seconds=${TESTBED_SECONDS:-300}
fail() { echo "testbed: $*" >&2; exit 125; }
. "$root/Tests/TestBed/kernel.sh"

work=$(mktemp -d "$bed/run.XXXXXX")
trap 'kill $(jobs -p) 2> /dev/null || true; rm -rf "$work"' EXIT
tree=$work/tree
new_tree "$tree"
mkdir "$tree/t"
add_module "$tree" kvm-amd
add_module "$tree" tun
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' > "$tree/etc/passwd"
cat > "$tree/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
mkdir -p /dev/shm; mount -t tmpfs shm /dev/shm
for m in $(cat /mod/order); do insmod /mod/$m || echo "TESTBED insmod $m failed"; done
dmesg -n 1
ip link set lo up
stty -F /dev/ttyS1 raw -echo
(cat < /dev/ttyS1 > /tmp/misdelivered) &
(while echo alive > /dev/ttyS1; do sleep 2; done) &
cd /t
echo "TESTBED begin"
sh ./script 2>&1
echo "TESTBED end $?"
poweroff -f
INIT
chmod +x "$tree/init"
cp "$1" "$tree/t/script"; shift
for file in "$@"; do cp -a "$file" "$tree/t/"; done
: > "$tree/t/passed"

mkfifo "$work"/line.in "$work"/line.out "$work"/interrupts
attempt=0
stops=0
while [ $stops -lt 3 ]; do
  attempt=$((attempt + 1))
  status=0
  pack "$tree" "$work/initramfs.gz"
  : > "$work/alive"; : > "$work/wrong"
  mawk -W interactive -f "$root/Tests/TestBed/misdelivered.awk" < "$work/interrupts" | tee "$work/wrong" > "$work/line.in" &
  (while read -r _; do touch "$work/alive"; done) < "$work/line.out" &
  timeout -k 5 "$seconds" "${qemu[@]}" -accel tcg,thread=multi -cpu max -M q35 -m "${TESTBED_MEMORY:-2048}" -smp 2 \
    -nographic -nodefaults -serial stdio -serial "pipe:$work/line" -no-reboot -d int -D "$work/interrupts" \
    -kernel "$vmlinuz" -initrd "$work/initramfs.gz" \
    -append "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check mitigations=off" < /dev/null \
    > "$work/raw" 2> "$work/qemu.err" &
  machine=$!
  lost=
  while kill -0 $machine 2> /dev/null; do
    sleep 1
    if [ $(($(date +%s) - $(stat -c %Y "$work/alive"))) -gt 60 ]; then lost=1; kill $machine 2> /dev/null || true; fi
  done
  wait $machine || status=$?
  tr -d '\r' < "$work/raw" > "$work/output"
  # Ended by itself, and not by the script: its Linux has died.
  if [ "$status" != 124 ] && ! grep -q "^TESTBED end " "$work/output"; then lost=1; fi
  [ -n "$lost" ] || break
  echo "testbed: the bed's own Linux stopped (attempt $attempt, $(wc -l < "$work/wrong") interrupts misdelivered), after:" \
    "$(tail -n 1 "$work/output")" >&2
  stops=$((stops + 1))
  if grep "^ok " "$work/output" | grep -vxFf "$tree/t/passed" > "$work/new"; then stops=1; fi
  cat "$work/new" >> "$tree/t/passed"
done
cat "$tree/t/passed"
sed -n '/TESTBED begin$/,/^TESTBED end /p' "$work/output" | sed '1d;$d'
end=$(sed -n 's/^TESTBED end \([0-9]*\)$/\1/p' "$work/output" | tail -1)
if [ -n "$end" ]; then exit "$end"; fi
tail -n 40 "$work/output" "$work/qemu.err" >&2
[ "$status" = 124 ] && { echo "testbed: no end after $seconds s" >&2; exit 124; }
fail "the bed ended (status $status) before the script did"
