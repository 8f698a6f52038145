// passt, a program that gives a guest the host's network without privileges: what the guest sends becomes connections of an ordinary process.
//
// It is started before the jail, with one end of a pair of sockets as its descriptor 3, in a process group of its own (a Ctrl-C is the
// guest's), with nothing else of ours. It ends when our end is closed, so it does not outlive us however we end; at an ordinary end we
// wait for it, so that ports are free again when osv-run has ended. What it says goes to a file in memory that does not grow, from
// where a failure's reason is taken.

import CSystemCalls
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

// SAFETY: only the atomic changes.
/// A running passt.
public final class Passt: @unchecked Sendable {
  /// What it is to do.
  struct Plan {
    /// The guest's addresses; one of each kind at most.
    var addresses: [InternetPrefix] = []
    /// The guest's routers.
    var gateways: [InternetAddress] = []
    /// An address by which the guest reaches the host's first name server.
    var forwardedNameServer: InternetAddress?
    /// Ports of the host that lead to the guest.
    var published: [PublishedPort] = []
    /// An MTU to tell the guest.
    var mtu: Int?
    /// No IPv6.
    var isV4Only = false
    /// No IPv4.
    var isV6Only = false
  }

  /// Largest IP packet that it takes.
  static let mtu = 65_520
  /// How long it may take to start, and to end, in milliseconds.
  private static let startLimit: CInt = 10_000
  private static let endLimit: CInt = 500
  /// Bytes of what it says that are kept.
  private static let logByteCount = 1 << 14

  /// Our end of the connection.
  let socket: CInt
  private let process: CInt
  private let log: CInt
  private let published: [PublishedPort]
  private let ending = Atomic<Bool>(false)

  private init(socket: CInt, process: CInt, log: CInt, published: [PublishedPort]) {
    self.socket = socket
    self.process = process
    self.log = log
    self.published = published
  }

  /// Whether its end is ours.
  var isEnding: Bool { ending.load(ordering: .acquiring) }

  /// The command line.
  static func arguments(_ plan: Plan) -> [String] {
    // One connection by descriptor 3, in the foreground, no way to services that only this machine itself may use.
    var arguments = ["passt", "--foreground", "--quiet", "--stderr", "--fd", "3", "--no-map-gw"]
    if plan.isV4Only { arguments.append("--ipv4-only") }
    if plan.isV6Only { arguments.append("--ipv6-only") }
    for prefix in plan.addresses {
      arguments += ["--address", prefix.address.description]
      if prefix.address.isV4 { arguments += ["--netmask", String(prefix.length)] }
    }
    for gateway in plan.gateways { arguments += ["--gateway", gateway.description] }
    if let server = plan.forwardedNameServer, !plan.isV6Only { arguments += ["--dns-forward", server.description] }
    if let mtu = plan.mtu { arguments += ["--mtu", String(mtu)] }
    for port in plan.published { arguments += [port.isUDP ? "--udp-ports" : "--tcp-ports", specification(port)] }
    // Unless it is told, it forwards UDP as it does TCP.
    if !plan.published.contains(where: \.isUDP) { arguments += ["--udp-ports", "none"] }
    return arguments
  }

  private static func specification(_ port: PublishedPort) -> String {
    (port.address.map { "\($0)/" } ?? "") + "\(port.host):\(port.guest)"
  }

  /// Starts it.
  static func start(_ plan: Plan) throws(Failure) -> Passt {
    var sockets: [CInt] = [-1, -1]
    let made = osv_socket_pair(&sockets)
    let log = osv_bounded_file("passt", logByteCount)
    guard made >= 0, log >= 0 else {
      throw Failure(.network, "user mode needs file descriptors (\(StandardStreams.message(-min(made, log))))")
    }
    var arguments: [UnsafeMutablePointer<CChar>?] = Self.arguments(plan).map { strdup($0) } + [nil]
    defer { for argument in arguments { free(argument) } }
    let process = osv_start_program(&arguments, sockets[1], log)
    close(sockets[1])
    guard process > 0 else {
      throw Failure(
        .network,
        process == -ENOENT
          ? "user mode needs the program passt, which is not there: install the package passt, or use --net tap"
          : "the program passt cannot be started (\(StandardStreams.message(-process)))")
    }
    return Passt(socket: sockets[0], process: process, log: log, published: plan.published)
  }

  /// Waits until it serves; before there are other threads.
  func waitUntilReady() throws(Failure) {
    // A frame of a type for experiments, which nobody answers: when it has been read, passt is up.
    let frame: [UInt8] = [0, 0, 0, 14] + [UInt8](repeating: 2, count: 12) + [0x88, 0xb5]
    _ = frame.withUnsafeBytes { send(socket, $0.baseAddress!, $0.count, CInt(MSG_NOSIGNAL)) }
    for _ in 0..<(2 * Self.startLimit) {
      let ended = osv_wait_child(process, 0)
      if ended != -ETIME { throw failure }
      if osv_unread_bytes(socket) == 0 { return }
      usleep(500)
    }
    throw Failure(.network, "passt, which carries the user-mode network, does not start")
  }

  /// Why it has ended, from the last thing it said.
  private var failure: Failure {
    var bytes = [UInt8](repeating: 0, count: Self.logByteCount)
    let count = pread(log, &bytes, bytes.count, 0)
    let said = bytes.prefix(max(0, count)).prefix { $0 != 0 }
    for port in published where Self.contains(said, " \(Self.specification(port))'") {
      let name = port.address.map { "\($0):" } ?? ""
      return Failure(
        .network,
        "port \(name)\(port.host) of the host cannot be published (\(port.isUDP ? "UDP" : "TCP")): it is in use, or this user may not use it"
      )
    }
    let last = said.split(separator: UInt8(ascii: "\n")).last.map { Failure.show(Array($0)) } ?? "nothing"
    return Failure(.network, "passt, which carries the user-mode network, has ended; it said \(last)")
  }

  private static func contains(_ bytes: ArraySlice<UInt8>, _ text: String) -> Bool {
    let wanted = Array(text.utf8)
    return bytes.withUnsafeBytes { bytes in
      wanted.withUnsafeBytes { osv_find(bytes.baseAddress, bytes.count, $0.baseAddress, $0.count) != nil }
    }
  }

  /// Ends it, and waits for that a little.
  func finish() {
    guard !ending.exchange(true, ordering: .acquiringAndReleasing) else { return }
    shutdown(socket, CInt(SHUT_RDWR))
    _ = osv_wait_child(process, Self.endLimit)
  }
}
