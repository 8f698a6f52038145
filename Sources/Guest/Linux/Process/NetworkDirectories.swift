// /sys/class/net: a directory for each interface, with a file for each thing that can be said of it.
import Base
import Files
import Network
import ProcFS

extension NetworkTexts {
  /// Adds them to /sys.
  public static func add(to tree: SystemFileSystem, _ stack: NetworkStack) {
    for link in stack.links { add(link, to: tree, stack) }
  }

  private static func add(_ link: LinkStatus, to tree: SystemFileSystem, _ stack: NetworkStack) {
    let index = link.index
    /// A file whose text is about the interface as it is then.
    func file(_ name: StaticString, _ body: @escaping (LinkStatus, inout TextBuffer) -> Void) {
      let path = PathBytes("class/net/").copy + link.name + [0x2f] + PathBytes(name).copy
      path.withPath { path in
        tree.add(path) { (text) throws(Errno) in
          guard let link = stack.links.first(where: { $0.index == index }) else { throw .ENODEV }
          body(link, &text)
          text.append("\n")
        }
      }
    }
    func number(_ name: StaticString, _ value: @escaping (LinkStatus) -> UInt64) {
      file(name) { link, text in text.append(value(link)) }
    }
    number("addr_assign_type") { _ in 0 }
    number("addr_len") { _ in 6 }
    number("carrier") { $0.flags & 0x40 != 0 ? 1 : 0 }
    number("dormant") { _ in 0 }
    number("gro_flush_timeout") { _ in 0 }
    number("ifindex") { $0.index.u64 }
    number("iflink") { $0.index.u64 }
    number("link_mode") { _ in 0 }
    number("mtu") { $0.mtu.u64 }
    number("netdev_group") { _ in 0 }
    number("tx_queue_len") { $0.queueLength.u64 }
    number("type") { $0.hardwareType.u64 }
    file("address") { link, text in append(link.address, &text) }
    file("broadcast") { link, text in append(link.broadcast, &text) }
    file("flags") { link, text in
      text.append("0x")
      // IFF_RUNNING is not one of those that are set.
      text.append(hexadecimal: (link.flags & 0xffbf).u64)
    }
    file("dev_id") { _, text in text.append("0x0") }
    file("operstate") { link, text in
      text.append(link.isLoopback ? "unknown" : link.flags & 0x40 != 0 ? "up" : "down")
    }
    file("duplex") { _, text in text.append("unknown") }
    file("speed") { _, text in text.append("-1") }
    file("uevent") { link, text in
      text.append("INTERFACE=")
      text.append(link.name)
      text.append("\nIFINDEX=")
      text.append(link.index.u64)
    }
    number("statistics/rx_packets") { $0.counts.receivedPackets }
    number("statistics/tx_packets") { $0.counts.sentPackets }
    number("statistics/rx_bytes") { $0.counts.receivedBytes }
    number("statistics/tx_bytes") { $0.counts.sentBytes }
    number("statistics/rx_errors") { $0.counts.receivedErrors }
    number("statistics/tx_errors") { $0.counts.sentErrors }
    number("statistics/rx_dropped") { $0.counts.receivedDropped }
    number("statistics/tx_dropped") { $0.counts.sentDropped }
    number("statistics/multicast") { $0.counts.multicast }
    for name in [
      "statistics/collisions", "statistics/rx_length_errors", "statistics/rx_over_errors", "statistics/rx_crc_errors",
      "statistics/rx_frame_errors", "statistics/rx_fifo_errors", "statistics/rx_missed_errors",
      "statistics/tx_aborted_errors", "statistics/tx_carrier_errors", "statistics/tx_fifo_errors",
      "statistics/tx_heartbeat_errors", "statistics/tx_window_errors", "statistics/rx_compressed",
      "statistics/tx_compressed", "statistics/rx_nohandler",
    ] as [StaticString] { number(name) { _ in 0 } }
  }

  /// A link's address with colons.
  private static func append(_ address: [UInt8], _ text: inout TextBuffer) {
    for index in 0..<address.count {
      if index > 0 { text.append(":") }
      text.append(hexadecimal: address[index].u64, width: 2)
    }
  }
}
