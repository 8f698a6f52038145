// PacketSocket: AF_PACKET (packet(7)): frames as they come and go, for DHCP clients, monitors, and whoever speaks a protocol of the link.
//
// SOCK_RAW: with the link's header; SOCK_DGRAM: without. A socket takes frames of one EtherType, or of all, of one interface, or of
// all; those of all types see what this machine sends too. Where a checksum or segmentation was left to the device, the frame is seen
// as it is then (PACKET_AUXDATA says so).
import Base
import Devices
import Files
import Locks
import Memory

/// A packet socket.
final class PacketSocket: Socket {
  static let number: UInt16 = 17

  private let stack: NetworkStack
  private let receiver: PacketReceiver
  private let errors: SocketErrors

  /// A socket for an EtherType; 3 (ETH_P_ALL): for all; 0: for none.
  /// - Throws: ENOMEM.
  init(kind: SocketKind, etherType: UInt16, flags: OpenFlags, stack: NetworkStack) throws(Errno) {
    let source = PollSource()
    errors = SocketErrors(source)
    guard let receiver = PacketReceiver(source, errors, hasLinkHeader: kind == .raw) else { throw .ENOMEM }
    self.receiver = receiver
    self.stack = stack
    super.init(family: Self.number.i32, kind: kind, flags: flags, source: source)
    receiver.set(etherType: etherType, interfaceIndex: 0)
    stack.sockets.taps.add(receiver, stack)
  }

  override var asksWhoSends: Bool { false }
  override func takeError() -> Errno? { errors.take() }
  override var protocolOption: Int32 { receiver.etherType.byteSwapped.i32 }

  // MARK: Addresses

  /// struct sockaddr_ll.
  private static func parse(_ address: SocketAddress) throws(Errno) -> (etherType: UInt16, index: UInt32) {
    guard address.byteCount >= 20 else { throw .EINVAL }
    guard address.family == number else { throw .EINVAL }
    return (address.load(2, as: UInt16.self).byteSwapped, address.load(4, as: UInt32.self))
  }

  private static func name(
    etherType: UInt16, index: UInt32, isLoopback: Bool, destination: PacketDestination, address: LinkAddress
  ) -> SocketAddress {
    // Family, type, index; kind of hardware, kind of packet, length of the address; the address.
    var words: [3 of UInt64] = [
      number.u64 | etherType.byteSwapped.u64 &<< 16 | index.u64 &<< 32,
      (isLoopback ? 772 : 1) as UInt64 | destination.rawValue.u64 &<< 16 | 6 &<< 24, 0,
    ]
    return withUnsafeMutableBytes(of: &words) {
      address.write(to: $0.baseAddress.unsafelyUnwrapped + 12)
      return SocketAddress(short: UnsafeRawBufferPointer(rebasing: $0[..<20]))
    }
  }

  override func bind(_ address: SocketAddress, _ caller: SocketCaller) throws(Errno) {
    let (etherType, index) = try Self.parse(address)
    guard index == 0 || stack.interface(index: index) != nil else { throw .ENODEV }
    receiver.set(etherType: etherType != 0 ? etherType : receiver.etherType, interfaceIndex: index)
  }

  override func address() throws(Errno) -> SocketAddress {
    let index = receiver.boundInterface.load(ordering: .relaxed)
    let interface = stack.interface(index: index)
    return Self.name(
      etherType: receiver.etherType, index: index, isLoopback: interface?.kind == .loopback, destination: .host,
      address: interface?.linkAddress ?? .zero)
  }

  // MARK: Sending

  override func send(_ transfer: inout Transfer, _ message: OutgoingMessage, _ caller: SocketCaller?) throws(Errno)
    -> Int
  {
    var index = receiver.boundInterface.load(ordering: .relaxed)
    var etherType = receiver.etherType
    var target = LinkAddress.zero
    if let address = message.address {
      let named = try Self.parse(address)
      if named.index != 0 { index = named.index }
      if named.etherType != 0 { etherType = named.etherType }
      target = address.withBytes { LinkAddress(reading: $0.baseAddress.unsafelyUnwrapped + 12) }
    }
    guard let interface = stack.interface(index: index) else { throw .ENXIO }
    guard interface.isUp else { throw .ENETDOWN }
    let count = transfer.remaining
    let hasHeader = kind == .raw
    guard count <= interface.mtu &+ (hasHeader ? SocketTap.linkHeaderByteCount : 0) else { throw .EMSGSIZE }
    guard !hasHeader || count >= SocketTap.linkHeaderByteCount else { throw .EINVAL }
    var packet = try Packet.filled(&transfer, count, headroom: Packet.headroom)
    if !hasHeader {
      guard let start = packet.prepend(SocketTap.linkHeaderByteCount) else { throw .ENOBUFS }
      target.write(to: start)
      interface.linkAddress.write(to: start + 6)
      start.storeBytes(of: etherType.bigEndian, toByteOffset: 12, as: UInt16.self)
    }
    try transmit(packet, by: interface)
    stack.runDeferred()
    return count
  }

  private func transmit(_ packet: consuming Packet, by interface: NetworkInterface) throws(Errno) {
    guard packet.pull(SocketTap.linkHeaderByteCount) else { throw .ENOBUFS }
    packet.protocolNumber = UInt16(bigEndian: packet.head.loadUnaligned(fromByteOffset: 12, as: UInt16.self))
    packet.linkOffset = 0
    packet.interfaceIndex = interface.index
    if interface.kind == .loopback {
      packet.dropFirst(SocketTap.linkHeaderByteCount)
    } else {
      stack.sockets.taps.frame(packet, isOutgoing: true)
    }
    interface.transmit(packet)
  }

  // MARK: Receiving

  override func receive(_ transfer: inout Transfer, _ flags: MessageFlags) throws(Errno) -> IncomingMessage {
    if flags.contains(.errorQueue) { throw .EAGAIN }
    let deadline = deadline(receiveTimeout, flags)
    while true {
      try errors.check()
      if let packet = receiver.next(keeps: flags.contains(.peek)) {
        var result = IncomingMessage()
        describe(packet, &result)
        let size = packet.byteCount
        let copied = try transfer.copyOut(packet)
        result.count = flags.contains(.truncated) ? size : copied
        if copied < size { result.flags.insert(.truncated) }
        return result
      }
      if deadline == .now { throw .EAGAIN }
      let result = source.wait(until: deadline) { receiver.isEmpty && !errors.isThere }
      if result == .interrupted { throw .EINTR }
      if result == .timedOut { throw .EAGAIN }
    }
  }

  private func describe(_ packet: borrowing Packet, _ result: inout IncomingMessage) {
    let sender = SocketTap.sender(of: packet)
    result.address = Self.name(
      etherType: packet.protocolNumber, index: packet.interfaceIndex,
      isLoopback: packet.interfaceIndex == stack.loopback.index, destination: packet.destination, address: sender)
    describeTime(packet.receivedAt, &result.control)
    if receiver.tellsMore.load(ordering: .relaxed) {
      result.control.parts.insert(.auxiliary)
      // TP_STATUS_USER, and TP_STATUS_CSUMNOTREADY or TP_STATUS_CSUM_VALID.
      let isPartial = if case .partial = packet.checksum { true } else { false }
      let status: UInt32 = isPartial ? 1 | 8 : 1 | 0x80
      let size = packet.byteCount.u32
      let start: UInt32 = kind == .raw ? SocketTap.linkHeaderByteCount.u32 : 0
      result.control.auxiliary = [status, size, size, start &<< 16, 0]
    }
  }

  override func writeControl(_ message: IncomingMessage, _ writer: inout ControlWriter) throws(Errno) {
    try writeCommonControl(message.control, &writer)
    if message.control.parts.contains(.auxiliary) {
      try writer.put(OptionLevel.packet, Option.auxiliaryData, message.control.auxiliary)
    }
  }

  override var readyMask: ReadyMask {
    var result: ReadyMask = .writable
    if receiver.nextByteCount != nil { result.insert(.readable) }
    if errors.isThere { result.insert(.error) }
    return result
  }

  override func closed() {
    stack.sockets.taps.remove(receiver)
    receiver.removeAll()
    source.notify([.readable, .writable, .hangUp, .error])
  }

  override func control(_ request: UInt32, _ argument: UInt64) throws(Errno) -> Int {
    if let result = try InterfaceControl(stack).run(request, argument) { return result }
    guard request == ControlRequest.readableByteCount else { throw .ENOTTY }
    try UserSpan.write((receiver.nextByteCount ?? 0).i32, at: VirtualAddress(argument))
    return 0
  }

  // MARK: Options

  private enum Option {
    static let addMembership: Int32 = 1
    static let dropMembership: Int32 = 2
    static let statistics: Int32 = 6
    static let auxiliaryData: Int32 = 8
    static let ignoresOutgoing: Int32 = 23
  }

  override func setReceiveBuffer(_ byteCount: Int32) {
    super.setReceiveBuffer(byteCount)
    receiver.limit.store(byteCount.int, ordering: .relaxed)
  }

  override func setOption(_ level: Int32, _ name: Int32, _ value: OptionValue, _ caller: SocketCaller) throws(Errno) {
    switch (level, name) {
    case (OptionLevel.socket, SocketOption.attachFilter): receiver.setFilter(try PacketFilter(program: value))
    case (OptionLevel.socket, SocketOption.detachFilter): receiver.setFilter(nil)
    case (OptionLevel.packet, Option.addMembership), (OptionLevel.packet, Option.dropMembership):
      // The interface takes all frames of its link that are for us or for many; promiscuous it is not.
      guard stack.interface(index: try value.load(as: UInt32.self)) != nil else { throw .ENODEV }
    case (OptionLevel.packet, Option.auxiliaryData):
      receiver.tellsMore.store(try value.int() != 0, ordering: .relaxed)
    case (OptionLevel.packet, Option.ignoresOutgoing):
      receiver.ignoresOutgoing.store(try value.int() != 0, ordering: .relaxed)
    case (OptionLevel.packet, _): throw .ENOPROTOOPT
    default: try super.setOption(level, name, value, caller)
    }
  }

  override func getOption(_ level: Int32, _ name: Int32, _ result: inout OptionResult) throws(Errno) {
    guard level == OptionLevel.packet else { return try super.getOption(level, name, &result) }
    switch name {
    case Option.statistics:
      let dropped = receiver.refusedCount.exchange(0, ordering: .relaxed)
      result.put([receiver.takenCount.exchange(0, ordering: .relaxed).u32, dropped.u32] as [2 of UInt32])
    case Option.auxiliaryData: result.put(flag: receiver.tellsMore.load(ordering: .relaxed))
    case Option.ignoresOutgoing: result.put(flag: receiver.ignoresOutgoing.load(ordering: .relaxed))
    default: throw .ENOPROTOOPT
    }
  }
}
