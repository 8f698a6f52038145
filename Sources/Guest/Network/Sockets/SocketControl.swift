// Requests of ioctl(2) that sockets answer.

/// Their numbers (SIOC*, FIO*).
enum SocketControl {
  /// SIOCOUTQ: bytes that have not been acknowledged, or have not left.
  static let sendQueueByteCount: UInt32 = 0x5411
}
