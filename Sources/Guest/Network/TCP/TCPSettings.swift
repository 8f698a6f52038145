// TCPSettings: what a machine's TCP does where a socket does not say otherwise: Linux's net.ipv4.tcp_* and their values.
//
// Times are nanoseconds, sizes bytes.
import Base

// SAFETY: each is a word that is read and written whole; a reader that sees an old value behaves as one that came sooner.
/// Settings of a stack's TCP. Connections read them as they go; whoever changes one does so word by word.
public final class TCPSettings: @unchecked Sendable {
  /// Least, first and largest receive buffer (tcp_rmem); a window is half of it at most.
  public var receiveBuffer = (least: 4096, first: 131_072, most: 6 << 20)
  /// Least, first and largest send buffer (tcp_wmem).
  public var sendBuffer = (least: 4096, first: 65_536, most: 4 << 20)
  /// What connections begin with (tcp_congestion_control).
  public var congestionAlgorithm = CongestionAlgorithm.cubic
  /// tcp_sack, tcp_timestamps, tcp_window_scaling.
  public var offersSelective = true
  /// See `offersSelective`.
  public var offersTimestamps = true
  /// See `offersSelective`.
  public var offersScaling = true
  /// tcp_ecn: 0 never, 1 offer and accept, 2 accept.
  public var congestionNotification = 2
  /// RTO before anything is measured (RFC 6298, 2.1).
  public var initialTimeout: UInt64 = 1_000_000_000
  /// The least and the largest RTO.
  public var leastTimeout: UInt64 = 200_000_000
  /// See `leastTimeout`.
  public var largestTimeout: UInt64 = 120_000_000_000
  /// How long an acknowledgement waits for company (RFC 9293, MUST-40: below half a second).
  public var acknowledgementDelay: UInt64 = 40_000_000
  /// How often a SYN is sent again (tcp_syn_retries), and a SYN-ACK (tcp_synack_retries).
  public var synRetries = 6
  /// See `synRetries`.
  public var synAckRetries = 5
  /// Timeouts after which the path is doubted, and given up (tcp_retries1, tcp_retries2).
  public var doubtfulRetries = 3
  /// See `doubtfulRetries`.
  public var retries = 15
  /// The same for connections that no program has any more (tcp_orphan_retries).
  public var orphanRetries = 8
  /// How long a connection that no program has stays in FIN_WAIT2 (tcp_fin_timeout).
  public var finishTimeout: UInt64 = 60_000_000_000
  /// How long TIME_WAIT lasts: 2 MSL (RFC 9293, 3.6.1), in Linux's measure.
  public var timeWait: UInt64 = 60_000_000_000
  /// tcp_keepalive_time, _intvl, _probes.
  public var keepaliveIdle: UInt64 = 7_200_000_000_000
  /// See `keepaliveIdle`.
  public var keepaliveInterval: UInt64 = 75_000_000_000
  /// See `keepaliveIdle`.
  public var keepaliveCount = 9
  /// tcp_slow_start_after_idle.
  public var restartsAfterIdle = true
  /// tcp_max_syn_backlog: requests of a listener that wait for their last ACK.
  public var requestBacklog = 1024
  /// net.core.somaxconn: the largest backlog a program may ask for.
  public var largestBacklog = 4096
  /// tcp_syncookies: 0 never, 1 when the backlog is full, 2 always.
  public var cookies = 1
  /// tcp_max_tw_buckets, tcp_max_orphans.
  public var largestTimeWaitCount = 65_536
  /// See `largestTimeWaitCount`.
  public var largestOrphanCount = 16_384
  /// tcp_base_mss: what is tried first when large segments vanish (RFC 4821, 7.2), and the least that is.
  public var blackHoleSegmentSize = 1024
  /// tcp_min_snd_mss, with room for options: no peer makes us send smaller segments.
  public var leastSegmentSize = 88
  /// tcp_mtu_probe_interval: when a path that was found small is tried again.
  public var probeInterval: UInt64 = 600_000_000_000
  /// What all connections hold of what they have received, and may hold.
  public let memory = TCPMemory()
  /// tcp_fastopen: bit 0 for connecting, bit 1 for listening.
  public var fastOpen = 1

  /// Linux's values.
  public init() {}
}
