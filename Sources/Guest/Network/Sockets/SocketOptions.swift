// The options of level SOL_SOCKET that mean the same, or are remembered the same way, for all families (socket(7)).
//
// Flags are bits by their numbers, the rest are words of the socket; all are atomic and read without a lock.
import Base
import Files
import Locks
import Memory

/// Numbers of the options (SO_*).
enum SocketOption {
  static let debug: Int32 = 1
  static let reuseAddress: Int32 = 2
  static let type: Int32 = 3
  static let error: Int32 = 4
  static let dontRoute: Int32 = 5
  static let broadcast: Int32 = 6
  static let sendBuffer: Int32 = 7
  static let receiveBuffer: Int32 = 8
  static let keepAlive: Int32 = 9
  static let outOfBandInline: Int32 = 10
  static let noChecksum: Int32 = 11
  static let priority: Int32 = 12
  static let linger: Int32 = 13
  static let reusePort: Int32 = 15
  static let passCredentials: Int32 = 16
  static let peerCredentials: Int32 = 17
  static let receiveLowMark: Int32 = 18
  static let sendLowMark: Int32 = 19
  static let receiveTimeout: Int32 = 20
  static let sendTimeout: Int32 = 21
  static let bindToDevice: Int32 = 25
  static let attachFilter: Int32 = 26
  static let detachFilter: Int32 = 27
  static let peerName: Int32 = 28
  static let timestamp: Int32 = 29
  static let acceptsConnections: Int32 = 30
  static let sendBufferForced: Int32 = 32
  static let receiveBufferForced: Int32 = 33
  static let timestampNanoseconds: Int32 = 35
  static let mark: Int32 = 36
  static let timestamping: Int32 = 37
  static let protocolNumber: Int32 = 38
  static let domain: Int32 = 39
  static let overflowCount: Int32 = 40
  static let peekOffset: Int32 = 42
  static let lockFilter: Int32 = 44
  static let selectErrorQueue: Int32 = 45
  static let busyPoll: Int32 = 46
  static let maximumPacingRate: Int32 = 47
  static let filterExtensions: Int32 = 48
  static let incomingCPU: Int32 = 49
  static let attachReusePortFilter: Int32 = 51
  static let memoryInformation: Int32 = 55
  static let incomingQueue: Int32 = 56
  static let cookie: Int32 = 57
  static let zeroCopy: Int32 = 60
  static let bindToInterface: Int32 = 62
  static let timestampNew: Int32 = 63
  static let timestampNanosecondsNew: Int32 = 64
  static let timestampingNew: Int32 = 65
  static let receiveTimeoutNew: Int32 = 66
  static let sendTimeoutNew: Int32 = 67
  static let preferBusyPoll: Int32 = 69
  static let busyPollBudget: Int32 = 70

  /// The largest buffer that a program gets, before it is doubled (net.core.wmem_max, rmem_max).
  static let maximumBuffer: Int32 = 212_992
  /// Twice the smallest (SOCK_MIN_SNDBUF, SOCK_MIN_RCVBUF).
  static let minimumSendBuffer: Int32 = 4608
  static let minimumReceiveBuffer: Int32 = 2304
}

/// struct linger.
private struct Linger: BitwiseCopyable {
  var isOn: Int32 = 0
  var seconds: Int32 = 0
}

/// struct timeval.
struct OptionTime: BitwiseCopyable {
  var seconds: Int64 = 0
  var microseconds: Int64 = 0
}

/// What all sockets keep of these options.
public struct SocketOptionWords: ~Copyable {
  /// Options that are on or off, by their numbers, which are below 64.
  public let flags = Atomic<UInt64>(0)
  /// SO_LINGER: seconds; negative: off.
  public let linger = Atomic<Int32>(-1)
  /// SO_PRIORITY.
  public let priority = Atomic<UInt32>(0)
  /// SO_MARK.
  public let mark = Atomic<UInt32>(0)
  /// SO_RCVLOWAT.
  public let receiveLowMark = Atomic<Int32>(1)
  /// SO_PEEK_OFF; negative: off.
  public let peekOffset = Atomic<Int32>(-1)
  /// SO_TIMESTAMPING: SOF_TIMESTAMPING_*.
  public let timestamping = Atomic<UInt32>(0)
  /// SO_BUSY_POLL, microseconds.
  public let busyPoll = Atomic<Int32>(0)
  /// SO_MAX_PACING_RATE, bytes a second.
  public let maximumPacingRate = Atomic<UInt64>(.max)
  /// SO_COOKIE; 0: not asked for yet.
  let cookie = Atomic<UInt64>(0)

  /// As they are for a new socket.
  public init() {}

  /// As they are for another one, which has been accepted there.
  func inherit(_ other: borrowing SocketOptionWords) {
    flags.store(other.flags.load(ordering: .relaxed), ordering: .relaxed)
    linger.store(other.linger.load(ordering: .relaxed), ordering: .relaxed)
    priority.store(other.priority.load(ordering: .relaxed), ordering: .relaxed)
    mark.store(other.mark.load(ordering: .relaxed), ordering: .relaxed)
    receiveLowMark.store(other.receiveLowMark.load(ordering: .relaxed), ordering: .relaxed)
    timestamping.store(other.timestamping.load(ordering: .relaxed), ordering: .relaxed)
    busyPoll.store(other.busyPoll.load(ordering: .relaxed), ordering: .relaxed)
    maximumPacingRate.store(other.maximumPacingRate.load(ordering: .relaxed), ordering: .relaxed)
  }
}

private let lastCookie = Atomic<UInt64>(0)

extension Socket {
  /// Whether an option that is on or off is on.
  @inline(__always) final func isOn(_ option: Int32) -> Bool {
    optionWords.flags.load(ordering: .relaxed) &>> option.u64 & 1 != 0
  }

  /// Switches an option on or off.
  final func set(_ option: Int32, _ isOn: Bool) {
    if isOn {
      optionWords.flags.bitwiseOr(1 &<< option.u64, ordering: .relaxed)
    } else {
      optionWords.flags.bitwiseAnd(~(1 &<< option.u64), ordering: .relaxed)
    }
  }

  // MARK: Setting

  /// Sets an option of SOL_SOCKET as all families do.
  final func setCommonOption(_ name: Int32, _ value: OptionValue, _ caller: SocketCaller) throws(Errno) {
    switch name {
    case SocketOption.receiveTimeout, SocketOption.receiveTimeoutNew:
      receiveTimeout.store(try time(value), ordering: .relaxed)
    case SocketOption.sendTimeout, SocketOption.sendTimeoutNew: sendTimeout.store(try time(value), ordering: .relaxed)
    case SocketOption.linger:
      _ = try value.int()
      let linger = try value.load(as: Linger.self)
      // Longer than a program runs is as long.
      let seconds = linger.seconds < 0 ? Int32.max : linger.seconds
      optionWords.linger.store(linger.isOn != 0 ? seconds : -1, ordering: .relaxed)
    case SocketOption.maximumPacingRate where value.bytes.count >= 8:
      optionWords.maximumPacingRate.store(try value.load(as: UInt64.self), ordering: .relaxed)
    default: try setCommonNumber(name, try value.int(), caller.rights.isPrivileged)
    }
  }

  private func time(_ value: OptionValue) throws(Errno) -> UInt64 {
    let time = try value.load(as: OptionTime.self)
    guard time.microseconds >= 0, time.microseconds < 1_000_000 else { throw .EDOM }
    // No time at all is for ever, a time in the past is the shortest one.
    if time.seconds < 0 { return 1 }
    let (product, overflow) = time.seconds.u64.multipliedReportingOverflow(by: 1_000_000_000)
    return overflow ? .max &- 1 : product &+ time.microseconds.u64 &* 1000
  }

  private func setCommonNumber(_ name: Int32, _ number: Int32, _ isPrivileged: Bool) throws(Errno) {
    switch name {
    case SocketOption.sendBuffer:
      // A negative number is a large one.
      setSendBuffer(max(min(number.u32, SocketOption.maximumBuffer.u32).i32 &* 2, SocketOption.minimumSendBuffer))
    case SocketOption.receiveBuffer:
      setReceiveBuffer(
        max(min(number.u32, SocketOption.maximumBuffer.u32).i32 &* 2, SocketOption.minimumReceiveBuffer))
    case SocketOption.sendBufferForced, SocketOption.receiveBufferForced:
      guard isPrivileged else { throw .EPERM }
      let size = max(number, 0) < Int32.max / 2 ? max(number, 0) &* 2 : Int32.max
      if name == SocketOption.sendBufferForced {
        setSendBuffer(max(size, SocketOption.minimumSendBuffer))
      } else {
        setReceiveBuffer(max(size, SocketOption.minimumReceiveBuffer))
      }
    case SocketOption.passCredentials: wantsCredentials.store(number != 0, ordering: .relaxed)
    case SocketOption.priority:
      guard number >= 0 && number <= 6 || isPrivileged else { throw .EPERM }
      optionWords.priority.store(number.u32, ordering: .relaxed)
    case SocketOption.mark:
      guard isPrivileged else { throw .EPERM }
      optionWords.mark.store(number.u32, ordering: .relaxed)
    case SocketOption.receiveLowMark:
      optionWords.receiveLowMark.store(number < 0 ? .max : max(number, 1), ordering: .relaxed)
    case SocketOption.timestamp, SocketOption.timestampNanoseconds, SocketOption.timestampNew,
      SocketOption.timestampNanosecondsNew:
      setTimestamp(name, number != 0)
    case SocketOption.timestamping, SocketOption.timestampingNew:
      // SOF_TIMESTAMPING_MASK.
      guard number.u32 & ~0x1_ffff == 0 else { throw .EINVAL }
      set(SocketOption.timestampNew, name == SocketOption.timestampingNew)
      optionWords.timestamping.store(number.u32, ordering: .relaxed)
    case SocketOption.busyPoll:
      guard number >= 0 else { throw .EINVAL }
      guard isPrivileged || number <= optionWords.busyPoll.load(ordering: .relaxed) else { throw .EPERM }
      optionWords.busyPoll.store(number, ordering: .relaxed)
    case SocketOption.maximumPacingRate:
      optionWords.maximumPacingRate.store(number == -1 ? .max : number.u32.u64, ordering: .relaxed)
    case SocketOption.debug:
      guard isPrivileged || number == 0 else { throw .EACCES }
      set(name, number != 0)
    case SocketOption.reuseAddress, SocketOption.dontRoute, SocketOption.broadcast, SocketOption.keepAlive,
      SocketOption.outOfBandInline, SocketOption.noChecksum, SocketOption.reusePort, SocketOption.overflowCount,
      SocketOption.selectErrorQueue:
      set(name, number != 0)
    case SocketOption.preferBusyPoll, SocketOption.busyPollBudget:
      guard isPrivileged else { throw .EPERM }
    case SocketOption.peekOffset:
      guard hasPeekOffset else { throw .EOPNOTSUPP }
      optionWords.peekOffset.store(max(number, -1), ordering: .relaxed)
    case SocketOption.incomingCPU, SocketOption.lockFilter: break
    default: throw .ENOPROTOOPT
    }
  }

  /// One way of telling times takes the place of the other. Whether the numbers of 64-bit times are used (SO_*_NEW; the flag of
  /// `timestampNew`) is one thing for all of them, and stays when they are switched off.
  private func setTimestamp(_ name: Int32, _ isOn: Bool) {
    let isFine = name == SocketOption.timestampNanoseconds || name == SocketOption.timestampNanosecondsNew
    set(SocketOption.timestamp, isOn && !isFine)
    set(SocketOption.timestampNanoseconds, isOn && isFine)
    guard isOn else { return }
    set(
      SocketOption.timestampNew, name == SocketOption.timestampNew || name == SocketOption.timestampNanosecondsNew)
  }

  /// Whether a way of telling times reads as being on. SO_TIMESTAMP_NEW does with either of the new ones, as Linux has it.
  private func tellsTimes(_ name: Int32) -> Bool {
    let isFine = isOn(SocketOption.timestampNanoseconds)
    switch (name, isOn(SocketOption.timestampNew)) {
    case (SocketOption.timestamp, false): return isOn(name)
    case (SocketOption.timestampNanoseconds, false), (SocketOption.timestampNanosecondsNew, true): return isFine
    case (SocketOption.timestampNew, true): return isFine || isOn(SocketOption.timestamp)
    default: return false
    }
  }

  // MARK: Getting

  /// Answers about an option of SOL_SOCKET as all families do.
  final func getCommonOption(_ name: Int32, _ result: inout OptionResult) throws(Errno) {
    switch name {
    case SocketOption.type: result.put(kind.rawValue)
    case SocketOption.error: result.put(takeError()?.rawValue ?? 0)
    case SocketOption.sendBuffer: result.put(sendBufferByteCount.i32)
    case SocketOption.receiveBuffer: result.put(receiveBufferByteCount.load(ordering: .relaxed))
    case SocketOption.passCredentials: result.put(flag: wantsCredentials.load(ordering: .relaxed))
    case SocketOption.acceptsConnections: result.put(flag: isListening)
    case SocketOption.protocolNumber: result.put(protocolOption)
    case SocketOption.domain: result.put(family)
    case SocketOption.receiveLowMark: result.put(optionWords.receiveLowMark.load(ordering: .relaxed))
    case SocketOption.sendLowMark: result.put(1 as Int32)
    case SocketOption.priority: result.put(optionWords.priority.load(ordering: .relaxed))
    case SocketOption.mark: result.put(optionWords.mark.load(ordering: .relaxed))
    case SocketOption.peerCredentials: result.put(peerCredentials)
    case SocketOption.linger:
      let seconds = optionWords.linger.load(ordering: .relaxed)
      result.put(Linger(isOn: seconds < 0 ? 0 : 1, seconds: max(seconds, 0)))
    case SocketOption.receiveTimeout, SocketOption.receiveTimeoutNew: put(receiveTimeout, &result)
    case SocketOption.sendTimeout, SocketOption.sendTimeoutNew: put(sendTimeout, &result)
    case SocketOption.timestamp, SocketOption.timestampNanoseconds, SocketOption.timestampNew,
      SocketOption.timestampNanosecondsNew:
      result.put(flag: tellsTimes(name))
    case SocketOption.timestamping: result.put(optionWords.timestamping.load(ordering: .relaxed))
    case SocketOption.timestampingNew:
      result.put(isOn(SocketOption.timestampNew) ? optionWords.timestamping.load(ordering: .relaxed) : 0)
    case SocketOption.busyPoll: result.put(optionWords.busyPoll.load(ordering: .relaxed))
    case SocketOption.preferBusyPoll, SocketOption.busyPollBudget, SocketOption.incomingQueue: result.put(0 as Int32)
    case SocketOption.maximumPacingRate:
      let rate = optionWords.maximumPacingRate.load(ordering: .relaxed)
      if result.room >= 8 { result.put(rate) } else { result.put(min(rate, UInt32.max.u64).u32) }
    case SocketOption.incomingCPU: result.put(-1 as Int32)
    case SocketOption.filterExtensions: result.put(64 as Int32)
    case SocketOption.cookie: result.put(cookie)
    case SocketOption.peekOffset:
      guard hasPeekOffset else { throw .EOPNOTSUPP }
      result.put(optionWords.peekOffset.load(ordering: .relaxed))
    case SocketOption.debug, SocketOption.reuseAddress, SocketOption.dontRoute, SocketOption.broadcast,
      SocketOption.keepAlive, SocketOption.outOfBandInline, SocketOption.noChecksum, SocketOption.reusePort,
      SocketOption.overflowCount, SocketOption.selectErrorQueue, SocketOption.lockFilter, SocketOption.zeroCopy:
      result.put(flag: isOn(name))
    case SocketOption.peerName:
      let address = try peerAddress()
      guard result.room <= address.byteCount else { throw .EINVAL }
      address.withBytes { result.put(bytes: $0) }
    default: throw .ENOPROTOOPT
    }
  }

  /// From which byte on a peek gives bytes: 0 unless SO_PEEK_OFF says otherwise.
  final var peekOffset: Int { max(optionWords.peekOffset.load(ordering: .relaxed), 0).int }

  /// Bytes have been given to the program: the next peek, where SO_PEEK_OFF has set one, is about those behind, or as far from the first
  /// one as before.
  final func gave(_ count: Int, isPeek: Bool) {
    let offset = optionWords.peekOffset.load(ordering: .relaxed)
    guard offset >= 0 else { return }
    let moved = isPeek ? offset &+ count.i32 : max(offset &- count.i32, 0)
    optionWords.peekOffset.store(moved, ordering: .relaxed)
  }

  private func put(_ time: borrowing Atomic<UInt64>, _ result: inout OptionResult) {
    let nanoseconds = time.load(ordering: .relaxed)
    result.put(
      OptionTime(
        seconds: (nanoseconds / 1_000_000_000).i64, microseconds: (nanoseconds % 1_000_000_000 / 1000).i64))
  }

  /// A number that no other socket has.
  private var cookie: UInt64 {
    let known = optionWords.cookie.load(ordering: .relaxed)
    if known != 0 { return known }
    let fresh = lastCookie.wrappingAdd(1, ordering: .relaxed).newValue
    let result = optionWords.cookie.compareExchange(expected: 0, desired: fresh, ordering: .relaxed)
    return result.exchanged ? fresh : result.original
  }
}
