# Runs inside the bed: osv-run on hardware KVM. Every program that came along runs natively and in a VM, and the two must agree.
# Prints one line a check and ends with the number that failed.
failed=0
check() {
  name=$1; shift
  if "$@"; then echo "ok $name"; else echo "FAILED $name"; failed=$((failed + 1)); fi
}
# Whether the run that has just ended met a bug of QEMU's SVM: it leaves the vector that VMRUN injected in its own exception_index, and
# when another thread stops that virtual CPU in the same moment, it delivers the interrupt a second time, at the first instruction of
# its own handler with interrupts off, over the first one's frame. No processor can do that, and no guest can recover: such a run
# says nothing about us. Only a panic at exactly the first instruction of the stub of exactly that interrupt counts.
delivered_twice() {
  [ $guest = 125 ] && grep -q '^kernel panic: the kernel stack is full' /tmp/guest.err || return 1
  vector=$(sed -n 's/^ *vector \([0-9]*\) .*/\1/p' /tmp/guest.err | head -n 1)
  [ "${vector:-0}" -ge 32 ] && grep -q "(trap_stubs + $(printf '0x%x' $((vector * 16)))," /tmp/guest.err
}
# Runs osv-run with these arguments: its status in $guest, its output in guest.out and guest.err.
inside() {
  for attempt in 1 2 3; do
    timeout -k 5 ${limit:-60} ./osv-run "$@" > /tmp/guest.out 2> /tmp/guest.err < /dev/null; guest=$?
    delivered_twice || break
    echo "  QEMU delivered an interrupt twice: running it again"
  done
}
same() {
  # same NAME OSV-OPTIONS -- PROGRAM ARGUMENT...
  options=; while [ "$1" != -- ]; do options="$options $1"; shift; done; shift
  timeout -k 5 60 "$@" > /tmp/native.out 2> /tmp/native.err < /dev/null; native=$?
  inside $options "$@"
  if [ $native = $guest ] && cmp -s /tmp/native.out /tmp/guest.out; then return 0; fi
  echo "  status $guest, natively $native"; head -n 5 /tmp/guest.err; diff /tmp/native.out /tmp/guest.out | head -n 10
  return 1
}
limit=120
inside --self-test; cat /tmp/guest.out /tmp/guest.err; check "self-test" [ $guest = 0 ]
inside --cpus 2 --self-test; check "self-test on 2 CPUs" [ $guest = 0 ]
limit=60
for program in program-*; do
  [ -e "$program" ] || continue
  check "$program" same -- ./$program
  check "$program, 2 CPUs" same --cpus 2 -- ./$program
done
mkdir -p /tmp/tree/sub
i=0; while [ $i -lt 200 ]; do echo "file $i of the tree" > /tmp/tree/sub/f$i; i=$((i + 1)); done
volume() { same --volume /tmp:/tmp:ro -- /bin/busybox "$@"; }
check "sha256sum" volume sha256sum /tmp/tree/sub/f7
check "find" volume find /tmp/tree -type f -name 'f1*'
check "grep -r" volume grep -r "file 99 " /tmp/tree
check "cat" volume cat /tmp/tree/sub/f0 /tmp/tree/sub/f199
if [ -e hello.elf ]; then
  printf "one\ntwo\n" > /tmp/lines
  inside --volume /tmp:/data:ro hello.elf lines
  check "hello.elf" [ $guest = 0 ]
  tail -n 1 /tmp/guest.out
fi
echo "$failed failed"
[ $failed = 0 ]
