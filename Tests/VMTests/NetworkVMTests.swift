// Networks as the command line gives them, as far as osv-run and the host are concerned: what is told when they cannot be had, what
// processes and interfaces come and go, and what the guest finds in /etc.
import Foundation
import Glibc
import Testing

private let busybox = "/bin/busybox"

/// osv-run in a network namespace of its own, after some commands of a shell.
private func inNamespace(_ setup: String, _ arguments: [String]) async throws -> Outcome {
  try await run(["/usr/bin/unshare", "-n", "/bin/sh", "-c", setup + "; exec \"$@\"", "sh", osvRun] + arguments)
}

/// A TCP port of 127.0.0.1 that somebody listens on until this is gone.
private final class Listener {
  let socket: Int32
  let port: UInt16

  init(port: UInt16 = 0) throws {
    let socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    var size = socklen_t(MemoryLayout<sockaddr_in>.size)
    let done = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(socket, $0, size) == 0 && listen(socket, 1) == 0 && getsockname(socket, $0, &size) == 0
      }
    }
    self.socket = socket
    self.port = UInt16(bigEndian: address.sin_port)
    try #require(done, "\(String(cString: strerror(errno)))")
  }

  deinit { close(socket) }
}

@Suite(.disabled(if: skipKVM || skipNetwork, "OSV_SKIP_KVM=1 or OSV_SKIP_NET=1"))
struct NetworkVMTests {
  @Test(arguments: [
    (["--net", "carrier-pigeon"], "E01", "none, user, tap"),
    (["--net", "fd:77"], "E01", "descriptor 77 is not open"),
    (["-p", "80:80", "--net", "tap"], "E01", "--publish is for --net user"),
    (["--net", "tap:lo"], "E21", "'lo' is not a TAP interface"),
    (["--net", "tap,mtu=65535,guest=10.0.0.2", "--capture", "/nowhere/f"], "E02", "cannot be written"),
  ])
  func refusals(_ arguments: [String], code: String, words: String) async throws {
    let outcome = try await vm(arguments + [busybox, "true"])
    #expect(outcome.status == 125)
    #expect(outcome.errorText.hasPrefix("osv-run: error \(code): "), "\(outcome.errorText)")
    #expect(outcome.errorText.contains(words), "\(outcome.errorText)")
    #expect(outcome.errorText.split(separator: "\n").count == 1)
  }

  /// The machine does not wait for somebody who reads its record.
  @Test func aPipeThatNobodyReadsIsNoRecord() async throws {
    let path = FileManager.default.temporaryDirectory.path + "/osv-pipe-\(getpid())"
    #expect(mkfifo(path, 0o600) == 0)
    defer { unlink(path) }
    let outcome = try await vm(["--net", "tap", "--capture", path, busybox, "true"], seconds: 20)
    #expect(outcome.status == 125)
    #expect(outcome.errorText.hasPrefix("osv-run: error E02: nobody reads the pipe"), "\(outcome.errorText)")
  }

  @Test func passtThatIsNotThereIsSaid() async throws {
    let outcome = try await run([osvRun, "--net", "user", busybox, "true"], environment: ["PATH": "/nowhere"])
    #expect(outcome.status == 125)
    #expect(
      outcome.errorText.hasPrefix("osv-run: error E21: user mode needs the program passt"), "\(outcome.errorText)")
  }

  @Test func aHostWithoutARouteIsSaid() async throws {
    let outcome = try await inNamespace("true", ["--net", "user", busybox, "true"])
    #expect(outcome.status == 125)
    #expect(outcome.errorText.contains("E21: the host has no default route"), "\(outcome.errorText)")
  }

  /// A namespace with a default route that leads nowhere.
  private static let route =
    "ip link set lo up; ip tuntap add d0 mode tap; ip link set d0 up; ip addr add 192.0.2.2/24 dev d0; ip route add default via 192.0.2.1"

  @Test func passtComesAndGoesWithTheMachine() async throws {
    let outcome = try await run([
      "/usr/bin/unshare", "-n", "-p", "-f", "--mount-proc", "/bin/sh", "-c",
      Self.route
        + "; \"$1\" -p 127.0.0.1:18080:80 /bin/busybox cat /etc/resolv.conf /etc/hosts; echo status $?; ps -A -o comm= | grep -c passt",
      "sh", osvRun,
    ])
    #expect(outcome.text.contains("10.0.2.15\tosv\n"), "\(outcome.text) \(outcome.errorText)")
    #expect(outcome.text.contains("nameserver "))
    #expect(outcome.text.hasSuffix("status 0\n0\n"), "\(outcome.text) \(outcome.errorText)")
  }

  @Test func aPortThatIsInUseIsSaidBeforeTheProgramRuns() async throws {
    let listener = try Listener()
    let outcome = try await vm(["-p", "127.0.0.1:\(listener.port):80", busybox, "echo", "ran"])
    #expect(outcome.status == 125 && outcome.text.isEmpty)
    #expect(
      outcome.errorText.contains("E21: port 127.0.0.1:\(listener.port) of the host cannot be published"),
      "\(outcome.errorText)")
  }

  @Test func aPublishedPortIsFreeWhenTheMachineHasEnded() async throws {
    let port = try Listener().port
    for _ in 0..<3 {
      let outcome = try await vm(["-p", "127.0.0.1:\(port):80", busybox, "true"])
      #expect(outcome.status == 0, "\(outcome.errorText)")
      _ = try Listener(port: port)
    }
  }

  @Test func aTAPIsMadeAndGivenAnAddress() async throws {
    let outcome = try await inNamespace(
      "ip link set lo up",
      ["--net", "tap:t0,address=10.9.8.1/24", busybox, "cat", "/etc/hosts"])
    #expect(outcome.status == 0, "\(outcome.errorText)")
    #expect(outcome.text.contains("10.9.8.2\tosv\n"), "\(outcome.text)")
  }

  @Test func aTAPThatIsThereAlreadyIsUsedWhateverItsQueues() async throws {
    for kind in ["", "multi_queue"] {
      for cpus in ["1", "2"] {
        let outcome = try await inNamespace(
          "ip tuntap add t1 mode tap \(kind); ip link set t1 up",
          ["--cpus", cpus, "--net", "tap:t1,guest=10.9.8.2/24", busybox, "echo", "fine"])
        #expect(outcome.status == 0 && outcome.text == "fine\n", "\(kind) \(cpus): \(outcome.errorText)")
      }
    }
  }

  @Test func aTAPInUseIsSaid() async throws {
    let outcome = try await inNamespace(
      "ip tuntap add t2 mode tap; \"$1\" --net tap:t2 /bin/busybox sleep 3 & sleep 1",
      ["--net", "tap:t2", busybox, "true"])
    #expect(outcome.status == 125)
    #expect(outcome.errorText.contains("E21: the TAP interface 't2' is in use already"), "\(outcome.errorText)")
  }

  @Test func aCaptureBeginsAsWiresharkWantsIt() async throws {
    let folder = FileManager.default.temporaryDirectory.path + "/osv-capture-\(getpid())"
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let outcome = try await inNamespace("true", ["--net", "tap", "--capture", folder, busybox, "true"])
    #expect(outcome.status == 0, "\(outcome.errorText)")
    let bytes = Array(try Data(contentsOf: URL(filePath: folder)))
    #expect(bytes.starts(with: [0x0a, 0x0d, 0x0d, 0x0a]) && bytes.count >= 60)
  }

  // MARK: What the guest does with it

  /// What a shell says in a network namespace of its own; $OSV is osv-run, $B is busybox, and `bound` waits until somebody has a port.
  private func shell(_ script: String) async throws -> Outcome {
    let start =
      """
      OSV=$1; B=/bin/busybox; ip link set lo up
      bound() { for i in $(seq 200); do ss -Hltun | grep -q ":$1 " && return; sleep 0.1; done; }

      """
    return try await run(["/usr/bin/unshare", "-n", "/bin/sh", "-c", start + script, "sh", osvRun])
  }

  @Test func theHostPingsTheGuest() async throws {
    let outcome = try await shell(
      """
      $OSV --net tap:t0,address=10.9.8.1/24,address=fd09::1/64 $B sleep 8 & machine=$!
      for i in 1 2 3 4 5 6 7 8 9; do $B ping -c 1 -W 1 10.9.8.2 > /dev/null && break; sleep 0.2; done
      $B ping -c 3 -W 2 10.9.8.2; $B ping -c 2 -W 2 -s 5000 10.9.8.2; $B ping -c 2 -W 4 fd09::2
      kill $machine
      """)
    for sentence in ["3 packets transmitted, 3 packets received", "5008 bytes from", "from fd09::2"] {
      #expect(outcome.text.contains(sentence), "\(outcome.text) \(outcome.errorText)")
    }
  }

  @Test func theGuestPingsTheHost() async throws {
    let outcome = try await shell(
      """
      $OSV --net tap:t0,address=10.9.8.1/24 $B ping -c 2 -W 2 10.9.8.1
      $OSV --net tap:t0,address=10.9.8.1/24 $B ip addr show eth0
      $OSV --net tap:t0,address=10.9.8.1/24 $B ip route
      """)
    #expect(outcome.text.contains("2 packets transmitted, 2 packets received"), "\(outcome.text) \(outcome.errorText)")
    #expect(outcome.text.contains("inet 10.9.8.2/24 brd 10.9.8.255 scope global eth0"))
    #expect(outcome.text.contains("default via 10.9.8.1 dev eth0"))
  }

  @Test func anAddressComesByDHCP() async throws {
    let folder = FileManager.default.temporaryDirectory.path + "/osv-dhcp-\(getpid())"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let outcome = try await shell(
      """
      cd \(folder); touch leases
      ip tuntap add t1 mode tap; ip link set t1 up; ip addr add 10.7.0.1/24 dev t1
      printf 'start 10.7.0.50\nend 10.7.0.60\ninterface t1\nlease_file leases\npidfile pid\noption subnet 255.255.255.0\noption router 10.7.0.1\n' > conf
      $B udhcpd -f conf 2> log & server=$!
      $OSV --net tap:t1 $B ping -c 1 -W 4 10.7.0.1
      kill $server; cat log
      """)
    #expect(outcome.text.contains("1 packets transmitted, 1 packets received"), "\(outcome.text) \(outcome.errorText)")
    #expect(outcome.text.contains("sending ACK to 10.7.0.5"))
  }

  /// What a program sends last leaves, though it ends at once.
  @Test func theLastDatagramLeaves() async throws {
    let outcome = try await shell(
      """
      ip tuntap add t2 mode tap; ip link set t2 up; ip addr add 10.6.0.1/24 dev t2
      python3 -c "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('10.6.0.1', 9)); s.settimeout(30)
      print(s.recv(100).decode(), end='')" & bound 9
      $OSV --net tap:t2,guest=10.6.0.2/24 /bin/bash -c 'echo the last word > /dev/udp/10.6.0.1/9'; wait
      """)
    #expect(outcome.text == "the last word\n", "\(outcome.text) \(outcome.errorText)")
  }

  /// What a program has given to a connection arrives though it ends at once and its peer is slow, and so does the end.
  @Test func theLastBytesOfAConnectionArrive() async throws {
    let outcome = try await shell(
      """
      ip tuntap add t3 mode tap; ip link set t3 up; ip addr add 10.5.0.1/24 dev t3
      python3 -c "import socket, time; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
      s.bind(('10.5.0.1', 9)); s.listen(); c = s.accept()[0]; time.sleep(1.5); n = 0
      while True:
        d = c.recv(10000); n += len(d); time.sleep(0.001)
        if not d: break
      print(n)" & bound 9
      $OSV --net tap:t3,guest=10.5.0.2/24 /bin/bash -c "printf '%1000000s' x > /dev/tcp/10.5.0.1/9; echo sent"; wait
      """)
    #expect(outcome.text == "sent\n1000000\n", "\(outcome.text) \(outcome.errorText)")
  }

  /// A peer that is not there any more holds up the end for seconds, not for ever.
  @Test func aDeadPeerDoesNotKeepTheMachine() async throws {
    let outcome = try await shell(
      """
      ip tuntap add t4 mode tap; ip link set t4 up; ip addr add 10.4.0.1/24 dev t4
      python3 -c "import socket, time; s = socket.socket(); s.bind(('10.4.0.1', 9)); s.listen(); c = s.accept()[0]; time.sleep(20)" & peer=$!
      bound 9
      (sleep 2; ip addr del 10.4.0.1/24 dev t4) &
      start=$(date +%s); $OSV --net tap:t4,guest=10.4.0.2/24 /bin/bash -c "exec 3<> /dev/tcp/10.4.0.1/9; read -t 3 x <&3; echo last >&3"
      echo "status $?, $(($(date +%s) - start < 15))"; kill $peer
      """)
    #expect(outcome.text == "status 0, 1\n", "\(outcome.text) \(outcome.errorText)")
  }
}
