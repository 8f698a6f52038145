// The files under /proc/sys/net about the Internet protocols that servers look at, with the values of what this kernel does.
import Base
import Files

extension ProcessFileSystem {
  /// Adds the settings of the network that never change.
  func addNetworkSettings() {
    let settings: [(path: StaticString, text: StaticString)] = [
      ("sys/net/core/netdev_max_backlog", "1000\n"), ("sys/net/core/busy_poll", "0\n"),
      ("sys/net/core/busy_read", "0\n"), ("sys/net/core/default_qdisc", "noqueue\n"),
      ("sys/net/core/bpf_jit_enable", "0\n"), ("sys/net/core/rps_sock_flow_entries", "0\n"),
      ("sys/net/ipv4/ip_forward", "0\n"), ("sys/net/ipv4/ip_default_ttl", "64\n"),
      ("sys/net/ipv4/ip_no_pmtu_disc", "0\n"), ("sys/net/ipv4/ip_nonlocal_bind", "0\n"),
      ("sys/net/ipv4/ip_unprivileged_port_start", "1024\n"), ("sys/net/ipv4/ip_local_reserved_ports", "\n"),
      ("sys/net/ipv4/ping_group_range", "0\t2147483647\n"), ("sys/net/ipv4/igmp_max_memberships", "20\n"),
      ("sys/net/ipv4/icmp_echo_ignore_all", "0\n"), ("sys/net/ipv4/icmp_echo_ignore_broadcasts", "1\n"),
      ("sys/net/ipv4/icmp_ratelimit", "1000\n"),
      ("sys/net/ipv4/udp_mem", "190758\t254345\t381516\n"), ("sys/net/ipv4/udp_rmem_min", "4096\n"),
      ("sys/net/ipv4/udp_wmem_min", "4096\n"),
      ("sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"), ("sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304\n"),
      ("sys/net/ipv4/tcp_mem", "95379\t127172\t190758\n"), ("sys/net/ipv4/tcp_congestion_control", "cubic\n"),
      ("sys/net/ipv4/tcp_available_congestion_control", "reno cubic\n"),
      ("sys/net/ipv4/tcp_allowed_congestion_control", "reno cubic\n"),
      ("sys/net/ipv4/tcp_max_syn_backlog", "4096\n"), ("sys/net/ipv4/tcp_syncookies", "1\n"),
      ("sys/net/ipv4/tcp_fin_timeout", "60\n"), ("sys/net/ipv4/tcp_tw_reuse", "2\n"),
      ("sys/net/ipv4/tcp_keepalive_time", "7200\n"), ("sys/net/ipv4/tcp_keepalive_intvl", "75\n"),
      ("sys/net/ipv4/tcp_keepalive_probes", "9\n"), ("sys/net/ipv4/tcp_syn_retries", "6\n"),
      ("sys/net/ipv4/tcp_synack_retries", "5\n"), ("sys/net/ipv4/tcp_retries1", "3\n"),
      ("sys/net/ipv4/tcp_retries2", "15\n"), ("sys/net/ipv4/tcp_timestamps", "1\n"),
      ("sys/net/ipv4/tcp_window_scaling", "1\n"), ("sys/net/ipv4/tcp_sack", "1\n"), ("sys/net/ipv4/tcp_ecn", "2\n"),
      ("sys/net/ipv4/tcp_fastopen", "1\n"), ("sys/net/ipv4/tcp_moderate_rcvbuf", "1\n"),
      ("sys/net/ipv4/tcp_no_metrics_save", "1\n"), ("sys/net/ipv4/tcp_slow_start_after_idle", "1\n"),
      ("sys/net/ipv4/tcp_notsent_lowat", "4294967295\n"), ("sys/net/ipv4/tcp_max_tw_buckets", "65536\n"),
      ("sys/net/ipv4/tcp_max_orphans", "65536\n"), ("sys/net/ipv4/tcp_abort_on_overflow", "0\n"),
      ("sys/net/ipv4/tcp_rfc1337", "0\n"), ("sys/net/ipv4/tcp_mtu_probing", "1\n"),
      ("sys/net/ipv4/conf/all/forwarding", "0\n"), ("sys/net/ipv4/conf/default/forwarding", "0\n"),
      ("sys/net/ipv4/conf/all/rp_filter", "0\n"), ("sys/net/ipv4/conf/default/rp_filter", "0\n"),
      ("sys/net/ipv6/bindv6only", "0\n"), ("sys/net/ipv6/ip_nonlocal_bind", "0\n"),
      ("sys/net/ipv6/conf/all/disable_ipv6", "0\n"), ("sys/net/ipv6/conf/default/disable_ipv6", "0\n"),
      ("sys/net/ipv6/conf/all/forwarding", "0\n"), ("sys/net/ipv6/conf/default/forwarding", "0\n"),
      ("sys/net/ipv6/conf/lo/disable_ipv6", "0\n"),
    ]
    for setting in settings { add(setting.path, text: setting.text) }
  }
}
