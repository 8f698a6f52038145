// DHCPMessage: reading and writing the messages of DHCP (RFC 2131, 2132) that a client needs. Pure; what is read comes from anybody.
import Base

/// What a server says.
struct DHCPMessage {
  static var serverPort: UInt16 { 67 }
  static var clientPort: UInt16 { 68 }
  static var discover: UInt8 { 1 }
  static var offer: UInt8 { 2 }
  static var request: UInt8 { 3 }
  static var acknowledgement: UInt8 { 5 }
  static var refusal: UInt8 { 6 }
  /// Bytes before the options: the header of BOOTP and the magic number.
  static var fixedByteCount: Int { 240 }
  /// Bytes of a message that we send: padded to what old relays want (RFC 1542, 2.1).
  static var byteCount: Int { 300 }

  var kind: UInt8 = 0
  var transaction: UInt32 = 0
  /// The address that is given.
  var address = IPAddress.any4
  var server = IPAddress.any4
  var prefixLength = 0
  var router = IPAddress.any4
  /// Name servers, the first few.
  var servers: [IPAddress] = []
  /// Seconds.
  var leaseTime: UInt32 = 0
  var renewalTime: UInt32 = 0
  var rebindingTime: UInt32 = 0
  var mtu: UInt16 = 0

  /// Reads a reply to an interface; nil: it is none, or makes no sense.
  init?(_ bytes: UnsafeRawBufferPointer, for link: LinkAddress) {
    guard bytes.count >= Self.fixedByteCount, let start = bytes.baseAddress, bytes[0] == 2, bytes[1] == 1,
      bytes[2] == 6,
      LinkAddress(reading: start + 28) == link,
      UInt32(bigEndian: start.loadUnaligned(fromByteOffset: 236, as: UInt32.self)) == 0x6382_5363
    else { return nil }
    transaction = UInt32(bigEndian: start.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
    address = IPAddress(readingV4: start + 16)
    let isGood = Self.forEachOption(bytes) { number, value in
      guard let start = value.baseAddress else { return }
      switch (number, value.count) {
      case (53, 1): kind = value[0]
      case (54, 4): server = IPAddress(readingV4: start)
      case (1, 4):
        let mask = UInt32(bigEndian: start.loadUnaligned(as: UInt32.self))
        // Ones first, then zeros.
        if mask == ~((UInt64(1) &<< (32 &- (~mask).leadingZeroBitCount).u64) &- 1).u32 {
          prefixLength = (~mask).leadingZeroBitCount
        }
      case (3, 4...): router = IPAddress(readingV4: start)
      case (6, 4...):
        var at = 0
        while at &+ 4 <= value.count && servers.count < 4 {
          servers.append(IPAddress(readingV4: start + at))
          at &+= 4
        }
      case (51, 4): leaseTime = UInt32(bigEndian: start.loadUnaligned(as: UInt32.self))
      case (58, 4): renewalTime = UInt32(bigEndian: start.loadUnaligned(as: UInt32.self))
      case (59, 4): rebindingTime = UInt32(bigEndian: start.loadUnaligned(as: UInt32.self))
      case (26, 2): mtu = UInt16(bigEndian: start.loadUnaligned(as: UInt16.self))
      default: return
      }
    }
    guard isGood, kind == Self.offer || kind == Self.acknowledgement || kind == Self.refusal else { return nil }
  }

  /// Goes through the options; false: they are cut off.
  private static func forEachOption(_ bytes: UnsafeRawBufferPointer, _ body: (UInt8, UnsafeRawBufferPointer) -> Void)
    -> Bool
  {
    var at = fixedByteCount
    while at < bytes.count {
      let number = bytes[at]
      if number == 255 { return true }
      at &+= 1
      if number == 0 { continue }
      guard at < bytes.count else { return false }
      let count = bytes[at].int
      guard at &+ 1 &+ count <= bytes.count else { return false }
      body(number, UnsafeRawBufferPointer(rebasing: bytes[at &+ 1..<at &+ 1 &+ count]))
      at &+= 1 &+ count
    }
    // Without an end (servers exist that forget it).
    return true
  }

  /// What a client says.
  struct Request: Equatable {
    var kind: UInt8
    var transaction: UInt32
    /// Seconds since it began.
    var seconds: UInt16 = 0
    /// The address it has; unspecified while it has none.
    var current = IPAddress.any4
    /// The address it wants, if it says so.
    var wanted: IPAddress?
    /// The server it means, if it says so.
    var server: IPAddress?
    var link: LinkAddress

    /// Writes the message to `byteCount` bytes.
    func write(to start: UnsafeMutableRawPointer) {
      start.initializeMemory(as: UInt8.self, repeating: 0, count: DHCPMessage.byteCount)
      start.storeBytes(of: UInt32(0x0101_0600).bigEndian, as: UInt32.self)
      start.storeBytes(of: transaction.bigEndian, toByteOffset: 4, as: UInt32.self)
      start.storeBytes(of: seconds.bigEndian, toByteOffset: 8, as: UInt16.self)
      // Replies to everybody: our address is not known yet. With one they come to that.
      if current.isUnspecified { start.storeBytes(of: UInt16(0x8000).bigEndian, toByteOffset: 10, as: UInt16.self) }
      current.writeV4(to: start + 12)
      link.write(to: start + 28)
      start.storeBytes(of: UInt32(0x6382_5363).bigEndian, toByteOffset: 236, as: UInt32.self)
      var at = DHCPMessage.fixedByteCount
      func put(_ byte: UInt8) {
        start.storeBytes(of: byte, toByteOffset: at, as: UInt8.self)
        at &+= 1
      }
      func put(_ number: UInt8, _ address: IPAddress) {
        put(number)
        put(4)
        address.writeV4(to: start + at)
        at &+= 4
      }
      put(53)
      put(1)
      put(kind)
      // Who we are: the link address.
      put(61)
      put(7)
      put(1)
      link.write(to: start + at)
      at &+= 6
      if let wanted { put(50, wanted) }
      if let server { put(54, server) }
      // What we would like to know: mask, router, servers, MTU, times.
      put(55)
      put(7)
      put(1)
      put(3)
      put(6)
      put(26)
      put(51)
      put(58)
      put(59)
      put(255)
    }
  }
}
