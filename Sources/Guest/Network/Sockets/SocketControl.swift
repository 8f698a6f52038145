// Requests of ioctl(2) that sockets answer.

/// Their numbers (SIOC*, FIO*).
enum SocketControl {
  /// SIOCOUTQ: bytes that have not been acknowledged, or have not left.
  static let sendQueueByteCount: UInt32 = 0x5411
  /// SIOCOUTQNSD: bytes that have not left.
  static let unsentByteCount: UInt32 = 0x894b
  /// SIOCATMARK: whether the urgent byte comes next.
  static let isAtMark: UInt32 = 0x8905
}
