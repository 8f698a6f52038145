# Runs inside the bed: osv-run on hardware KVM. Every program that came along runs natively and in a VM, and the two must agree.
# Prints one line a check and ends with the number that failed. A check that fails while QEMU misdelivered an interrupt (see
# testbed.sh) says nothing about us and is made again. This emulated SVM has more wrong with it than that (the bed's own Linux stops now
# and then, most often with more CPUs than it has), so one that fails otherwise has to pass three times in a row, within nine attempts, and
# two such checks at most are forgiven in a run; each is told.
failed=0
doubtful=0
misdelivered() { wc -l < /tmp/misdelivered; }
check() {
  name=$1; shift
  grep -qxF "ok $name" passed && return
  for attempt in 1 2 3 4 5; do
    before=$(misdelivered)
    if "$@"; then echo "ok $name"; return; fi
    sleep 1
    [ "$(misdelivered)" = "$before" ] && break
    echo "  meanwhile QEMU misdelivered an interrupt: $name again"
  done
  doubtful=$((doubtful + 1))
  passed=0
  if [ $doubtful -le 2 ]; then
    for attempt in 1 2 3 4 5 6 7 8 9; do
      if "$@"; then passed=$((passed + 1)); else passed=0; fi
      [ $passed = 3 ] && { echo "doubtful $name: failed, then passed three times in a row (attempt $attempt)"; return; }
    done
  fi
  echo "FAILED $name"; failed=$((failed + 1))
}
# self_test OPTION...: prints its report only if it failed.
self_test() {
  timeout -k 5 120 ./osv-run "$@" --self-test > /tmp/self.out 2>&1 && return 0
  cat /tmp/self.out
  return 1
}
# same OSV-OPTION... -- PROGRAM ARGUMENT...
same() {
  options=; while [ "$1" != -- ]; do options="$options $1"; shift; done; shift
  timeout -k 5 60 "$@" > /tmp/native.out 2> /tmp/native.err < /dev/null; native=$?
  timeout -k 5 60 ./osv-run $options "$@" > /tmp/guest.out 2> /tmp/guest.err < /dev/null; guest=$?
  if [ $native = $guest ] && [ $guest != 124 ] && cmp -s /tmp/native.out /tmp/guest.out; then return 0; fi
  echo "  status $guest, natively $native"; head -n 5 /tmp/guest.err; diff /tmp/native.out /tmp/guest.out | head -n 10
  return 1
}
own_image() { timeout -k 5 60 ./osv-run --volume /tmp:/data:ro hello.elf /data/lines > /tmp/hello.out 2>&1; }

check "self-test" self_test
check "self-test on 2 CPUs" self_test --cpus 2
[ ! -e /tmp/self.out ] || cat /tmp/self.out
for program in program-*; do
  [ -e "$program" ] || continue
  check "$program" same -- ./$program
  check "$program, 2 CPUs" same --cpus 2 -- ./$program
done
# More CPUs than the bed has: who waits for an answer of another one must let it run.
for program in program-threads program-futexes program-barriers program-memory; do
  [ -e "$program" ] && check "$program, 4 CPUs" same --cpus 4 -- ./$program
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
  check "hello.elf" own_image
  [ ! -e /tmp/hello.out ] || tail -n 1 /tmp/hello.out
fi
echo "misdelivered: $(misdelivered)"
echo "$failed failed"
[ $failed = 0 ]
