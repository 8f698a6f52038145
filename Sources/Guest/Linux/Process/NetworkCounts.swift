// /proc/net/snmp and /proc/net/snmp6: what the network has counted, by the names of SNMP.
import Base
import Files
import Network

extension NetworkTexts {
  /// A row: its name, and each of its numbers by name; nil: not counted.
  private typealias Row = (name: StaticString, columns: [(StaticString, UInt64)])

  static func counts4(_ stack: NetworkStack, _ text: inout TextBuffer) {
    func of(_ counter: NetworkCounter) -> UInt64 { stack.counted(counter, isV4: true) }
    let rows: [Row] = [
      (
        "Ip",
        [
          ("Forwarding", 2), ("DefaultTTL", 64), ("InReceives", of(.ipReceived)), ("InHdrErrors", of(.ipHeaderErrors)),
          ("InAddrErrors", of(.ipAddressErrors)), ("ForwDatagrams", 0), ("InUnknownProtos", of(.ipUnknownProtocols)),
          ("InDiscards", of(.ipDiscarded)), ("InDelivers", of(.ipDelivered)), ("OutRequests", of(.ipSent)),
          ("OutDiscards", of(.ipSendDiscarded)), ("OutNoRoutes", of(.ipNoRoutes)),
          ("ReasmTimeout", of(.reassemblyTimedOut)), ("ReasmReqds", of(.fragmentsReceived)),
          ("ReasmOKs", of(.reassembled)), ("ReasmFails", of(.reassemblyFailed)), ("FragOKs", of(.fragmented)),
          ("FragFails", of(.fragmentFailed)), ("FragCreates", of(.fragmentsCreated)),
        ]
      ),
      (
        "Icmp",
        [
          ("InMsgs", of(.icmpReceived)), ("InErrors", of(.icmpErrors)), ("InCsumErrors", 0),
          ("InDestUnreachs", of(.icmpUnreachableReceived)), ("InTimeExcds", 0), ("InParmProbs", 0), ("InSrcQuenchs", 0),
          ("InRedirects", 0), ("InEchos", of(.icmpEchoReceived)), ("InEchoReps", of(.icmpEchoReplyReceived)),
          ("InTimestamps", 0), ("InTimestampReps", 0), ("InAddrMasks", 0), ("InAddrMaskReps", 0),
          ("OutMsgs", of(.icmpSent)), ("OutErrors", 0), ("OutRateLimitGlobal", of(.icmpLimited)),
          ("OutRateLimitHost", 0), ("OutDestUnreachs", of(.icmpUnreachableSent)), ("OutTimeExcds", 0),
          ("OutParmProbs", 0), ("OutSrcQuenchs", 0), ("OutRedirects", 0), ("OutEchos", 0),
          ("OutEchoReps", of(.icmpEchoSent)), ("OutTimestamps", 0), ("OutTimestampReps", 0), ("OutAddrMasks", 0),
          ("OutAddrMaskReps", 0),
        ]
      ),
      ("Tcp", stack.transmissionCounts),
      (
        "Udp",
        [
          ("InDatagrams", of(.udpReceived)), ("NoPorts", of(.udpNoPorts)), ("InErrors", of(.udpErrors)),
          ("OutDatagrams", of(.udpSent)), ("RcvbufErrors", of(.udpNoRoom)), ("SndbufErrors", 0),
          ("InCsumErrors", 0), ("IgnoredMulti", 0), ("MemErrors", 0),
        ]
      ),
    ]
    for row in rows {
      text.append(row.name)
      text.append(":")
      for column in row.columns {
        text.append(" ")
        text.append(column.0)
      }
      text.append("\n")
      text.append(row.name)
      text.append(":")
      for column in row.columns {
        text.append(" ")
        text.append(column.1)
      }
      text.append("\n")
    }
  }

  static func counts6(_ stack: NetworkStack, _ text: inout TextBuffer) {
    let columns: [(StaticString, NetworkCounter)] = [
      ("Ip6InReceives", .ipReceived), ("Ip6InHdrErrors", .ipHeaderErrors), ("Ip6InAddrErrors", .ipAddressErrors),
      ("Ip6InUnknownProtos", .ipUnknownProtocols), ("Ip6InDiscards", .ipDiscarded), ("Ip6InDelivers", .ipDelivered),
      ("Ip6OutRequests", .ipSent), ("Ip6OutDiscards", .ipSendDiscarded), ("Ip6OutNoRoutes", .ipNoRoutes),
      ("Ip6ReasmTimeout", .reassemblyTimedOut), ("Ip6ReasmReqds", .fragmentsReceived), ("Ip6ReasmOKs", .reassembled),
      ("Ip6ReasmFails", .reassemblyFailed), ("Ip6FragOKs", .fragmented), ("Ip6FragFails", .fragmentFailed),
      ("Ip6FragCreates", .fragmentsCreated), ("Icmp6InMsgs", .icmpReceived), ("Icmp6InErrors", .icmpErrors),
      ("Icmp6OutMsgs", .icmpSent), ("Udp6InDatagrams", .udpReceived), ("Udp6NoPorts", .udpNoPorts),
      ("Udp6InErrors", .udpErrors), ("Udp6OutDatagrams", .udpSent), ("Udp6RcvbufErrors", .udpNoRoom),
    ]
    for column in columns {
      var name = TextBuffer()
      name.append(column.0)
      text.append(name.bytes)
      for _ in 0..<max(32 &- name.bytes.count, 0) { text.append(" ") }
      text.append("\t")
      text.append(stack.counted(column.1, isV4: false))
      text.append("\n")
    }
  }
}
