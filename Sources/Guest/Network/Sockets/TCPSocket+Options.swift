// The options of level SOL_TCP (tcp(7)), and what options of other levels mean to a connection.
import Base
import Devices
import Files
import Locks
import Memory

/// Their numbers (TCP_*).
private enum TransmissionOption {
  static let undelayed: Int32 = 1
  static let segmentSize: Int32 = 2
  static let corked: Int32 = 3
  static let keepaliveIdle: Int32 = 4
  static let keepaliveInterval: Int32 = 5
  static let keepaliveCount: Int32 = 6
  static let synCount: Int32 = 7
  static let finishTimeout: Int32 = 8
  static let deferAccept: Int32 = 9
  static let windowClamp: Int32 = 10
  static let information: Int32 = 11
  static let quickAcknowledgement: Int32 = 12
  static let congestion: Int32 = 13
  static let thinLinearTimeouts: Int32 = 16
  static let thinDuplicates: Int32 = 17
  static let userTimeout: Int32 = 18
  static let fastOpen: Int32 = 23
  static let timestamp: Int32 = 24
  static let unsentLowMark: Int32 = 25
  static let fastOpenConnect: Int32 = 30
}

extension TCPSocket {
  private static var second: UInt64 { 1_000_000_000 }

  // MARK: Setting

  /// Sets an option of SOL_TCP.
  /// - Throws: ENOPROTOOPT, EINVAL, ENOENT.
  func setTransmissionOption(_ name: Int32, _ value: OptionValue, _ caller: SocketCaller) throws(Errno) {
    if name == TransmissionOption.congestion { return try setCongestion(value) }
    let number = try value.int()
    let now = begin()
    let flow = flow
    do throws(Errno) {
      try set(name, number, now: now)
    } catch {
      end(flow, now: now)
      throw error
    }
    flow?.core.takeOptions(tcpOptions, now: now)
    end(flow, now: now)
  }

  /// With the lock.
  private func set(_ name: Int32, _ number: Int32, now: UInt64) throws(Errno) {
    switch name {
    case TransmissionOption.undelayed: tcpOptions.isUndelayed = number != 0
    case TransmissionOption.corked: tcpOptions.isCorked = number != 0
    case TransmissionOption.segmentSize:
      guard number == 0 || number >= 88 && number <= 32_767 else { throw .EINVAL }
      tcpOptions.segmentSize = number.int
    case TransmissionOption.keepaliveIdle:
      tcpOptions.keepaliveIdle = try time(number, most: 32_767)
    case TransmissionOption.keepaliveInterval:
      tcpOptions.keepaliveInterval = try time(number, most: 32_767)
    case TransmissionOption.keepaliveCount:
      guard number >= 1, number <= 127 else { throw .EINVAL }
      tcpOptions.keepaliveCount = number.int
    case TransmissionOption.synCount:
      guard number >= 1, number <= 127 else { throw .EINVAL }
      tcpOptions.synRetries = number.int
    case TransmissionOption.finishTimeout:
      // Longer than two minutes is as long as usual (TCP_FIN_TIMEOUT_MAX).
      tcpOptions.finishTimeout = number < 0 ? .max : number > 120 ? 120 &* Self.second : number.u64 &* Self.second
    case TransmissionOption.deferAccept: deferRetries = retries(within: number)
    case TransmissionOption.windowClamp:
      if number == 0 {
        guard state == .closed else { throw .EINVAL }
        tcpOptions.windowClamp = 0
      } else {
        tcpOptions.windowClamp = max(number.int, SocketOption.minimumReceiveBuffer.int / 2)
      }
    case TransmissionOption.quickAcknowledgement:
      isQuick = number & 1 != 0
      flow?.core.setQuick(isQuick)
    case TransmissionOption.userTimeout:
      guard number >= 0 else { throw .EINVAL }
      tcpOptions.userTimeout = number.u64 &* 1_000_000
    case TransmissionOption.unsentLowMark: tcpOptions.unsentLowMark = number < 0 ? 0 : number.int
    case TransmissionOption.thinLinearTimeouts, TransmissionOption.thinDuplicates:
      // There are no other ways for few segments.
      guard number == 0 || number == 1 else { throw .EINVAL }
    case TransmissionOption.fastOpen:
      // Data of SYNs is not taken: who sends some is answered without, and sends it again.
      guard number >= 0, state == .closed || state == .listen else { throw .EINVAL }
    default: throw .ENOPROTOOPT
    }
  }

  private func time(_ seconds: Int32, most: Int32) throws(Errno) -> UInt64 {
    guard seconds >= 1, seconds <= most else { throw .EINVAL }
    return seconds.u64 &* Self.second
  }

  private func setCongestion(_ value: OptionValue) throws(Errno) {
    guard !value.bytes.isEmpty else { throw .EINVAL }
    for algorithm in CongestionAlgorithm.all {
      let name = algorithm.name
      // The name, which may end earlier than the bytes.
      guard value.bytes.count >= name.utf8CodeUnitCount, name.utf8CodeUnitCount < 16 else { continue }
      var isSame = true
      for index in 0..<name.utf8CodeUnitCount where name.utf8Start[index] != value.bytes[index] { isSame = false }
      if value.bytes.count > name.utf8CodeUnitCount, value.bytes[name.utf8CodeUnitCount] != 0 { isSame = false }
      guard isSame else { continue }
      lock.withLock {
        self.algorithm = algorithm
        flow?.core.congestion.change(to: algorithm)
      }
      return
    }
    throw .ENOENT
  }

  /// How many SYN-ACKs go out within so many seconds, each after twice the time (Linux: secs_to_retrans).
  private func retries(within seconds: Int32) -> Int {
    var (result, period, timeout) = (0, 1, 1)
    guard seconds > 0 else { return 0 }
    result = 1
    while seconds.int > period, result < 255 {
      result &+= 1
      timeout = min(timeout &* 2, 120)
      period &+= timeout
    }
    return result
  }

  private var deferSeconds: Int32 {
    var (period, timeout) = (0, 1)
    for _ in 0..<deferRetries {
      period &+= timeout
      timeout = min(timeout &* 2, 120)
    }
    return period.i32
  }

  // MARK: Getting

  /// Answers about an option of SOL_TCP.
  func getTransmissionOption(_ name: Int32, _ result: inout OptionResult) throws(Errno) {
    if name == TransmissionOption.information { return putInformation(&result) }
    if name == TransmissionOption.congestion {
      let algorithm = lock.withLock { self.algorithm } ?? tcp.settings.congestionAlgorithm
      // TCP_CA_NAME_MAX.
      var text = [16 of UInt8](repeating: 0)
      let name = algorithm.name
      for index in 0..<min(name.utf8CodeUnitCount, 15) { text[index] = name.utf8Start[index] }
      withUnsafeBytes(of: &text) { result.put(bytes: $0) }
      return
    }
    let now = begin()
    let number = number(name)
    end(flow, now: now)
    guard let number else { throw .ENOPROTOOPT }
    result.put(number)
  }

  private func seconds(_ own: UInt64, _ usual: UInt64) -> Int32 { ((own > 0 ? own : usual) / Self.second).i32 }

  private func number(_ name: Int32) -> Int32? {
    let (own, settings) = (tcpOptions, tcp.settings)
    switch name {
    case TransmissionOption.undelayed: return own.isUndelayed ? 1 : 0
    case TransmissionOption.corked: return own.isCorked ? 1 : 0
    case TransmissionOption.segmentSize:
      if own.segmentSize > 0, state == .closed || state == .listen { return own.segmentSize.i32 }
      return flow.map { $0.core.segmentSize.i32 } ?? 536
    case TransmissionOption.keepaliveIdle: return seconds(own.keepaliveIdle, settings.keepaliveIdle)
    case TransmissionOption.keepaliveInterval: return seconds(own.keepaliveInterval, settings.keepaliveInterval)
    case TransmissionOption.keepaliveCount:
      return own.keepaliveCount > 0 ? own.keepaliveCount.i32 : settings.keepaliveCount.i32
    case TransmissionOption.synCount: return own.synRetries > 0 ? own.synRetries.i32 : settings.synRetries.i32
    case TransmissionOption.finishTimeout:
      return own.finishTimeout == .max ? -1 : seconds(own.finishTimeout, settings.finishTimeout)
    case TransmissionOption.deferAccept: return deferSeconds
    case TransmissionOption.windowClamp: return own.windowClamp.i32
    case TransmissionOption.quickAcknowledgement: return isQuick ? 1 : 0
    case TransmissionOption.userTimeout: return (own.userTimeout / 1_000_000).i32
    case TransmissionOption.unsentLowMark: return own.unsentLowMark.i32
    case TransmissionOption.thinLinearTimeouts, TransmissionOption.thinDuplicates, TransmissionOption.fastOpen,
      TransmissionOption.fastOpenConnect:
      return 0
    case TransmissionOption.timestamp: return (stack.environment.now() / 1_000_000).u32.i32
    default: return nil
    }
  }

  // MARK: Other levels

  /// An option of another level has changed. With the lock.
  func followOption(_ level: Int32, _ name: Int32) {
    guard level == OptionLevel.socket, let flow else { return }
    switch name {
    case SocketOption.keepAlive:
      flow.core.options.isKeptAlive = isOn(SocketOption.keepAlive)
      flow.core.armKeepalive(flow.time())
      tcp.timers.set(flow, at: flow.core.nextDeadline)
    case SocketOption.outOfBandInline: flow.core.options.takesUrgentInline = isOn(SocketOption.outOfBandInline)
    case SocketOption.receiveLowMark:
      flow.core.options.receiveLowMark = optionWords.receiveLowMark.load(ordering: .relaxed).int
    default: break
    }
  }

  /// SO_SNDBUF.
  func limitSending(_ byteCount: Int) {
    let now = begin()
    sendLimit = byteCount
    tcpOptions.isSendBufferLocked = true
    if let flow {
      flow.core.options.isSendBufferLocked = true
      flow.core.sendLimit = byteCount
    }
    end(flow, now: now)
    source.notify(.writable)
  }

  /// SO_RCVBUF. A window that was promised is kept.
  func limitReceiving(_ byteCount: Int) {
    let now = begin()
    receiveLimit = byteCount
    tcpOptions.isReceiveBufferLocked = true
    if let flow {
      flow.core.options.isReceiveBufferLocked = true
      flow.core.receiveCapacity = byteCount / 2
    }
    end(flow, now: now)
  }

  // MARK: ioctl

  /// What is answered to a request of ioctl(2); nil: it is no question to TCP.
  /// - Throws: EINVAL: nobody can ask a listener that.
  func answer(_ request: UInt32) throws(Errno) -> Int32? {
    switch request {
    case ControlRequest.readableByteCount, SocketControl.sendQueueByteCount, SocketControl.unsentByteCount:
      let now = begin()
      defer { end(flow, now: now) }
      guard listener == nil else { throw .EINVAL }
      guard let flow else { return 0 }
      if request == SocketControl.sendQueueByteCount { return (flow.core.sendEnd - flow.core.acknowledged).i32 }
      if request == SocketControl.unsentByteCount { return flow.core.unsentCount.i32 }
      return (flow.core.countBeforeUrgent ?? flow.core.unconsumed).i32
    case SocketControl.isAtMark: return isAtMark ? 1 : 0
    default: return nil
    }
  }
}

extension TCPConnection {
  /// Options of the socket have changed; those of other levels stay. `flush` follows.
  mutating func takeOptions(_ new: TCPOptionsOfSocket, now: UInt64) {
    let old = options
    options = new
    (options.isKeptAlive, options.takesUrgentInline) = (old.isKeptAlive, old.takesUrgentInline)
    options.receiveLowMark = old.receiveLowMark
    if old.keepaliveIdle != new.keepaliveIdle || old.keepaliveInterval != new.keepaliveInterval { armKeepalive(now) }
    if old.segmentSize != new.segmentSize, state.isSynchronized { updateSegmentSize() }
    // What was held back goes now (tcp(7): TCP_NODELAY, TCP_CORK).
    if old.isCorked, !new.isCorked || !old.isUndelayed && new.isUndelayed { markPush() }
  }

  /// TCP_QUICKACK: acknowledgements go out at once for a while, or wait for company.
  mutating func setQuick(_ isQuick: Bool) {
    if isQuick {
      quickCount = 16
      isInteractive = false
      if unacknowledgedCount > 0 { owesAcknowledgement = true }
    } else {
      quickCount = 0
      isInteractive = true
    }
  }
}
