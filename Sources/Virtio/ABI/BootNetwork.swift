// What the boot information says about a network interface beyond its device: where its addresses come from.
//
// MAC address and MTU are in the device's configuration. Addresses are in the order in which they are written: 10.0.2.15 is 10, 0, 2, 15.

/// A network interface, by its place in the table: eth0, eth1…
public struct BootNetwork {
  /// Index into the table of devices.
  public var deviceIndex: UInt32 = 0
  /// `dhcp` and `autoconfiguration`.
  public var flags: UInt32 = 0
  /// IPv4 address; only where `prefix4` is not 0.
  public var address4: [4 of UInt8] = .init(repeating: 0)
  /// IPv4 address of the router, zeros for none.
  public var gateway4: [4 of UInt8] = .init(repeating: 0)
  /// Bits of the network's part of `address4`, 1 to 32; 0: it has no address from here.
  public var prefix4: UInt32 = 0
  /// The same of `address6`, 1 to 128; 0: none.
  public var prefix6: UInt32 = 0
  /// IPv6 address beside the link-local one; only where `prefix6` is not 0.
  public var address6: [16 of UInt8] = .init(repeating: 0)
  /// IPv6 address of the router, zeros for none.
  public var gateway6: [16 of UInt8] = .init(repeating: 0)
  /// Keeps the entry a multiple of 8 bytes.
  public var reserved: UInt64 = 0
  /// An interface without addresses that asks for none.
  public init() {}

  /// Flag: ask for an IPv4 address by DHCP.
  public static let dhcp: UInt32 = 1 << 0
  /// Flag: form IPv6 addresses from router advertisements.
  public static let autoconfiguration: UInt32 = 1 << 1
}
