// The options of level SOL_IPV6 (ipv6(7), RFC 3493, RFC 3542).
import Base
import Files
import Locks

/// Their numbers (IPV6_*).
private enum Option6 {
  static let checksum: Int32 = 7
  static let unicastHops: Int32 = 16
  static let multicastInterface: Int32 = 17
  static let multicastHops: Int32 = 18
  static let loopsMulticast: Int32 = 19
  static let pathMTUDiscovery: Int32 = 23
  static let mtu: Int32 = 24
  static let tellsErrors: Int32 = 25
  static let isIPv6Only: Int32 = 26
  static let takesAllGroups: Int32 = 29
  static let tellsErrorsMore: Int32 = 31
  static let sendsFlowInformation: Int32 = 33
  static let headerIncluded: Int32 = 36
  static let tellsPacket: Int32 = 49
  static let tellsHopLimit: Int32 = 51
  static let pathMTU: Int32 = 61
  static let tellsPathMTU: Int32 = 60
  static let refusesFragments: Int32 = 62
  static let tellsTrafficClass: Int32 = 66
  static let trafficClass: Int32 = 67
  static let labelsFlows: Int32 = 70
  static let addressPreferences: Int32 = 72
  static let minimumHops: Int32 = 73
  static let tellsDestination: Int32 = 74
  static let isTransparent: Int32 = 75
  static let unicastInterface: Int32 = 76
  static let bindsFreely: Int32 = 78
  /// Old names of RFC 2292 for `tellsPacket` and `tellsHopLimit`.
  static let oldTellsPacket: Int32 = 2
  static let oldTellsHopLimit: Int32 = 8

  /// The flag of an option that is on or off.
  static func flag(_ name: Int32) -> InternetOptions.Flags? {
    switch name {
    case loopsMulticast: .loopsMulticast6
    case tellsErrors: .tellsErrors6
    case isIPv6Only: .isIPv6Only
    case takesAllGroups: .takesAllGroups6
    case sendsFlowInformation: .sendsFlowInformation
    case headerIncluded: .hasHeader
    case tellsPacket: .tellsPacket6
    case oldTellsPacket: .tellsOldPacket6
    case tellsHopLimit: .tellsHopLimit6
    case oldTellsHopLimit: .tellsOldHopLimit6
    case tellsPathMTU: .tellsPathMTU
    case refusesFragments: .refusesFragments6
    case tellsTrafficClass: .tellsTrafficClass6
    case labelsFlows: .labelsFlows
    case tellsDestination: .tellsDestination6
    case isTransparent: .isTransparent
    case bindsFreely: .bindsFreely
    default: nil
    }
  }

  /// IPV6_RECVHOPOPTS, IPV6_RECVRTHDR, IPV6_RECVDSTOPTS and their older names: extension headers are not told, which a program that asks cannot
  /// tell from none having come.
  static func isAboutExtensions(_ name: Int32) -> Bool {
    switch name {
    case 3, 4, 5, 53, 56, 58: true
    default: false
    }
  }
}

extension InternetSocket {
  // MARK: Setting

  final func setOption6(_ name: Int32, _ value: OptionValue, _ caller: SocketCaller) throws(Errno) {
    if try setGroupOption(name, value, isV4: false) { return }
    let number = try value.int()
    if let flag = Option6.flag(name) { return try setFlag6(flag, number, caller) }
    if Option6.isAboutExtensions(name) { return }
    switch name {
    case Option6.unicastHops, Option6.multicastHops:
      guard name == Option6.unicastHops || kind != .stream else { throw .ENOPROTOOPT }
      guard number >= -1, number <= 255 else { throw .EINVAL }
      lock.withLock {
        if name == Option6.unicastHops {
          options.hopLimit6 = number.i16
        } else {
          options.multicastHopLimit6 = number.i16
        }
      }
    case Option6.multicastInterface:
      guard kind != .stream else { throw .ENOPROTOOPT }
      guard number == 0 || stack.interface(index: number.u32) != nil else { throw .ENODEV }
      try lock.withLock { () throws(Errno) in
        guard number == 0 || options.interfaceIndex == 0 || options.interfaceIndex == number.u32 else { throw .EINVAL }
        options.multicastInterface6 = number.u32
      }
    case Option6.unicastInterface:
      let index = number.u32.byteSwapped
      guard index == 0 || stack.interface(index: index) != nil else { throw .EADDRNOTAVAIL }
      lock.withLock { options.unicastInterface6 = index }
    case Option6.pathMTUDiscovery:
      guard number >= 0, number < 256, let mode = InternetOptions.PathMTU(rawValue: number.u8) else { throw .EINVAL }
      lock.withLock { options.pathMTU6 = mode }
    case Option6.mtu:
      guard number == 0 || number >= 1280 else { throw .EINVAL }
      lock.withLock { options.maximumMTU6 = number.u32 }
    case Option6.trafficClass:
      guard number >= -1, number <= 255 else { throw .EINVAL }
      lock.withLock {
        let value = number == -1 ? 0 : number.u8
        options.trafficClass6 = kind == .stream ? value & ~3 | options.trafficClass6 & 3 : value
      }
    case Option6.minimumHops:
      guard number >= 0, number <= 255 else { throw .EINVAL }
      lock.withLock { options.minimumHopLimit6 = number.u8 }
    case Option6.addressPreferences: lock.withLock { options.addressPreferences = number }
    case Option6.tellsErrorsMore: guard number == 0 || number == 1 else { throw .EINVAL }
    default: throw .ENOPROTOOPT
    }
  }

  private final func setFlag6(_ flag: InternetOptions.Flags, _ number: Int32, _ caller: SocketCaller) throws(Errno) {
    switch flag {
    case .isIPv6Only:
      return try lock.withLock { () throws(Errno) in
        guard local.port == 0 else { throw .EINVAL }
        options.set(flag, number != 0)
      }
    case .hasHeader: guard kind == .raw else { throw .ENOPROTOOPT }
    case .isTransparent: guard number == 0 || caller.rights.isPrivileged else { throw .EPERM }
    case .loopsMulticast6, .takesAllGroups6: guard number == 0 || number == 1 else { throw .EINVAL }
    default: break
    }
    set(flag, number != 0)
    if flag == .takesAllGroups6 { groupsChanged() }
  }

  // MARK: Getting

  final func getOption6(_ name: Int32, _ result: inout OptionResult) throws(Errno) {
    if let flag = Option6.flag(name) { return result.put(flag: has(flag)) }
    if Option6.isAboutExtensions(name) { return result.put(flag: false) }
    let options = lock.withLock { self.options }
    switch name {
    case Option6.unicastHops: result.put(options.hopLimit6 < 0 ? 64 : options.hopLimit6.i32)
    case Option6.multicastHops: result.put(options.multicastHopLimit6 < 0 ? 1 : options.multicastHopLimit6.i32)
    case Option6.multicastInterface: result.put(options.multicastInterface6)
    case Option6.unicastInterface: result.put(options.unicastInterface6.byteSwapped)
    case Option6.pathMTUDiscovery: result.put(options.pathMTU6.rawValue.i32)
    case Option6.trafficClass: result.put(options.trafficClass6.i32)
    case Option6.minimumHops: result.put(options.minimumHopLimit6.i32)
    case Option6.addressPreferences: result.put(options.addressPreferences)
    case Option6.tellsErrorsMore: result.put(0 as Int32)
    case Option6.mtu: result.put(try pathMTU().i32)
    case Option6.pathMTU:
      // struct ip6_mtuinfo.
      guard result.room >= 32 else { throw .EINVAL }
      let mtu = try pathMTU()
      guard let remote = lock.withLock({ remote }) else { throw .ENOTCONN }
      remote.sockaddr6.withBytes { result.put(bytes: $0) }
      result.put(mtu.u32)
    default: throw .ENOPROTOOPT
    }
  }
}
