// DiagnosisService: sock_diag(7): the sockets of the machine, as `ss` lists them.
import Base

/// Answers sock_diag.
struct DiagnosisService {
  private let stack: NetworkStack

  init(_ stack: NetworkStack) { self.stack = stack }

  /// SOCK_DIAG_BY_FAMILY.
  private static var byFamily: UInt16 { 20 }

  /// The ends of a conversation (`struct inet_diag_sockid`).
  private struct Ends: BitwiseCopyable {
    var localPort: UInt16 = 0
    var remotePort: UInt16 = 0
    var local: [4 of UInt32] = .init(repeating: 0)
    var remote: [4 of UInt32] = .init(repeating: 0)
    var interfaceIndex: UInt32 = 0
    var cookie: [2 of UInt32] = [.max, .max]
  }

  /// struct inet_diag_req_v2.
  private struct Wish: BitwiseCopyable {
    var family: UInt8 = 0
    var protocolNumber: UInt8 = 0
    var extensions: UInt8 = 0
    var padding: UInt8 = 0
    var states: UInt32 = 0
    var ends = Ends()
  }

  /// struct inet_diag_msg.
  private struct Socket: BitwiseCopyable {
    var family: UInt8 = 0
    var state: UInt8 = 0
    var timer: UInt8 = 0
    var retransmissions: UInt8 = 0
    var ends = Ends()
    var expires: UInt32 = 0
    var receiveQueue: UInt32 = 0
    var sendQueue: UInt32 = 0
    var user: UInt32 = 0
    var inode: UInt32 = 0
  }

  /// Answers a request.
  /// - Throws: EOPNOTSUPP, EINVAL, ENOENT.
  func serve(_ request: NetlinkRequest, _ answer: inout NetlinkAnswer) throws(Errno) {
    guard request.type == Self.byFamily else { throw .EINVAL }
    switch request.family.u16 {
    case InternetEndpoint.family4, InternetEndpoint.family6: break
    // Others are not listed.
    case 1, 16, 17: return
    default: throw .ENOENT
    }
    guard request.isDump else { throw .EOPNOTSUPP }
    let wish = try request.structure(Wish.self)
    for status in stack.statuses(ofProtocol: wish.protocolNumber) {
      let isV6 = status.isIPv6
      guard isV6 == (wish.family.u16 == InternetEndpoint.family6), wish.states &>> status.state.rawValue.u32 & 1 != 0
      else {
        continue
      }
      var socket = Socket()
      socket.family = wish.family
      socket.state = status.state.rawValue
      socket.timer = status.timer
      socket.retransmissions = min(status.retransmissionCount, 255).u8
      socket.ends.localPort = status.local.port.byteSwapped
      socket.ends.local = Self.words(status.local.address, isV6)
      if let remote = status.remote {
        socket.ends.remotePort = remote.port.byteSwapped
        socket.ends.remote = Self.words(remote.address, isV6)
      }
      socket.expires = min(status.timerLeft / 1_000_000, UInt32.max.u64).u32
      socket.receiveQueue = status.receiveQueueByteCount.u32
      socket.sendQueue = status.sendQueueByteCount.u32
      socket.user = status.user
      socket.inode = status.inode.u32
      answer.add(Self.byFamily, socket) { answer in
        answer.attribute(8, 0 as UInt8)  // INET_DIAG_SHUTDOWN.
      }
    }
  }

  private static func words(_ address: IPAddress, _ isV6: Bool) -> [4 of UInt32] {
    guard isV6 else { return [address.v4.byteSwapped, 0, 0, 0] }
    return [
      (address.high &>> 32).u32.byteSwapped, address.high.u32.byteSwapped, (address.low &>> 32).u32.byteSwapped,
      address.low.u32.byteSwapped,
    ]
  }
}
