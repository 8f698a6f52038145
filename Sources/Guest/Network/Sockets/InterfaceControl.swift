// InterfaceControl: what programs ask and tell about interfaces by ioctl on a socket of any family (netdevice(7)).
import Base
import Files
import Memory

/// struct ifreq: a name, and what the request is about.
private struct InterfaceRequest: BitwiseCopyable {
  static let byteCount = 40
  var name: [2 of UInt64] = .init(repeating: 0)
  var value: [3 of UInt64] = .init(repeating: 0)

  /// The name without what follows its NUL, or a colon (an alias).
  var bytes: [UInt8] {
    var result: [UInt8] = []
    for index in 0..<16 {
      let byte = (name[index / 8] &>> (index % 8 &* 8).u64).u8
      if byte == 0 || byte == 0x3a { break }
      result.append(byte)
    }
    return result
  }

  mutating func set(name bytes: [UInt8]) {
    name = .init(repeating: 0)
    for index in 0..<min(bytes.count, 15) { name[index / 8] |= bytes[index].u64 &<< (index % 8 &* 8).u64 }
  }

  /// A `sockaddr_in` in the value.
  var address: IPAddress {
    get { IPAddress(v4: (value[0] &>> 32).u32.byteSwapped) }
    set { value = [InternetEndpoint.family4.u64 | newValue.v4.byteSwapped.u64 &<< 32, 0, value[2]] }
  }

  var number: UInt32 {
    get { value[0].u32 }
    set { value[0] = value[0] & ~0xffff_ffff | newValue.u64 }
  }
}

/// Answers requests about interfaces.
struct InterfaceControl {
  private let stack: NetworkStack

  init(_ stack: NetworkStack) { self.stack = stack }

  /// Numbers of requests (SIOC*).
  private enum Request {
    static let addRoute: UInt32 = 0x890b
    static let removeRoute: UInt32 = 0x890c
    static let getName: UInt32 = 0x8910
    static let getList: UInt32 = 0x8912
    static let getFlags: UInt32 = 0x8913
    static let setFlags: UInt32 = 0x8914
    static let getAddress: UInt32 = 0x8915
    static let setAddress: UInt32 = 0x8916
    static let getFarAddress: UInt32 = 0x8917
    static let getBroadcast: UInt32 = 0x8919
    static let setBroadcast: UInt32 = 0x891a
    static let getMask: UInt32 = 0x891b
    static let setMask: UInt32 = 0x891c
    static let getMetric: UInt32 = 0x891d
    static let setMetric: UInt32 = 0x891e
    static let setName: UInt32 = 0x8923
    static let setLinkAddress: UInt32 = 0x8924
    static let addGroup: UInt32 = 0x8931
    static let removeGroup: UInt32 = 0x8932
    static let setQueueLength: UInt32 = 0x8943
    static let getMTU: UInt32 = 0x8921
    static let setMTU: UInt32 = 0x8922
    static let getLinkAddress: UInt32 = 0x8927
    static let getIndex: UInt32 = 0x8933
    static let getQueueLength: UInt32 = 0x8942
    static let tools: UInt32 = 0x8946
    static let getMap: UInt32 = 0x8970
  }

  /// Does what a request asks for.
  /// - Returns: nil: it is not about interfaces.
  /// - Throws: ENODEV: there is no such interface; EADDRNOTAVAIL: it has no address; EPERM, EFAULT…
  func run(_ request: UInt32, _ argument: UInt64) throws(Errno) -> Int? {
    let place = VirtualAddress(argument)
    switch request {
    case Request.getList: try list(at: place)
    case Request.getName:
      var wanted = try UserSpan.read(InterfaceRequest.self, at: place)
      guard let interface = stack.interface(index: wanted.number) else { throw .ENODEV }
      wanted.set(name: interface.name)
      try UserSpan.write(wanted, at: place)
    case Request.addRoute, Request.removeRoute: try changeRoute(at: place, adds: request == Request.addRoute)
    case Request.getFlags, Request.getAddress, Request.getFarAddress, Request.getBroadcast, Request.getMask,
      Request.getMetric, Request.getMTU, Request.getLinkAddress, Request.getIndex, Request.getQueueLength,
      Request.getMap:
      var wanted = try UserSpan.read(InterfaceRequest.self, at: place)
      try answer(request, &wanted)
      try UserSpan.write(wanted, at: place)
    case Request.setFlags, Request.setAddress, Request.setMask, Request.setBroadcast, Request.setMTU:
      let wanted = try UserSpan.read(InterfaceRequest.self, at: place)
      guard Socket.isCallerPrivileged else { throw .EPERM }
      try change(request, wanted)
    case Request.tools: throw .EOPNOTSUPP
    case Request.setMetric, Request.setName, Request.setLinkAddress, Request.addGroup, Request.removeGroup,
      Request.setQueueLength:
      guard Socket.isCallerPrivileged else { throw .EPERM }
      throw .EOPNOTSUPP
    default: return nil
    }
    return 0
  }

  // MARK: Asking

  /// SIOCGIFCONF: the interfaces that have an IPv4 address, as many as there is room for, or how much room they take.
  private func list(at place: VirtualAddress) throws(Errno) {
    let room = try UserSpan.read(Int32.self, at: place).int
    let buffer = VirtualAddress(try UserSpan.read(UInt64.self, at: place + 8))
    let links = stack.links
    var used = 0
    for address in stack.addressStatuses where address.address.isV4 {
      guard let link = links.first(where: { $0.index == address.interfaceIndex }) else { continue }
      if buffer.rawValue != 0 {
        guard used &+ InterfaceRequest.byteCount <= room else { break }
        var entry = InterfaceRequest()
        entry.set(name: link.name)
        entry.address = address.address
        try UserSpan.write(entry, at: buffer + used)
      }
      used &+= InterfaceRequest.byteCount
    }
    try UserSpan.write(used.i32, at: place)
  }

  private func answer(_ request: UInt32, _ wanted: inout InterfaceRequest) throws(Errno) {
    let name = wanted.bytes
    guard let link = stack.links.first(where: { $0.name == name }) else { throw .ENODEV }
    switch request {
    case Request.getFlags: wanted.value[0] = wanted.value[0] & ~0xffff | link.flags.u64 & 0xffff
    case Request.getMetric: wanted.number = 0
    case Request.getMTU: wanted.number = link.mtu
    case Request.getIndex: wanted.number = link.index
    case Request.getQueueLength: wanted.number = link.queueLength
    case Request.getMap: wanted.value = .init(repeating: 0)
    case Request.getLinkAddress:
      var word = link.hardwareType.u64
      for index in 0..<6 { word |= link.address[index].u64 &<< (16 &+ index &* 8).u64 }
      wanted.value = [word, 0, wanted.value[2]]
    default:
      guard let found = address(of: link.index) else { throw .EADDRNOTAVAIL }
      switch request {
      case Request.getBroadcast: wanted.address = found.broadcast ?? .any4
      case Request.getMask: wanted.address = Self.mask(found.prefixLength)
      default: wanted.address = found.address
      }
    }
  }

  private func address(of index: UInt32) -> AddressStatus? {
    for address in stack.addressStatuses where address.interfaceIndex == index && address.address.isV4 {
      return address
    }
    return nil
  }

  private static func mask(_ prefixLength: UInt8) -> IPAddress { IPAddress.broadcast4.prefix(prefixLength.int) }

  // MARK: Telling

  private func change(_ request: UInt32, _ wanted: InterfaceRequest) throws(Errno) {
    guard let interface = stack.interface(named: wanted.bytes) else { throw .ENODEV }
    switch request {
    case Request.setFlags: interface.setUp(wanted.value[0] & 1 != 0)
    case Request.setMTU: try interface.setMTU(wanted.number.i32.int)
    case Request.setAddress:
      // The old one goes; the new one has the class's mask until SIOCSIFNETMASK, as ever.
      let address = wanted.address
      guard wanted.value[0].u16 == InternetEndpoint.family4 else { throw .EINVAL }
      if let old = self.address(of: interface.index) {
        try interface.remove(old.address)
      }
      if address == .any4 { return }
      let first = address.v4 &>> 24
      try interface.add(InterfaceAddress(address, prefixLength: first < 128 ? 8 : first < 192 ? 16 : 24))
    case Request.setMask:
      guard let old = self.address(of: interface.index) else { throw .EADDRNOTAVAIL }
      let mask = wanted.address.v4
      let length = (~mask).leadingZeroBitCount
      guard IPAddress(v4: mask) == Self.mask(length.u8) else { throw .EINVAL }
      if length == old.prefixLength.int { return }
      try interface.remove(old.address)
      try interface.add(InterfaceAddress(old.address, prefixLength: length))
    default: break  // The broadcast address follows from the others.
    }
  }

  /// struct rtentry.
  private func changeRoute(at place: VirtualAddress, adds: Bool) throws(Errno) {
    guard Socket.isCallerPrivileged else { throw .EPERM }
    func address(_ offset: Int) throws(Errno) -> IPAddress {
      IPAddress(v4: try UserSpan.read(UInt32.self, at: place + (offset &+ 4)).byteSwapped)
    }
    let destination = try address(8)
    let gateway = try address(24)
    let mask = try address(40).v4
    let flags = try UserSpan.read(UInt16.self, at: place + 56)
    let device = VirtualAddress(try UserSpan.read(UInt64.self, at: place + 80))
    // RTF_HOST, RTF_GATEWAY.
    let length = flags & 4 != 0 ? 32 : (~mask).leadingZeroBitCount
    var route = RouteStatus(
      destination: destination, prefixLength: length.u8, gateway: flags & 2 != 0 ? gateway : nil, interfaceIndex: 0,
      metric: 0, source: nil, origin: 3)
    if device.rawValue != 0 {
      guard let interface = stack.interface(named: try UserSpan.readString(at: device, max: 15)) else { throw .ENODEV }
      route.interfaceIndex = interface.index
    } else if adds {
      route.interfaceIndex = try stack.route(to: gateway, source: nil, interface: 0).interfaceIndex
    }
    if adds { try stack.add(route, replaces: false) } else { try stack.remove(route) }
  }
}
