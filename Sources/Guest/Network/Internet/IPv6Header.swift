// IPv6Header: reading and writing IPv6's header and the extension headers behind it (RFC 8200). Pure.
import Base

/// An IPv6 header.
struct IPv6Header: BitwiseCopyable {
  /// Bytes of it.
  static var byteCount: Int { 40 }

  /// DSCP and ECN.
  var trafficClass: UInt8 = 0
  var flowLabel: UInt32 = 0
  /// Bytes behind the header.
  var payloadByteCount = 0
  /// What follows first.
  var nextHeader: UInt8 = 0
  var hopLimit: UInt8 = 0
  var source = IPAddress.any6
  var destination = IPAddress.any6

  init() {}

  /// Reads a header.
  /// - Parameters:
  ///   - bytes: the packet's first bytes, contiguous.
  ///   - available: bytes of the packet.
  /// - Returns: nil: it is no IPv6 header, is cut off, counts more bytes than there are, or has an IPv4 address in disguise, which
  ///   no packet may have (RFC 4942, 2.2).
  @inline(__always) init?(_ bytes: UnsafeRawBufferPointer, available: Int) {
    guard bytes.count >= IPv6Header.byteCount, let start = bytes.baseAddress else { return nil }
    let first = UInt32(bigEndian: start.loadUnaligned(as: UInt32.self))
    payloadByteCount = UInt16(bigEndian: start.loadUnaligned(fromByteOffset: 4, as: UInt16.self)).int
    guard first &>> 28 == 6, payloadByteCount &+ IPv6Header.byteCount <= available else { return nil }
    trafficClass = (first &>> 20).u8
    flowLabel = first & 0xf_ffff
    nextHeader = start.load(fromByteOffset: 6, as: UInt8.self)
    hopLimit = start.load(fromByteOffset: 7, as: UInt8.self)
    source = IPAddress(readingV6: start + 8)
    destination = IPAddress(readingV6: start + 24)
    guard !source.isV4, !destination.isV4 else { return nil }
  }

  /// Writes the header to 40 bytes.
  @inline(__always) func write(to start: UnsafeMutableRawPointer) {
    let first: UInt32 = 6 &<< 28 | trafficClass.u32 &<< 20 | flowLabel & 0xf_ffff
    start.storeBytes(of: first.bigEndian, as: UInt32.self)
    start.storeBytes(of: payloadByteCount.u16.bigEndian, toByteOffset: 4, as: UInt16.self)
    start.storeBytes(of: nextHeader, toByteOffset: 6, as: UInt8.self)
    start.storeBytes(of: hopLimit, toByteOffset: 7, as: UInt8.self)
    source.writeV6(to: start + 8)
    destination.writeV6(to: start + 24)
  }
}

/// Numbers of protocols and extension headers.
enum InternetProtocol {
  static var hopByHop: UInt8 { 0 }
  static var icmp: UInt8 { 1 }
  static var igmp: UInt8 { 2 }
  static var tcp: UInt8 { 6 }
  static var udp: UInt8 { 17 }
  static var routing: UInt8 { 43 }
  static var fragment: UInt8 { 44 }
  static var icmp6: UInt8 { 58 }
  static var noNext: UInt8 { 59 }
  static var destinationOptions: UInt8 { 60 }
}

/// What follows an IPv6 header, up to the transport.
struct IPv6Extensions: BitwiseCopyable {
  /// What a walk along the headers came to.
  enum End: Equatable {
    /// The transport, or what nobody knows: its number; it begins at `offset`.
    case transport(UInt8)
    /// A fragment header at `offset`.
    case fragment
    /// Nothing follows.
    case nothing
    /// To be dropped without a word: cut off, or an option says so.
    case dropped
    /// To be dropped, and the sender told (ICMPv6 type 4) with that code and the offset of what is wrong; `unlessGroup`: not if it was sent to
    /// a group.
    case problem(code: UInt8, pointer: Int, unlessGroup: Bool)
  }

  /// Extension headers of a packet at most; more are nonsense.
  static var limit: Int { 8 }

  /// What it came to.
  var end: End
  /// Where that begins, from the IPv6 header's first byte.
  var offset: Int
  /// The byte that names it, likewise: in the header before.
  var namedAt: Int
  /// Hop-by-hop options have a router alert (RFC 2711), as MLD's must.
  var hasRouterAlert = false

  /// Walks from a header of kind `first` at `start` on.
  /// - Parameter bytes: the packet from the IPv6 header on, contiguous as far as its headers go.
  init(_ bytes: UnsafeRawBufferPointer, first: UInt8, start: Int = IPv6Header.byteCount, namedAt: Int = 6) {
    var kind = first
    offset = start
    self.namedAt = namedAt
    end = .dropped
    for number in 0...Self.limit {
      switch kind {
      case InternetProtocol.noNext:
        end = .nothing
        return
      case InternetProtocol.fragment:
        end = offset &+ 8 <= bytes.count ? .fragment : .dropped
        return
      case InternetProtocol.hopByHop, InternetProtocol.destinationOptions, InternetProtocol.routing: break
      default:
        end = .transport(kind)
        return
      }
      guard number < Self.limit, offset &+ 8 <= bytes.count else { return }
      let length = (bytes[offset &+ 1].int &+ 1) &* 8
      guard offset &+ length <= bytes.count else { return }
      if kind == InternetProtocol.routing {
        // A route that is not at its end is not ours to follow (RFC 5095).
        if bytes[offset &+ 3] != 0 {
          end = .problem(code: 0, pointer: offset &+ 2, unlessGroup: false)
          return
        }
      } else {
        // Hop-by-hop options come first or not at all.
        if kind == InternetProtocol.hopByHop && offset != IPv6Header.byteCount {
          end = .problem(code: 1, pointer: self.namedAt, unlessGroup: false)
          return
        }
        if let stop = options(bytes, from: offset &+ 2, to: offset &+ length) {
          end = stop
          return
        }
      }
      kind = bytes[offset]
      self.namedAt = offset
      offset &+= length
    }
  }

  /// Looks through options (RFC 8200, 4.2); nil: all may be passed over.
  private mutating func options(_ bytes: UnsafeRawBufferPointer, from start: Int, to stop: Int) -> End? {
    var at = start
    while at < stop {
      let kind = bytes[at]
      if kind == 0 {
        at &+= 1
        continue
      }
      guard at &+ 1 < stop else { return .dropped }
      let length = bytes[at &+ 1].int &+ 2
      guard at &+ length <= stop else { return .dropped }
      switch kind {
      case 1: break
      case 5: hasRouterAlert = true
      default:
        switch kind &>> 6 {
        case 0: break
        case 1: return .dropped
        case 2: return .problem(code: 2, pointer: at, unlessGroup: false)
        default: return .problem(code: 2, pointer: at, unlessGroup: true)
        }
      }
      at &+= length
    }
    return nil
  }
}

/// A fragment header (RFC 8200, 4.5); 8 bytes.
struct IPv6FragmentHeader: BitwiseCopyable {
  static var byteCount: Int { 8 }
  var nextHeader: UInt8
  var fragmentOffset: Int
  var hasMoreFragments: Bool
  var identification: UInt32

  init(nextHeader: UInt8, fragmentOffset: Int, hasMoreFragments: Bool, identification: UInt32) {
    self.nextHeader = nextHeader
    self.fragmentOffset = fragmentOffset
    self.hasMoreFragments = hasMoreFragments
    self.identification = identification
  }

  init(reading start: UnsafeRawPointer) {
    let word = UInt16(bigEndian: start.loadUnaligned(fromByteOffset: 2, as: UInt16.self))
    nextHeader = start.load(as: UInt8.self)
    fragmentOffset = (word & 0xfff8).int
    hasMoreFragments = word & 1 != 0
    identification = UInt32(bigEndian: start.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
  }

  func write(to start: UnsafeMutableRawPointer) {
    start.storeBytes(of: nextHeader, as: UInt8.self)
    start.storeBytes(of: 0, toByteOffset: 1, as: UInt8.self)
    let word = fragmentOffset.u16 | (hasMoreFragments ? 1 : 0)
    start.storeBytes(of: word.bigEndian, toByteOffset: 2, as: UInt16.self)
    start.storeBytes(of: identification.bigEndian, toByteOffset: 4, as: UInt32.self)
  }
}
