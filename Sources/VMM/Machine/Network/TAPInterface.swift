// TAP interfaces of the host: found or made, given an address, and described to the guest.

import CSystemCalls
import VirtioABI
import VirtioNet

#if canImport(Glibc)
  import Glibc
#endif

/// Opens TAPs.
enum TAPInterface {
  /// Bytes of a name, its terminator included.
  private static let nameByteCount = 16

  /// Opens the TAP `name`, or a new one, with as many queues as it may have, `pairCount` at most.
  static func open(_ request: NetworkRequest, name: [UInt8]?, pairCount: Int) throws(Failure) -> NetworkInterface {
    let wanted = name ?? Array("osv%d".utf8)
    var bytes = wanted.prefix(nameByteCount - 1).map { CChar(bitPattern: $0) }
    bytes += [CChar](repeating: 0, count: nameByteCount - bytes.count)

    // An interface that is there already may have been made for one queue or for several; the other kind is EINVAL.
    let kinds = pairCount > 1 ? [osv_tap_multi_queue, 0] : [0, osv_tap_multi_queue]
    var first: CInt = -EINVAL
    var kind: CInt = 0
    for candidate in kinds where first == -EINVAL {
      kind = candidate
      first = osv_tap_open(&bytes, osv_tap_has_header | candidate)
    }
    guard first >= 0 else { throw refusal(-first, name: Failure.show(wanted), isNamed: name != nil) }
    var queues = [first]
    while queues.count < pairCount, kind == osv_tap_multi_queue {
      let next = osv_tap_open(&bytes, osv_tap_has_header | kind)
      if next < 0 { break }
      queues.append(next)
    }
    return try describe(request, queues: queues, hasHeader: true, name: string(bytes))
  }

  /// Takes over a descriptor that the caller has opened.
  static func adopt(_ request: NetworkRequest, _ descriptor: CInt) throws(Failure) -> NetworkInterface {
    var bytes = [CChar](repeating: 0, count: nameByteCount)
    let flags = osv_tap_identify(descriptor, &bytes)
    guard flags >= 0 else {
      throw Failure(
        .network,
        "file descriptor \(descriptor), given by --net, is neither a TAP nor a stream socket of the UNIX domain")
    }
    guard flags & osv_tap_no_information != 0 else {
      throw Failure(
        .network, "the TAP of file descriptor \(descriptor) was opened without IFF_NO_PI: open it with that")
    }
    return try describe(
      request, queues: [descriptor], hasHeader: flags & osv_tap_has_header != 0, name: string(bytes))
  }

  private static func string(_ bytes: [CChar]) -> String {
    bytes.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
  }

  private static func describe(
    _ request: NetworkRequest, queues: [CInt], hasHeader: Bool, name: String
  ) throws(Failure) -> NetworkInterface {
    if let mtu = request.mtu { _ = osv_interface_set_mtu(name, CInt(mtu)) }
    for prefix in request.hostAddresses {
      let length = CInt(prefix.length)
      let result = prefix.address.bytes.withUnsafeBufferPointer {
        prefix.address.isV4
          ? osv_interface_add_ipv4(name, $0.baseAddress!, length)
          : osv_interface_add_ipv6(name, $0.baseAddress!, length)
      }
      guard result >= 0 else {
        throw Failure(
          .network,
          "the interface \(name) cannot be given the address \(prefix.address) (\(StandardStreams.message(-result))): "
            + "only root may do so")
      }
    }
    // Whoever made the interface beforehand may have left that to somebody else.
    let up = osv_interface_up(name)
    guard up >= 0 || request.hostAddresses.isEmpty else {
      throw Failure(.network, "the interface \(name) cannot be switched on (\(StandardStreams.message(-up)))")
    }

    let mtu = osv_interface_mtu(name)
    var mac = [UInt8](repeating: 0, count: 6)
    guard mtu > 0, osv_interface_mac(name, &mac) >= 0 else {
      throw Failure(.network, "the interface \(name) is not there any more")
    }
    // The guest's is as lasting as the interface's own, and another one.
    mac[0] = (mac[0] | 2) & ~1
    mac[5] ^= 0x80
    var interface = NetworkInterface(
      backend: TAPBackend(queues: queues, hasHeader: hasHeader, mtu: Int(mtu)), mac: mac)

    var addresses = request.guestAddresses
    for prefix in request.hostAddresses where !addresses.contains(where: { $0.address.isV4 == prefix.address.isV4 }) {
      // Nobody is there to ask for an address.
      if let next = prefix.neighbour { addresses.append(InternetPrefix(next, prefix.length)) }
    }
    var gateways = request.gateways
    for prefix in request.hostAddresses where !gateways.contains(where: { $0.isV4 == prefix.address.isV4 }) {
      gateways.append(prefix.address)
    }
    interface.configure(addresses, gateways: gateways)
    interface.nameServers = request.nameServers
    if interface.nameServers.isEmpty, !addresses.isEmpty {
      interface.nameServers = HostNetwork().nameServers.filter { !$0.isLoopback }
    }
    return interface
  }

  /// Why there is no TAP.
  private static func refusal(_ code: CInt, name: String, isNamed: Bool) -> Failure {
    switch code {
    case ENOENT, ENODEV, ENXIO:
      return Failure(.network, "there is no /dev/net/tun, by which TAP interfaces are used: load the module tun")
    case EACCES: return Failure(.network, "/dev/net/tun may not be opened by this user")
    case EPERM:
      return Failure(
        .network,
        isNamed
          ? "the TAP interface \(name) may not be used or made by this user: make it with ip tuntap add \(name) mode tap user USER"
          : "this user may not make a TAP interface: have one made (ip tuntap add NAME mode tap user USER) and name it, or use --net user"
      )
    case EBUSY: return Failure(.network, "the TAP interface \(name) is in use already, by another machine perhaps")
    case EINVAL: return Failure(.network, "\(name) is not a TAP interface, or no name for one")
    default: return Failure(.network, "the TAP interface \(name) cannot be opened (\(StandardStreams.message(code)))")
    }
  }
}
