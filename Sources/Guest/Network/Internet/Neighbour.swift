// Neighbour: what is known of a machine on the same link: its link address, and whether it answers (RFC 4861, 7.3; the same for ARP).
//
// Who sends looks at one word, under RCU, and takes no lock: the link address, whether it may be used, and whether somebody is to be told of
// the use. All else is guarded by the cache's lock. Entries that have had to make room are freed after a grace period, and the stack's
// generation is raised before, so that ways of sockets that lead to them are looked up anew (`RouteCache`).
import Base
import Devices
import Locks
import Threads

/// A neighbour. In a cache, for as long as that wants it.
struct Neighbour: ~Copyable {
  /// What is known.
  enum State: UInt8, Sendable {
    /// Nothing yet, or nothing came of it.
    case unknown
    /// It has been asked for its address.
    case incomplete
    /// It has answered, or something above says so, lately.
    case reachable
    /// It was there once.
    case stale
    /// It was there once, and has been sent something since.
    case delay
    /// It is being asked whether it is still there.
    case probe
    /// Somebody has said so, for good.
    case permanent

    /// Linux's NUD_*.
    var number: UInt16 {
      switch self {
      case .unknown: 0x20
      case .incomplete: 0x01
      case .reachable: 0x02
      case .stale: 0x04
      case .delay: 0x08
      case .probe: 0x10
      case .permanent: 0x80
      }
    }
  }

  /// How bad it would be to be without an entry, from the least on.
  enum Worth: UInt8, Comparable {
    /// The link address is not known.
    case unresolved
    /// Nobody has used it lately.
    case unused
    case used
    /// A route's: all that goes by that route would wait for it.
    case gateway

    static func < (one: Worth, other: Worth) -> Bool { one.rawValue < other.rawValue }
  }

  /// Bit of `word`: the link address may be used.
  static var isUsable: UInt64 { 1 << 63 }
  /// Bit of `word`: the cache is to be told of the first use (`NeighbourCache.used`).
  static var tellsUse: UInt64 { 1 << 62 }
  /// Bit of `word`: the cache wants to hear that it answers (`NeighbourCache.confirm`).
  static var wantsConfirmation: UInt64 { 1 << 61 }

  /// The link address in the low 48 bits, and the bits above.
  let word = Atomic<UInt64>(0)
  /// Its address.
  let address: IPAddress
  /// On which link.
  let interfaceIndex: UInt32

  // Guarded by the cache's lock.
  var state = State.unknown
  var isRouter = false
  var probes = 0
  /// When something is to be done; `.max`: never.
  var deadline: UInt64 = .max
  /// When it was last looked up.
  var usedAt: UInt64 = 0
  /// When it was last known to answer.
  var confirmedAt: UInt64 = 0
  /// What waits for its address.
  var waiting = PacketList()
  var next: UnsafeMutablePointer<Neighbour>?
  var call = RCU.Call()

  init(_ address: IPAddress, on interfaceIndex: UInt32) {
    self.address = address
    self.interfaceIndex = interfaceIndex
  }

  var isUnresolved: Bool { state == .unknown || state == .incomplete }

  /// Its worth, as far as it tells itself; nil: it is there for good. Ways that are remembered do not look it up, but one that is used does
  /// not stay stale.
  var worth: Worth? {
    switch state {
    case .unknown, .incomplete: .unresolved
    case .stale: .unused
    case .reachable, .delay, .probe: .used
    case .permanent: nil
    }
  }

  var link: LinkAddress { LinkAddress(word.load(ordering: .relaxed)) }

  mutating func enter(_ state: State, _ link: LinkAddress, deadline: UInt64) {
    self.state = state
    self.deadline = deadline
    var bits = link.value
    switch state {
    case .unknown, .incomplete: bits = 0
    case .reachable, .permanent: bits |= Self.isUsable
    case .stale: bits |= Self.isUsable | Self.tellsUse
    case .delay, .probe: bits |= Self.isUsable | Self.wantsConfirmation
    }
    word.store(bits, ordering: .releasing)
  }
}

/// What somebody is told of a neighbour (rtnetlink, /proc/net/arp).
public struct NeighbourDescription: BitwiseCopyable, Sendable {
  /// Its address.
  public var address: IPAddress
  /// On which link.
  public var interfaceIndex: UInt32
  /// Its link address; zero if it is not known.
  public var link: LinkAddress
  /// Linux's NUD_*.
  public var state: UInt16
  /// Whether it routes.
  public var isRouter: Bool
}

/// What a message says of a neighbour (RFC 4861, 7.2.5).
struct NeighbourNews {
  /// It answers a question of ours: so it gets what we send.
  var isSolicited: Bool
  /// It takes the place of what is known.
  var isOverride: Bool
  /// It makes an entry where there is none.
  var isNew: Bool
  /// Whether it routes, if the message says so.
  var isRouter: Bool?

  init(isSolicited: Bool, isOverride: Bool, isNew: Bool, isRouter: Bool? = nil) {
    self.isSolicited = isSolicited
    self.isOverride = isOverride
    self.isNew = isNew
    self.isRouter = isRouter
  }
}
