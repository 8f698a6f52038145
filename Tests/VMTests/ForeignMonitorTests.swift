// The kernel under a monitor that is not ours: QEMU without KVM, with its own virtio devices. The console is QEMU's virtconsole on standard
// input and output, the serial line a file; isa-debug-exit makes the program's status QEMU's.
import Foundation
import Testing

@Suite struct ForeignMonitorTests {
  /// What a script has: Q starts QEMU with the console, `status` says what the program's status was.
  private static let start =
    """
    T=$(mktemp -d); B=/bin/busybox; trap 'kill $machine $server 2> /dev/null; wait; rm -rf $T' EXIT
    PLAIN="timeout 100 qemu-system-x86_64 -M q35 -cpu max -m 256 -nographic -nodefaults -no-reboot -device isa-debug-exit,iobase=0xf4"
    CONSOLE="-chardev stdio,id=c,signal=off -device virtio-serial-pci -device virtconsole,chardev=c"
    Q="$PLAIN -serial file:$T/serial $CONSOLE"
    KERNEL=\(packageRoot)/.build/images/kernel.elf
    status() { echo "status $((($1 - 1) / 2))"; grep -a '^osv:' $T/serial | tr -d '\\r'; }
    archive() { mkdir -p $T/root; for f in $1 $(ldd $1 | grep -o '/[^ ]*'); do mkdir -p $T/root$(dirname $f); cp -L $f $T/root$f; done
      (cd $T/root; find . | cpio -o -H newc --quiet) > $T/root.cpio; }

    """

  private func script(_ text: String, seconds: Double = 150) async throws -> Outcome {
    try #require(
      FileManager.default.fileExists(atPath: packageRoot + "/.build/images/kernel.elf"), "no images: run 'make' first")
    return try await run(["/bin/bash", "-c", Self.start + text], seconds: seconds)
  }

  @Test func anImageRuns() async throws {
    let outcome = try await script(
      """
      $Q -kernel \(packageRoot)/.build/images/hello.elf -append "--env A=b one 'two three'" < /dev/null; status $?
      """)
    #expect(
      outcome.text == """
        Hello from Swift, in a machine of its own.
        argument 0: image
        argument 1: one
        argument 2: two three
        two threads added up 1 to 100000: 5000050000
        one: no such file or directory
        status 1

        """, "\(outcome.text) \(outcome.errorText)")
  }

  /// Without a console, what the program writes goes by the serial line, which has the firmware's words too.
  @Test func theSerialLineServesWithoutAConsole() async throws {
    let outcome = try await script(
      """
      $PLAIN -serial stdio -kernel $KERNEL -initrd $B -append "busybox uname -s" < /dev/null | grep -a -o 'Linux$'
      echo "status ${PIPESTATUS[0]}"
      """)
    #expect(outcome.text == "Linux\nstatus 1\n", "\(outcome.text) \(outcome.errorText)")
  }

  /// The program is the module; files are written, times are right, and a status comes back.
  @Test func aStaticProgramAsTheModule() async throws {
    let outcome = try await script(
      """
      $Q -kernel $KERNEL -initrd $B -append "--tmpfs /data --workdir /data busybox ash -c 'echo \\$PWD \\$HOME \\$0; exit 7' zero" < /dev/null; status $?
      then=$($Q -kernel $KERNEL -initrd $B -append "busybox date +%s" < /dev/null); now=$(date +%s)
      [ $((now - then)) -ge -2 ] && [ $((now - then)) -le 60 ] && echo "on time"
      $Q -kernel $KERNEL -initrd $B -append "busybox dd if=/dev/zero of=/x bs=1M count=64" < /dev/null > /dev/null; status $?
      $Q -kernel $KERNEL -initrd $B -append "busybox sleep 2" < /dev/null; status $?
      """)
    #expect(
      outcome.text == "/data / zero\nstatus 7\non time\nstatus 0\nstatus 0\n", "\(outcome.text) \(outcome.errorText)")
  }

  /// Without isa-debug-exit the machine is turned off by ACPI: QEMU ends by itself, with its own status. A signal is told.
  @Test func theMachineTurnsItselfOff() async throws {
    let outcome = try await script(
      """
      timeout 60 qemu-system-x86_64 -M q35 -cpu max -m 256 -nographic -nodefaults -no-reboot -serial file:$T/serial $CONSOLE \\
        -kernel $KERNEL -initrd $B -append "busybox echo over" < /dev/null; echo "qemu $?"
      $Q -kernel $KERNEL -initrd $B -append "busybox ash -c 'kill -9 \\$\\$'" < /dev/null; echo "qemu $?"; grep -a '^osv:' $T/serial
      """)
    #expect(
      outcome.text == "over\nqemu 0\nqemu 19\nosv: the program was ended by signal 9\n",
      "\(outcome.text) \(outcome.errorText)")
  }

  @Test func inputComesByTheConsole() async throws {
    let outcome = try await script(
      """
      (sleep 2; printf 'one\\ntwo\\nthree\\n') | $Q -kernel $KERNEL -initrd $B -append "busybox head -n 3"; status $?
      """)
    #expect(outcome.text == "one\ntwo\nthree\nstatus 0\n", "\(outcome.text) \(outcome.errorText)")
  }

  @Test func whatCannotBeStartedIsTold() async throws {
    let outcome = try await script(
      """
      $Q -kernel $KERNEL -append "" < /dev/null; status $?
      $Q -kernel $KERNEL -append "/no/such/program" < /dev/null; status $?
      $Q -kernel $KERNEL -append "--root tag /bin/true" < /dev/null; status $?
      head -c 100000 /dev/urandom > $T/junk
      $Q -kernel $KERNEL -initrd $T/junk -append "junk" < /dev/null; status $?
      (printf '070701'; head -c 1000 /dev/urandom) > $T/junk
      $Q -kernel $KERNEL -initrd $T/junk -append "junk" < /dev/null; status $?
      $PLAIN -cpu qemu64 -serial file:$T/serial -kernel $KERNEL -append "x" < /dev/null; status $?
      $Q -m 6 -kernel $KERNEL -append "x" < /dev/null; status $?
      """)
    #expect(
      outcome.text == """
        status 125
        osv: the command line names no program: give its path in the guest (QEMU: -append)
        status 125
        osv: the program cannot be started: loading the program failed with error 2 (no such file or directory)
        status 125
        osv: the machine has no virtio-fs device with the tag that --root or --volume names
        status 125
        osv: the program cannot be started: loading the program failed with error 8
        status 125
        osv: the archive (-initrd) is damaged
        status 125
        osv: the CPU lacks FSGSBASE, NX or SYSCALL, which the kernel needs (QEMU: give -cpu max)
        status 125
        osv: there is too little memory: give more

        """, "\(outcome.text) \(outcome.errorText)")
  }

  /// A dynamically linked server from an archive, by QEMU's network device, whose address DHCP gives.
  @Test func memcachedServesFromAnArchive() async throws {
    let outcome = try await script(
      """
      archive /usr/bin/memcached
      port=$((20000 + RANDOM % 10000))
      $Q -netdev user,id=n,hostfwd=tcp:127.0.0.1:$port-:11211 -device virtio-net-pci,netdev=n,romfile= -device virtio-rng-pci \\
        -kernel $KERNEL -initrd $T/root.cpio -append "/usr/bin/memcached -u root -l 0.0.0.0 -t 2" < /dev/null > $T/log 2>&1 & machine=$!
      for i in $(seq 100); do printf 'version\\r\\nquit\\r\\n' | $B nc -w 2 127.0.0.1 $port 2> /dev/null | grep -q VERSION && break; sleep 0.2; done
      memccapable -h 127.0.0.1 -p $port -a | tail -1
      memcslap --servers=127.0.0.1:$port --concurrency=8 --execute-number=200 --test=get > /dev/null && echo slapped
      """)
    #expect(outcome.text == "All tests passed\nslapped\n", "\(outcome.text) \(outcome.errorText)")
  }

  /// The image that speaks memcached's protocol.
  @Test func theCacheImageServes() async throws {
    let outcome = try await script(
      """
      port=$((20000 + RANDOM % 10000))
      $Q -netdev user,id=n,hostfwd=tcp:127.0.0.1:$port-:11211 -device virtio-net-pci,netdev=n,romfile= \\
        -kernel \(packageRoot)/.build/images/kvcache.elf -append "--net address=10.0.2.15/24,gateway=10.0.2.2 -- -m 16" < /dev/null > $T/log 2>&1 & machine=$!
      for i in $(seq 100); do printf 'version\\r\\nquit\\r\\n' | $B nc -w 2 127.0.0.1 $port 2> /dev/null | grep -q VERSION && break; sleep 0.2; done
      memccapable -h 127.0.0.1 -p $port -a | tail -1
      """)
    #expect(outcome.text == "All tests passed\n", "\(outcome.text) \(outcome.errorText)")
  }

  /// QEMU's own file server for the root: its programs and libraries, directories and links, as the host has them.
  @Test(
    .enabled(
      if: FileManager.default.isExecutableFile(atPath: "/usr/lib/qemu/virtiofsd") && geteuid() == 0,
      "the file server in C that QEMU 7 has, and root, whom it wants"))
  func programsOfAnotherFileServer() async throws {
    let outcome = try await script(
      """
      serve() { /usr/lib/qemu/virtiofsd --socket-path=$T/s -o source=/ -o sandbox=chroot $* > $T/server 2>&1 & server=$!
        for i in $(seq 50); do [ -S $T/s ] && return; sleep 0.1; done; cat $T/server; exit 1; }
      FS="-object memory-backend-memfd,id=m,size=256M,share=on -numa node,memdev=m -chardev socket,id=s,path=$T/s -device vhost-user-fs-pci,chardev=s,tag=root"
      serve -o cache=auto
      $Q $FS -kernel $KERNEL -append "--root root /usr/bin/sha256sum /usr/bin/python3 /bin/busybox /etc/passwd" < /dev/null > $T/out; status $?
      sha256sum /usr/bin/python3 /bin/busybox /etc/passwd | cmp - $T/out && echo same
      rm -f $T/s; kill $server 2> /dev/null; wait $server 2> /dev/null; serve -o cache=always
      $Q $FS -kernel $KERNEL -append "--root root /bin/busybox find /usr/share/doc /usr/lib/python3 -maxdepth 2" < /dev/null > $T/out; status $?
      find /usr/share/doc /usr/lib/python3 -maxdepth 2 | sort > $T/wanted; sort $T/out | cmp - $T/wanted && echo same
      rm -f $T/s; kill $server 2> /dev/null; wait $server 2> /dev/null; serve -o cache=none
      $Q $FS -kernel $KERNEL -append "--root root --tmpfs /tmp /bin/busybox cp /etc/hostname /tmp/x" < /dev/null; status $?
      rm -f $T/s; kill $server 2> /dev/null; wait $server 2> /dev/null; serve
      $Q $FS -kernel $KERNEL -append "--root root /bin/busybox touch /etc/hostname" < /dev/null; status $?
      """, seconds: 300)
    #expect(
      outcome.text.contains("status 0\nsame\nstatus 0\nsame\nstatus 0\n") && outcome.text.hasSuffix("status 1\n"),
      "\(outcome.text) \(outcome.errorText)")
    #expect(outcome.text.contains("Read-only file system"), "\(outcome.text)")
  }
}
