// DHCPClient: how an interface comes by an IPv4 address and keeps it (RFC 2131, 4.4). Pure: time and chance are passed in, what is to be sent and
// done is handed out.
import Base

/// A client, for one interface.
struct DHCPClient {
  /// Where it is (figure 5).
  enum State: Equatable {
    case initial
    /// It has asked who has an address for it.
    case selecting
    /// It has asked for the one that it was offered.
    case requesting
    /// It has one.
    case bound
    /// It asks its server for more time.
    case renewing
    /// It asks anybody.
    case rebinding
  }

  /// What it has been given.
  struct Lease: Equatable {
    var address: IPAddress
    var prefixLength: Int
    var router: IPAddress
    var servers: [IPAddress]
    var mtu: Int
    /// When it ends, ns.
    var validUntil: UInt64
  }

  /// What is to be done.
  struct Outcome {
    /// To be sent, and where to: to everybody if that is unspecified.
    var message: DHCPMessage.Request?
    var destination = IPAddress.any4
    /// The address is to be used from now on, or longer.
    var bound: Lease?
    /// The address may be used no longer.
    var isLost = false
  }

  private static var second: UInt64 { 1_000_000_000 }
  private static var firstWait: UInt64 { 1 &* second }
  private static var longestWait: UInt64 { 64 &* second }

  private(set) var state = State.initial
  private let link: LinkAddress
  private var transaction: UInt32 = 0
  private var startedAt: UInt64 = 0
  private var tries = 0
  private var offer: DHCPMessage?
  private(set) var lease: Lease?
  private var server = IPAddress.any4
  private var renewAt: UInt64 = .max
  private var rebindAt: UInt64 = .max
  /// When it wants to be called.
  private(set) var deadline: UInt64 = .max

  init(_ link: LinkAddress) { self.link = link }

  /// Begins, or begins anew.
  mutating func start(now: UInt64, random: UInt64) -> Outcome {
    state = .selecting
    transaction = random.u32
    startedAt = now
    tries = 0
    offer = nil
    return ask(now: now, random: random &>> 32)
  }

  /// The next message of the state, and when it is repeated.
  private mutating func ask(now: UInt64, random: UInt64) -> Outcome {
    var outcome = Outcome()
    var request = DHCPMessage.Request(kind: DHCPMessage.request, transaction: transaction, link: link)
    request.seconds = min((now &- startedAt) / Self.second, 0xffff).u16
    switch state {
    case .selecting: request.kind = DHCPMessage.discover
    case .requesting:
      request.wanted = offer?.address
      request.server = offer?.server
    case .renewing, .rebinding:
      request.current = lease?.address ?? .any4
      if state == .renewing { outcome.destination = server }
    case .initial, .bound: return outcome
    }
    outcome.message = request
    if state == .renewing || state == .rebinding {
      // Half of what is left, a minute at the least (4.4.5).
      let end = state == .renewing ? rebindAt : lease?.validUntil ?? now
      let left = end > now ? end &- now : 0
      deadline = min(now &+ max(left / 2, 60 &* Self.second), end)
    } else {
      // Doubled each time, give or take half a second (4.1), the first ones sooner: nobody else is on this link.
      let wait = min(Self.firstWait &<< min(tries, 6).u64, Self.longestWait)
      deadline = now &+ wait &+ random % (Self.second / 2)
      tries &+= 1
    }
    return outcome
  }

  /// A message has come.
  mutating func received(_ message: DHCPMessage, now: UInt64, random: UInt64) -> Outcome {
    guard message.transaction == transaction else { return Outcome() }
    switch (state, message.kind) {
    case (.selecting, DHCPMessage.offer):
      guard Self.isUsable(message.address), !message.server.isUnspecified else { return Outcome() }
      offer = message
      state = .requesting
      tries = 0
      return ask(now: now, random: random)
    case (.requesting, DHCPMessage.acknowledgement), (.renewing, DHCPMessage.acknowledgement),
      (.rebinding, DHCPMessage.acknowledgement):
      guard Self.isUsable(message.address), message.leaseTime > 0 else { return Outcome() }
      return bind(message, now: now)
    case (.requesting, DHCPMessage.refusal), (.renewing, DHCPMessage.refusal), (.rebinding, DHCPMessage.refusal):
      let hadLease = lease != nil
      lease = nil
      var outcome = start(now: now, random: random)
      // Not at once: a server that always refuses would have us ask without pause.
      outcome.message = nil
      deadline = now &+ Self.second
      outcome.isLost = hadLease
      return outcome
    default: return Outcome()
    }
  }

  private static func isUsable(_ address: IPAddress) -> Bool {
    !address.isUnspecified && !address.isMulticast && !address.isLoopback && address != .broadcast4
  }

  private mutating func bind(_ message: DHCPMessage, now: UInt64) -> Outcome {
    let time = message.leaseTime.u64 &* Self.second
    let isForEver = message.leaseTime == .max
    var prefixLength = message.prefixLength
    if prefixLength == 0 { prefixLength = Self.classLength(message.address) }
    var outcome = Outcome()
    let isOther = lease.map { $0.address != message.address } ?? false
    let fresh = Lease(
      address: message.address, prefixLength: prefixLength, router: message.router, servers: message.servers,
      mtu: message.mtu >= 576 ? message.mtu.int : 0, validUntil: isForEver ? .max : now &+ time)
    lease = fresh
    if !message.server.isUnspecified { server = message.server }
    state = .bound
    tries = 0
    // The times between are the server's to say, if they are in order.
    let rebind = message.rebindingTime.u64 &* Self.second
    let renew = message.renewalTime.u64 &* Self.second
    rebindAt = isForEver ? .max : now &+ (rebind > 0 && rebind < time ? rebind : time / 8 &* 7)
    renewAt = isForEver ? .max : min(now &+ (renew > 0 && renew < time ? renew : time / 2), rebindAt)
    deadline = renewAt
    outcome.isLost = isOther
    outcome.bound = fresh
    return outcome
  }

  /// The network of an address by its class, where a server says nothing (RFC 950).
  private static func classLength(_ address: IPAddress) -> Int {
    address.v4 >> 31 == 0 ? 8 : address.v4 >> 30 == 2 ? 16 : 24
  }

  /// `deadline` has come.
  mutating func timerFired(now: UInt64, random: UInt64) -> Outcome {
    guard now >= deadline else { return Outcome() }
    switch state {
    case .initial: return Outcome()
    case .selecting: return ask(now: now, random: random)
    case .requesting:
      // Who has offered does not answer: begin anew.
      return tries >= 5 ? start(now: now, random: random) : ask(now: now, random: random)
    case .bound:
      state = .renewing
      transaction = random.u32
      startedAt = now
      return ask(now: now, random: random)
    case .renewing:
      if now >= rebindAt { state = .rebinding }
      return ask(now: now, random: random)
    case .rebinding:
      guard now >= lease?.validUntil ?? 0 else { return ask(now: now, random: random) }
      lease = nil
      var outcome = start(now: now, random: random)
      outcome.isLost = true
      return outcome
    }
  }
}
