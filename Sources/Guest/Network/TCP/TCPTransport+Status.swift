// What others are shown of TCP: counts by the names of SNMP (RFC 4022), and what is left of connections.
import Base
import Locks

extension TCPTransport {
  /// Counts by their names in /proc/net/snmp.
  var counts: [(StaticString, UInt64)] {
    [
      ("RtoAlgorithm", 1), ("RtoMin", settings.leastTimeout / 1_000_000),
      ("RtoMax", settings.largestTimeout / 1_000_000),
      ("MaxConn", 0), ("ActiveOpens", counted(.activeOpens)), ("PassiveOpens", counted(.passiveOpens)),
      ("AttemptFails", counted(.attemptFails)), ("EstabResets", counted(.establishedResets)),
      ("CurrEstab", openCount), ("InSegs", counted(.segmentsReceived)), ("OutSegs", counted(.segmentsSent)),
      ("RetransSegs", counted(.retransmissions)), ("InErrs", counted(.errors)), ("OutRsts", counted(.resetsSent)),
      ("InCsumErrors", counted(.checksumErrors)),
    ]
  }

  private var openCount: UInt64 {
    var count: UInt64 = 0
    for socket in stack.sockets.all(ofProtocol: InternetProtocol.tcp) {
      let state = socket.status.state
      if state == .established || state == .closeWait { count &+= 1 }
    }
    return count
  }

  /// Adds what stands in for connections that have ended.
  func addRemains(to list: inout [InternetSocketStatus]) {
    let now = stack.environment.now()
    var result: [InternetSocketStatus] = []
    timeWaits.forEach { record in
      var status = InternetSocketStatus(
        isIPv6: record.isIPv6, local: InternetEndpoint(record.key.local, port: record.key.localPort),
        remote: InternetEndpoint(record.key.remote, port: record.key.remotePort), state: .timeWait, inode: 0,
        user: record.user)
      status.timer = 3
      status.timerLeft = record.expiresAt > now ? record.expiresAt &- now : 0
      result.append(status)
    }
    list += result
  }
}
