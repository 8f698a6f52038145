// /proc/net and /sys/class/net: interfaces, addresses, routes, neighbours, sockets and counts as Linux writes them (proc(5)).
import Base
import Files
import Network
import Platform
import ProcFS

/// Texts about the network.
public enum NetworkTexts {
  /// Adds them to /proc. The network is asked for when one is read.
  static func add(to tree: ProcessFileSystem, _ stack: @escaping () -> NetworkStack) {
    tree.add("net/dev") { (text) throws(Errno) in interfaces(stack(), &text) }
    tree.add("net/route") { (text) throws(Errno) in routes4(stack(), &text) }
    tree.add("net/ipv6_route") { (text) throws(Errno) in routes6(stack(), &text) }
    tree.add("net/if_inet6") { (text) throws(Errno) in addresses6(stack(), &text) }
    tree.add("net/arp") { (text) throws(Errno) in neighbours(stack(), &text) }
    for (name, number, isIPv6) in [
      ("net/tcp", 6, false), ("net/tcp6", 6, true), ("net/udp", 17, false), ("net/udp6", 17, true),
      ("net/icmp", 1, false), ("net/icmp6", 58, true),
    ] as [(StaticString, UInt8, Bool)] {
      tree.add(name) { (text) throws(Errno) in
        list(stack().statuses(ofProtocol: number), isIPv6: isIPv6, isStream: number == 6, &text)
      }
    }
    tree.add("net/raw") { (text) throws(Errno) in list(stack().rawStatuses, isIPv6: false, isStream: false, &text) }
    tree.add("net/raw6") { (text) throws(Errno) in list(stack().rawStatuses, isIPv6: true, isStream: false, &text) }
    tree.add("net/snmp") { (text) throws(Errno) in counts4(stack(), &text) }
    tree.add("net/snmp6") { (text) throws(Errno) in counts6(stack(), &text) }
    tree.add("net/sockstat") { (text) throws(Errno) in summary(stack(), isIPv6: false, &text) }
    tree.add("net/sockstat6") { (text) throws(Errno) in summary(stack(), isIPv6: true, &text) }
    tree.add("sys/net/ipv4/ip_local_port_range") { (text) throws(Errno) in
      let (first, last) = stack().portRange
      text.append(first.u64)
      text.append("\t")
      text.append(last.u64)
      text.append("\n")
    }
  }

  // MARK: Interfaces

  private static func interfaces(_ stack: NetworkStack, _ text: inout TextBuffer) {
    text.append(
      """
      Inter-|   Receive                                                |  Transmit
       face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed

      """)
    for link in stack.links {
      for _ in 0..<max(6 &- link.name.count, 0) { text.append(" ") }
      text.append(link.name)
      text.append(":")
      let counts = link.counts
      let numbers: [16 of (UInt64, Int)] = [
        (counts.receivedBytes, 8), (counts.receivedPackets, 8), (counts.receivedErrors, 5), (counts.receivedDropped, 5),
        (0, 5), (0, 6), (0, 11), (counts.multicast, 10), (counts.sentBytes, 9), (counts.sentPackets, 8),
        (counts.sentErrors, 5), (counts.sentDropped, 5), (0, 5), (0, 6), (0, 8), (0, 11),
      ]
      for index in 0..<16 { text.append(numbers[index].0, width: numbers[index].1) }
      text.append("\n")
    }
  }

  /// The name of an interface.
  private static func name(_ index: UInt32, _ links: [LinkStatus]) -> [UInt8] {
    for link in links where link.index == index { return link.name }
    return []
  }

  // MARK: Routes and neighbours

  private static func routes4(_ stack: NetworkStack, _ text: inout TextBuffer) {
    line("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT", width: 127, &text)
    let links = stack.links
    for route in stack.routeStatuses where route.destination.isV4 {
      var line = TextBuffer()
      line.append(name(route.interfaceIndex, links))
      line.append("\t")
      line.append(upper: route.destination.v4.byteSwapped.u64, width: 8)
      line.append("\t")
      line.append(upper: (route.gateway?.v4 ?? 0).byteSwapped.u64, width: 8)
      line.append("\t")
      // RTF_UP, RTF_GATEWAY, RTF_HOST.
      line.append(upper: 1 | (route.gateway != nil ? 2 : 0) | (route.prefixLength == 32 ? 4 : 0), width: 4)
      line.append("\t0\t0\t")
      line.append(route.metric.u64)
      line.append("\t")
      line.append(upper: IPAddress.broadcast4.prefix(route.prefixLength.int).v4.byteSwapped.u64, width: 8)
      line.append("\t0\t0\t0")
      pad(line, width: 127, &text)
    }
  }

  private static func routes6(_ stack: NetworkStack, _ text: inout TextBuffer) {
    let links = stack.links
    for route in stack.routeStatuses where !route.destination.isV4 {
      append(route.destination, &text)
      text.append(" ")
      text.append(hexadecimal: route.prefixLength.u64, width: 2)
      text.append(" 00000000000000000000000000000000 00 ")
      append(route.gateway ?? .any6, &text)
      text.append(" ")
      text.append(hexadecimal: route.metric.u64, width: 8)
      text.append(" 00000001 00000000 ")
      text.append(hexadecimal: 1 | (route.gateway != nil ? 2 : 0), width: 8)
      text.append(" ")
      right(name(route.interfaceIndex, links), width: 8, &text)
      text.append("\n")
    }
  }

  private static func addresses6(_ stack: NetworkStack, _ text: inout TextBuffer) {
    let links = stack.links
    for address in stack.addressStatuses where !address.address.isV4 {
      append(address.address, &text)
      // Scopes as IPv6 numbers them: IPV6_ADDR_LOOPBACK, IPV6_ADDR_LINKLOCAL, global.
      let scope: UInt64 = address.scope == 254 ? 0x10 : address.scope == 253 ? 0x20 : 0
      for number in [address.interfaceIndex.u64, address.prefixLength.u64, scope, address.flags.u64 & 0xff] {
        text.append(" ")
        text.append(hexadecimal: number, width: 2)
      }
      text.append(" ")
      right(name(address.interfaceIndex, links), width: 8, &text)
      text.append("\n")
    }
  }

  private static func neighbours(_ stack: NetworkStack, _ text: inout TextBuffer) {
    text.append("IP address       HW type     Flags       HW address            Mask     Device\n")
    let links = stack.links
    for neighbour in stack.neighbourStatuses where neighbour.address.isV4 {
      var address = TextBuffer()
      for shift in [24, 16, 8, 0] as [UInt32] {
        address.append((neighbour.address.v4 &>> shift & 0xff).u64)
        if shift > 0 { address.append(".") }
      }
      left(address.bytes, width: 16, &text)
      // ATF_COM, ATF_PERM.
      let flags: StaticString =
        neighbour.linkAddress == nil ? "0x0" : neighbour.state == 0x80 ? "0x6" : "0x2"
      text.append(" 0x1         ")
      left(PathBytes(flags).copy, width: 12, &text)
      let link = neighbour.linkAddress ?? [0, 0, 0, 0, 0, 0]
      for index in 0..<6 {
        text.append(hexadecimal: link[index].u64, width: 2)
        if index < 5 { text.append(":") }
      }
      text.append("     *        ")
      text.append(name(neighbour.interfaceIndex, links))
      text.append("\n")
    }
  }

  // MARK: Sockets

  private static func list(_ all: [InternetSocketStatus], isIPv6: Bool, isStream: Bool, _ text: inout TextBuffer) {
    if isStream {
      if isIPv6 {
        text.append(
          "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        )
      } else {
        line(
          "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
          width: 149,
          &text)
      }
    } else if isIPv6 {
      text.append(
        "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"
      )
    } else {
      line(
        "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops",
        width: 127, &text)
    }
    var number: UInt64 = 0
    for status in all where status.isIPv6 == isIPv6 {
      var line = TextBuffer()
      line.append(number, width: isStream ? 4 : 5)
      number &+= 1
      append(status, isStream, &line)
      pad(line, width: isIPv6 ? 0 : isStream ? 149 : 127, &text)
    }
  }

  private static func append(_ status: InternetSocketStatus, _ isStream: Bool, _ text: inout TextBuffer) {
    text.append(": ")
    append(status.local, status.isIPv6, &text)
    text.append(" ")
    append(status.remote ?? InternetEndpoint(status.isIPv6 ? .any6 : .any4), status.isIPv6, &text)
    text.append(" ")
    text.append(upper: status.state.rawValue.u64, width: 2)
    text.append(" ")
    text.append(upper: status.sendQueueByteCount.u64, width: 8)
    text.append(":")
    text.append(upper: status.receiveQueueByteCount.u64, width: 8)
    text.append(" ")
    text.append(upper: status.timer.u64, width: 2)
    text.append(":")
    // In clock ticks of a hundredth of a second.
    text.append(upper: status.timerLeft / 10_000_000, width: 8)
    text.append(" ")
    text.append(upper: status.retransmissionCount.u64, width: 8)
    text.append(" ")
    text.append(status.user.u64, width: 5)
    text.append(" ")
    text.append(0, width: 8)
    text.append(" ")
    text.append(status.inode)
    text.append(isStream ? " 1 0000000000000000 100 0 0 10 0" : " 2 0000000000000000 ")
    if !isStream { text.append(status.droppedCount) }
  }

  /// An end: words of the address as the machine reads them, and the port.
  private static func append(_ end: InternetEndpoint, _ isIPv6: Bool, _ text: inout TextBuffer) {
    if isIPv6 {
      for word in [
        (end.address.high &>> 32).u32, end.address.high.u32, (end.address.low &>> 32).u32, end.address.low.u32,
      ] {
        text.append(upper: word.byteSwapped.u64, width: 8)
      }
    } else {
      text.append(upper: end.address.v4.byteSwapped.u64, width: 8)
    }
    text.append(":")
    text.append(upper: end.port.u64, width: 4)
  }

  /// /proc/net/sockstat.
  private static func summary(_ stack: NetworkStack, isIPv6: Bool, _ text: inout TextBuffer) {
    if !isIPv6 {
      text.append("sockets: used ")
      text.append(stack.sockets.count.u64)
      text.append("\n")
    }
    let rows: [3 of (StaticString, UInt8)] = [("TCP", 6), ("UDP", 17), ("RAW", 0)]
    for index in 0..<3 {
      let all = index == 2 ? stack.rawStatuses : stack.statuses(ofProtocol: rows[index].1)
      var (used, waiting) = (0, 0)
      for status in all where status.isIPv6 == isIPv6 {
        if status.state == .timeWait { waiting &+= 1 } else { used &+= 1 }
      }
      text.append(rows[index].0)
      text.append(isIPv6 ? "6: inuse " : ": inuse ")
      text.append(used.u64)
      if index == 0 && !isIPv6 {
        text.append(" orphan 0 tw ")
        text.append(waiting.u64)
        text.append(" alloc ")
        text.append(used.u64)
        text.append(" mem 0")
      } else if index == 1 && !isIPv6 {
        text.append(" mem 0")
      }
      text.append("\n")
    }
    text.append(isIPv6 ? "UDPLITE6: inuse 0\nFRAG6: inuse 0 memory 0\n" : "UDPLITE: inuse 0\nFRAG: inuse 0 memory 0\n")
  }
}

// MARK: Texts

extension NetworkTexts {
  private static func append(_ address: IPAddress, _ text: inout TextBuffer) {
    text.append(hexadecimal: address.high, width: 16)
    text.append(hexadecimal: address.low, width: 16)
  }

  /// A line with spaces behind, up to a width.
  private static func line(_ start: StaticString, width: Int, _ text: inout TextBuffer) {
    var line = TextBuffer()
    line.append(start)
    pad(line, width: width, &text)
  }

  private static func pad(_ line: TextBuffer, width: Int, _ text: inout TextBuffer) {
    left(line.bytes, width: width, &text)
    text.append("\n")
  }

  private static func left(_ bytes: [UInt8], width: Int, _ text: inout TextBuffer) {
    text.append(bytes)
    for _ in 0..<max(width &- bytes.count, 0) { text.append(" ") }
  }

  private static func right(_ bytes: [UInt8], width: Int, _ text: inout TextBuffer) {
    for _ in 0..<max(width &- bytes.count, 0) { text.append(" ") }
    text.append(bytes)
  }
}

extension TextBuffer {
  /// Appends a number in hexadecimal with capital letters, with zeros before it up to `width` digits.
  fileprivate mutating func append(upper number: UInt64, width: Int) {
    var digits = max((67 &- number.leadingZeroBitCount) / 4, width)
    while digits > 0 {
      digits &-= 1
      let digit = (number &>> (digits &* 4).u64 & 0xf).u8
      append(byte: digit < 10 ? 0x30 &+ digit : 0x37 &+ digit)
    }
  }
}
