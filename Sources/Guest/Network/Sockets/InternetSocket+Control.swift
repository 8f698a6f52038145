// Control messages of Internet sockets, as programs write and read them (cmsg(3), ip(7), ipv6(7), udp(7)).
import Base
import Files
import Locks
import Memory
import Platform

/// Types of control messages; most are the numbers of the options that ask for them.
private enum ControlType {
  static let trafficClass4: Int32 = 1
  static let hopLimit4: Int32 = 2
  static let packetInformation4: Int32 = 8
  static let errors4: Int32 = 11
  static let destination4: Int32 = 20
  static let oldPacketInformation6: Int32 = 2
  static let oldHopLimit6: Int32 = 8
  static let flowInformation6: Int32 = 11
  static let errors6: Int32 = 25
  static let packetInformation6: Int32 = 50
  static let hopLimit6: Int32 = 52
  static let dontFragment6: Int32 = 62
  static let trafficClass6: Int32 = 67
  static let destination6: Int32 = 74
  static let segment: Int32 = 103
  static let segments: Int32 = 104
  static let transmitTime: Int32 = 61
}

/// struct in_pktinfo.
private struct PacketInformation4: BitwiseCopyable {
  var interfaceIndex: UInt32
  var specificDestination: UInt32
  var destination: UInt32
}

/// struct in6_pktinfo.
private struct PacketInformation6: BitwiseCopyable {
  var address: [4 of UInt32]
  var interfaceIndex: UInt32
}

/// struct timespec.
private struct Timestamp: BitwiseCopyable {
  var seconds: Int64 = 0
  var nanoseconds: Int64 = 0
  init() {}
  init(_ time: UInt64) {
    seconds = (time / 1_000_000_000).i64
    nanoseconds = (time % 1_000_000_000).i64
  }
}

extension IPAddress {
  /// As four words in network order.
  fileprivate var words: [4 of UInt32] {
    [(high &>> 32).u32.byteSwapped, high.u32.byteSwapped, (low &>> 32).u32.byteSwapped, low.u32.byteSwapped]
  }

  fileprivate init(words: [4 of UInt32]) {
    self.init(
      high: words[0].byteSwapped.u64 &<< 32 | words[1].byteSwapped.u64,
      low: words[2].byteSwapped.u64 &<< 32 | words[3].byteSwapped.u64)
  }
}

// MARK: What the program asks for a message

extension InternetSocket {
  /// Takes a control message that goes with a message to be sent.
  final func readInternetControl(
    _ level: Int32, _ type: Int32, _ bytes: UnsafeRawBufferPointer, into control: inout OutgoingControl
  ) throws(Errno) {
    let value = OptionValue(bytes)
    switch (level, type) {
    case (OptionLevel.socket, SocketOption.mark), (OptionLevel.socket, SocketOption.priority),
      (OptionLevel.socket, SocketOption.timestamping), (OptionLevel.socket, SocketOption.timestampingNew):
      _ = try value.int()
    case (OptionLevel.socket, ControlType.transmitTime): _ = try value.load(as: UInt64.self)
    case (OptionLevel.internet4, ControlType.packetInformation4):
      let information = try value.load(as: PacketInformation4.self)
      control.interfaceIndex = information.interfaceIndex
      control.source = IPAddress(v4: information.specificDestination.byteSwapped)
    case (OptionLevel.internet4, ControlType.hopLimit4):
      let limit = try value.int()
      guard limit >= 1, limit <= 255 else { throw .EINVAL }
      control.hopLimit = limit
    case (OptionLevel.internet4, ControlType.trafficClass4):
      let value = try value.intOrByte()
      guard value >= 0, value <= 255 else { throw .EINVAL }
      control.trafficClass = value
    case (OptionLevel.internet6, _) where isIPv6: try readControl6(type, value, &control)
    case (OptionLevel.datagram, ControlType.segment) where protocolNumber == 17:
      control.segmentByteCount = try value.load(as: UInt16.self)
    case (OptionLevel.socket, _), (OptionLevel.internet4, _): throw .EINVAL
    default: break  // Another level's business.
    }
  }

  private final func readControl6(_ type: Int32, _ value: OptionValue, _ control: inout OutgoingControl) throws(Errno) {
    switch type {
    case ControlType.packetInformation6, ControlType.oldPacketInformation6:
      let information = try value.load(as: PacketInformation6.self)
      let address = IPAddress(words: information.address)
      if control.interfaceIndex != 0, information.interfaceIndex != 0,
        control.interfaceIndex != information.interfaceIndex
      {
        throw .EINVAL
      }
      control.interfaceIndex = information.interfaceIndex
      guard address.isUnspecified || has(.bindsFreely) || has(.isTransparent) || stack.kind(of: address) == .local
      else { throw .EINVAL }
      control.source = address
    case ControlType.hopLimit6, ControlType.oldHopLimit6:
      let limit = try value.int()
      guard limit >= -1, limit <= 255 else { throw .EINVAL }
      control.hopLimit = limit
    case ControlType.trafficClass6:
      let value = try value.int()
      guard value >= -1, value <= 255 else { throw .EINVAL }
      control.trafficClass = value
    case ControlType.dontFragment6:
      let value = try value.int()
      guard value == 0 || value == 1 else { throw .EINVAL }
      control.dontFragment = value.i8
    case ControlType.flowInformation6: _ = try value.int()
    default: throw .EINVAL
    }
  }

  // MARK: What the program is told of one

  /// Keeps what the program wants to know about a packet.
  /// - Parameters:
  ///   - destinationPort: the port it was sent to; 0: there are none.
  ///   - receivedAt: ns of `Clock.now`.
  final func describe(
    _ header: InternetHeader, destinationPort: UInt16, _ receivedAt: UInt64, _ control: inout IncomingControl
  ) {
    control.destination = header.destination
    control.specificDestination = header.destination
    control.destinationPort = destinationPort
    control.interfaceIndex = header.interfaceIndex
    control.hopLimit = header.hopLimit
    control.trafficClass = header.trafficClass
    let flags = InternetOptions.Flags(rawValue: optionFlags.load(ordering: .relaxed))
    if flags.contains(.tellsPacket6) { control.parts.insert(.packetInformation6) }
    if flags.contains(.tellsOldPacket6) { control.parts.insert(.oldPacketInformation6) }
    if header.destination.isV4 {
      if flags.contains(.tellsPacket4) {
        control.parts.insert(.packetInformation4)
        control.specificDestination = stack.specificDestination(of: header)
      }
      if flags.contains(.tellsHopLimit4) { control.parts.insert(.hopLimit4) }
      if flags.contains(.tellsTrafficClass4) { control.parts.insert(.trafficClass4) }
      if flags.contains(.tellsDestination4) { control.parts.insert(.originalDestination) }
    } else {
      if flags.contains(.tellsHopLimit6) { control.parts.insert(.hopLimit6) }
      if flags.contains(.tellsOldHopLimit6) { control.parts.insert(.oldHopLimit6) }
      if flags.contains(.tellsTrafficClass6) { control.parts.insert(.trafficClass6) }
      if flags.contains(.tellsDestination6) { control.parts.insert(.originalDestination) }
    }
    describeTime(receivedAt, &control)
  }

  /// Writes what was kept.
  final func writeInternetControl(_ control: IncomingControl, _ writer: inout ControlWriter) throws(Errno) {
    if control.parts.isEmpty { return }
    try writeCommonControl(control, &writer)
    if control.parts.contains(.segments) {
      try writer.put(OptionLevel.datagram, ControlType.segments, control.segmentByteCount.i32)
    }
    try writeControl4(control, &writer)
    try writeControl6(control, &writer)
  }

  private final func writeControl4(_ control: IncomingControl, _ writer: inout ControlWriter) throws(Errno) {
    if control.parts.contains(.packetInformation4) {
      try writer.put(
        OptionLevel.internet4, ControlType.packetInformation4,
        PacketInformation4(
          interfaceIndex: control.interfaceIndex, specificDestination: control.specificDestination.v4.byteSwapped,
          destination: control.destination.v4.byteSwapped))
    }
    if control.parts.contains(.hopLimit4) {
      try writer.put(OptionLevel.internet4, ControlType.hopLimit4, control.hopLimit.i32)
    }
    if control.parts.contains(.trafficClass4) {
      try writer.put(OptionLevel.internet4, ControlType.trafficClass4, control.trafficClass)
    }
    if control.parts.contains(.originalDestination), control.destination.isV4 {
      let address = InternetEndpoint(control.destination, port: control.destinationPort).sockaddr4
      try address.withBytes { (bytes) throws(Errno) in
        try writer.put(OptionLevel.internet4, ControlType.destination4, bytes: bytes)
      }
    }
    if control.parts.contains(.error4) {
      try putError(OptionLevel.internet4, ControlType.errors4, control, &writer)
    }
  }

  private final func writeControl6(_ control: IncomingControl, _ writer: inout ControlWriter) throws(Errno) {
    let information = PacketInformation6(
      address: control.destination.words, interfaceIndex: control.interfaceIndex)
    if control.parts.contains(.packetInformation6) {
      try writer.put(OptionLevel.internet6, ControlType.packetInformation6, information)
    }
    if control.parts.contains(.oldPacketInformation6) {
      try writer.put(OptionLevel.internet6, ControlType.oldPacketInformation6, information)
    }
    if control.parts.contains(.hopLimit6) {
      try writer.put(OptionLevel.internet6, ControlType.hopLimit6, control.hopLimit.i32)
    }
    if control.parts.contains(.oldHopLimit6) {
      try writer.put(OptionLevel.internet6, ControlType.oldHopLimit6, control.hopLimit.i32)
    }
    if control.parts.contains(.trafficClass6) {
      try writer.put(OptionLevel.internet6, ControlType.trafficClass6, control.trafficClass.i32)
    }
    if control.parts.contains(.originalDestination), !control.destination.isV4 {
      let address = InternetEndpoint(
        control.destination, port: control.destinationPort, scope: control.interfaceIndex
      ).sockaddr6
      try address.withBytes { (bytes) throws(Errno) in
        try writer.put(OptionLevel.internet6, ControlType.destination6, bytes: bytes)
      }
    }
    if control.parts.contains(.error6) {
      try putError(OptionLevel.internet6, ControlType.errors6, control, &writer)
    }
  }

  /// An error, and who says so.
  private final func putError(
    _ level: Int32, _ type: Int32, _ control: IncomingControl, _ writer: inout ControlWriter
  ) throws(Errno) {
    var buffer: [8 of UInt64] = .init(repeating: 0)
    let isV4 = level == OptionLevel.internet4
    let address = isV4 ? control.offender.sockaddr4 : control.offender.sockaddr6
    try withUnsafeMutableBytes(of: &buffer) { (bytes) throws(Errno) in
      bytes.storeBytes(of: control.error, as: ExtendedError.self)
      // An end that nobody has named has no family.
      let isNamed = !control.offender.address.isUnspecified
      address.withBytes { offender in
        for index in 0..<offender.count where isNamed { bytes[16 &+ index] = offender[index] }
      }
      let count = 16 &+ (isV4 ? InternetEndpoint.byteCount4 : InternetEndpoint.byteCount6)
      try writer.put(level, type, bytes: UnsafeRawBufferPointer(rebasing: bytes[..<count]))
    }
  }
}

extension Socket {
  /// Keeps when a packet came (ns of `Clock.now`), if the program wants to know.
  final func describeTime(_ receivedAt: UInt64, _ control: inout IncomingControl) {
    let wanted = isOn(SocketOption.timestamp) || isOn(SocketOption.timestampNanoseconds)
    guard wanted || tellsTimestamps else { return }
    control.parts.insert(.time)
    let ago = receivedAt == 0 ? 0 : Clock.now() &- receivedAt
    control.time = Clock.realtime() &- ago
  }

  /// Writes what is of level SOL_SOCKET.
  final func writeCommonControl(_ control: IncomingControl, _ writer: inout ControlWriter) throws(Errno) {
    if control.parts.contains(.time) {
      let isNew = isOn(SocketOption.timestampNew)
      if isOn(SocketOption.timestampNanoseconds) {
        try writer.put(
          OptionLevel.socket, isNew ? SocketOption.timestampNanosecondsNew : SocketOption.timestampNanoseconds,
          Timestamp(control.time))
      } else if isOn(SocketOption.timestamp) {
        try writer.put(
          OptionLevel.socket, isNew ? SocketOption.timestampNew : SocketOption.timestamp,
          OptionTime(
            seconds: (control.time / 1_000_000_000).i64, microseconds: (control.time % 1_000_000_000 / 1000).i64))
      }
      if tellsTimestamps {
        let times: [3 of Timestamp] = [Timestamp(control.time), Timestamp(), Timestamp()]
        try writer.put(
          OptionLevel.socket, isNew ? SocketOption.timestampingNew : SocketOption.timestamping, times)
      }
    }
    if control.parts.contains(.dropped), control.droppedCount > 0 {
      try writer.put(OptionLevel.socket, SocketOption.overflowCount, control.droppedCount)
    }
  }

  /// SO_TIMESTAMPING: when packets came (SOF_TIMESTAMPING_RX_SOFTWARE), and that it is told (SOF_TIMESTAMPING_SOFTWARE).
  private final var tellsTimestamps: Bool {
    optionWords.timestamping.load(ordering: .relaxed) & 0x18 == 0x18
  }
}
