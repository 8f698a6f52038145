// The options of level SOL_IP (ip(7)).
import Base
import Files
import Locks

/// Their numbers (IP_*).
private enum Option4 {
  static let trafficClass: Int32 = 1
  static let hopLimit: Int32 = 2
  static let headerIncluded: Int32 = 3
  static let options: Int32 = 4
  static let routerAlert: Int32 = 5
  static let receivesOptions: Int32 = 6
  static let returnsOptions: Int32 = 7
  static let packetInformation: Int32 = 8
  static let packetOptions: Int32 = 9
  static let pathMTUDiscovery: Int32 = 10
  static let tellsErrors: Int32 = 11
  static let tellsHopLimit: Int32 = 12
  static let tellsTrafficClass: Int32 = 13
  static let pathMTU: Int32 = 14
  static let bindsFreely: Int32 = 15
  static let isTransparent: Int32 = 19
  static let tellsDestination: Int32 = 20
  static let minimumHopLimit: Int32 = 21
  static let takesFragments: Int32 = 22
  static let bindsAddressOnly: Int32 = 24
  static let tellsErrorsMore: Int32 = 26
  static let multicastInterface: Int32 = 32
  static let multicastHopLimit: Int32 = 33
  static let loopsMulticast: Int32 = 34
  static let takesAllGroups: Int32 = 49
  static let unicastInterface: Int32 = 50
  static let portRange: Int32 = 51
  static let protocolNumber: Int32 = 52

  /// The flag of an option that is on or off.
  static func flag(_ name: Int32) -> InternetOptions.Flags? {
    switch name {
    case packetInformation: .tellsPacket4
    case tellsErrors: .tellsErrors4
    case tellsHopLimit: .tellsHopLimit4
    case tellsTrafficClass: .tellsTrafficClass4
    case tellsDestination: .tellsDestination4
    case receivesOptions: .receivesOptions
    case returnsOptions: .returnsOptions
    case bindsFreely: .bindsFreely
    case isTransparent: .isTransparent
    case bindsAddressOnly: .bindsAddressOnly
    case loopsMulticast: .loopsMulticast4
    case takesAllGroups: .takesAllGroups4
    case headerIncluded: .hasHeader
    case takesFragments: .takesFragments
    default: nil
    }
  }
}

extension InternetSocket {
  // MARK: Setting

  final func setOption4(_ name: Int32, _ value: OptionValue, _ caller: SocketCaller) throws(Errno) {
    if try setGroupOption(name, value, isV4: true) { return }
    switch name {
    case Option4.options:
      // Options in packets are dropped by most of the world; none can be set.
      guard value.bytes.isEmpty else { throw .EOPNOTSUPP }
      return
    case Option4.multicastInterface: return try setMulticastInterface(value)
    case Option4.unicastInterface:
      guard value.bytes.count == 4 else { throw .EINVAL }
      let index = try value.load(as: UInt32.self).byteSwapped
      guard index == 0 || stack.interface(index: index) != nil else { throw .EADDRNOTAVAIL }
      return lock.withLock { options.unicastInterface4 = index }
    case Option4.portRange:
      guard value.bytes.count == 4 else { throw .EINVAL }
      let range = try value.load(as: UInt32.self)
      guard range & 0xffff == 0 || range &>> 16 == 0 || range & 0xffff <= range &>> 16 else { throw .EINVAL }
      return lock.withLock { (options.firstPort, options.lastPort) = (range.u16, (range &>> 16).u16) }
    default: break
    }
    let number = value.bytes.isEmpty ? 0 : try value.intOrByte()
    if let flag = Option4.flag(name) { return try setFlag4(flag, number, value, caller) }
    try setNumber4(name, number)
  }

  private final func setFlag4(
    _ flag: InternetOptions.Flags, _ number: Int32, _ value: OptionValue, _ caller: SocketCaller
  ) throws(Errno) {
    switch flag {
    case .hasHeader: guard kind == .raw else { throw .ENOPROTOOPT }
    case .loopsMulticast4, .bindsFreely, .takesAllGroups4: guard !value.bytes.isEmpty else { throw .EINVAL }
    case .isTransparent: guard number == 0 || caller.rights.isPrivileged else { throw .EPERM }
    default: break
    }
    if flag == .takesAllGroups4, number != 0, number != 1 { throw .EINVAL }
    set(flag, number != 0)
    if flag == .takesAllGroups4 { groupsChanged() }
  }

  private final func setNumber4(_ name: Int32, _ number: Int32) throws(Errno) {
    switch name {
    case Option4.trafficClass:
      // The congestion bits are the protocol's where it has a say.
      lock.withLock {
        options.trafficClass4 = kind == .stream ? number.u8 & ~3 | options.trafficClass4 & 3 : number.u8
      }
    case Option4.hopLimit:
      guard number == -1 || number >= 1 && number <= 255 else { throw .EINVAL }
      lock.withLock { options.hopLimit4 = number == -1 ? 0 : number.u8 }
    case Option4.pathMTUDiscovery:
      guard number >= 0, let mode = InternetOptions.PathMTU(rawValue: number.u8), number < 256 else { throw .EINVAL }
      lock.withLock { options.pathMTU4 = mode }
    case Option4.minimumHopLimit:
      guard number >= 0, number <= 255 else { throw .EINVAL }
      lock.withLock { options.minimumHopLimit4 = number.u8 }
    case Option4.multicastHopLimit:
      guard kind != .stream, number >= -1, number <= 255 else { throw .EINVAL }
      lock.withLock { options.multicastHopLimit4 = number == -1 ? 1 : number.u8 }
    case Option4.tellsErrorsMore: guard number == 0 || number == 1 else { throw .EINVAL }
    case Option4.routerAlert: guard kind == .raw else { throw .ENOPROTOOPT }
    default: throw .ENOPROTOOPT
    }
  }

  /// IP_MULTICAST_IF: by the address of an interface, or by its number.
  private final func setMulticastInterface(_ value: OptionValue) throws(Errno) {
    guard kind != .stream else { throw .EINVAL }
    var (index, address): (UInt32, IPAddress)
    switch value.bytes.count {
    case 12...:
      index = try value.load(from: 8, as: UInt32.self)
      address = IPAddress(v4: try value.load(from: 4, as: UInt32.self).byteSwapped)
    case 8...: (index, address) = (0, IPAddress(v4: try value.load(from: 4, as: UInt32.self).byteSwapped))
    default: (index, address) = (0, IPAddress(v4: try value.load(as: UInt32.self).byteSwapped))
    }
    if index != 0 {
      guard stack.interface(index: index) != nil else { throw .EADDRNOTAVAIL }
    } else if address != .any4 {
      guard let interface = stack.interface(with: address) else { throw .EADDRNOTAVAIL }
      index = interface.index
    }
    try lock.withLock { () throws(Errno) in
      guard index == 0 || options.interfaceIndex == 0 || options.interfaceIndex == index else { throw .EINVAL }
      options.multicastInterface4 = index
      options.multicastSource = address
    }
  }

  // MARK: Getting

  final func getOption4(_ name: Int32, _ result: inout OptionResult) throws(Errno) {
    if let flag = Option4.flag(name) { return result.putIntOrByte(has(flag) ? 1 : 0) }
    let options = lock.withLock { self.options }
    switch name {
    case Option4.options, Option4.packetOptions: break  // None.
    case Option4.trafficClass: result.putIntOrByte(options.trafficClass4.i32)
    case Option4.hopLimit: result.putIntOrByte((options.hopLimit4 == 0 ? 64 : options.hopLimit4).i32)
    case Option4.pathMTUDiscovery: result.putIntOrByte(options.pathMTU4.rawValue.i32)
    case Option4.minimumHopLimit: result.putIntOrByte(options.minimumHopLimit4.i32)
    case Option4.multicastHopLimit: result.putIntOrByte(options.multicastHopLimit4.i32)
    case Option4.multicastInterface: result.put(options.multicastSource.v4.byteSwapped)
    case Option4.unicastInterface: result.put(options.unicastInterface4.byteSwapped)
    case Option4.portRange: result.put(options.lastPort.u32 &<< 16 | options.firstPort.u32)
    case Option4.protocolNumber: result.put(protocolNumber.i32)
    case Option4.tellsErrorsMore, Option4.routerAlert: result.putIntOrByte(0)
    case Option4.pathMTU: result.putIntOrByte(try pathMTU().i32)
    default: throw .ENOPROTOOPT
    }
  }

  /// The MTU of the way to the other end.
  /// - Throws: ENOTCONN.
  final func pathMTU() throws(Errno) -> Int {
    guard let remote = lock.withLock({ remote }) else { throw .ENOTCONN }
    return try findRoute(to: remote).mtu
  }
}
