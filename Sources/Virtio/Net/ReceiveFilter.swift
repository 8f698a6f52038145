// Which received frames the driver wants (virtio 1.2, 5.1.6.5.1 to .3). A value: the control queue makes a new one, receivers look.
//
// At first everything is wanted, as a driver that sets no filter expects; the first command that sets one is taken at its word.

/// The driver's filter.
struct ReceiveFilter: Equatable {
  /// Addresses that are kept of each kind; beyond, all of that kind are let through.
  static let addressLimit = 64

  /// A MAC address as a number: the first byte on the wire is the highest of 48 bits.
  typealias Address = UInt64

  /// The interface's own address.
  var own: Address
  var isPromiscuous = true
  var takesAllMulticast = false
  var takesAllUnicast = false
  var takesNoMulticast = false
  var takesNoUnicast = false
  var takesNoBroadcast = false
  /// Further addresses.
  var unicast: [Address] = []
  var multicast: [Address] = []
  /// Whether more were given than are kept.
  var hasMoreUnicast = false
  var hasMoreMulticast = false
  /// A bit for each VLAN that is let through; nil lets all through.
  var vlans: [UInt64]?

  /// Everything passes.
  init(own: Address) { self.own = own }

  /// Whether nothing has to be looked at.
  var isOpen: Bool { isPromiscuous && vlans == nil }

  /// Whether a frame is wanted.
  /// - Parameter prefix: a copy of its first bytes, up to 18.
  func accepts(_ prefix: UnsafeRawBufferPointer) -> Bool {
    guard prefix.count >= FrameHeader.linkByteCount else { return false }
    if let vlans {
      let type = UInt16(prefix[12]) << 8 | UInt16(prefix[13])
      if type == EtherType.vlan, prefix.count >= 16 {
        let id = Int(prefix[14] & 0xf) << 8 | Int(prefix[15])
        if vlans[id / 64] >> UInt64(id % 64) & 1 == 0 { return false }
      }
    }
    if isPromiscuous { return true }
    let target = Self.address(prefix)
    if target == 0xffff_ffff_ffff { return !takesNoBroadcast }
    if target >> 40 & 1 != 0 {
      if takesNoMulticast { return false }
      return takesAllMulticast || hasMoreMulticast || multicast.contains(target)
    }
    if takesNoUnicast { return false }
    return takesAllUnicast || hasMoreUnicast || target == own || unicast.contains(target)
  }

  /// The first six bytes as an address.
  static func address(_ bytes: UnsafeRawBufferPointer) -> Address { bytes[..<6].reduce(0) { $0 << 8 | Address($1) } }
}
