// What can be asked of a running machine: a line of text, an answer of one line of JSON. Pure, so that tables test it.
//
//   memory             how much memory there is, and who has it
//   network            what the network interfaces have done
//   balloon SIZE       so much of it shall be in the balloon, as 64M or 2G; the guest gives it as soon as it can do without

/// Sizes as people write them.
public enum ByteSize {
  /// "128M", "2G" to bytes; nil for anything else.
  public static func parse(_ bytes: some BidirectionalCollection<UInt8>) -> UInt64? {
    guard let unit = bytes.last else { return nil }
    let shift: UInt64
    switch unit {
    case UInt8(ascii: "M"), UInt8(ascii: "m"): shift = 20
    case UInt8(ascii: "G"), UInt8(ascii: "g"): shift = 30
    default: return nil
    }
    let digits = bytes.dropLast()
    guard !digits.isEmpty else { return nil }
    var value: UInt64 = 0
    for digit in digits {
      guard digit >= 0x30, digit <= 0x39 else { return nil }
      value = value * 10 + UInt64(digit - 0x30)
      if value > 1 << 20 { return nil }
    }
    return value << shift
  }
}

/// A command for a running machine.
public enum ControlCommand: Equatable {
  /// Tell about memory.
  case memory
  /// So many bytes are wanted in the balloon.
  case balloon(UInt64)
  /// Tell about the network interfaces.
  case network
  /// Not one of these, or not now; one sentence says why.
  case refused(String)

  /// Bytes that a line has at most, its end not included.
  static let lineLimit = 256
  /// Bytes that the balloon always leaves to the guest.
  static let leastMemory: UInt64 = 16 << 20

  /// What a line asks of a machine with so much memory.
  public init(line: some Collection<UInt8>, memoryByteCount: UInt64) {
    let words = line.split { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") || $0 == UInt8(ascii: "\r") }
      .map { Array($0) }
    guard let first = words.first else {
      self = .refused("say what is wanted: memory, network, or balloon SIZE")
      return
    }
    switch String(decoding: first, as: UTF8.self) {
    case "memory" where words.count == 1: self = .memory
    case "memory": self = .refused("memory stands alone")
    case "network": self = words.count == 1 ? .network : .refused("network stands alone")
    case "balloon":
      guard words.count == 2, let size = ByteSize.parse(words[1]) else {
        self = .refused("balloon wants one size such as 64M or 2G")
        return
      }
      self = Self.refusal(ofBalloon: size, in: memoryByteCount).map { .refused($0) } ?? .balloon(size)
    default: self = .refused("there is no command \(Failure.show(first)): say memory, network, or balloon SIZE")
    }
  }

  /// Why there cannot be a balloon of that size, nil if there can.
  public static func refusal(ofBalloon size: UInt64, in memoryByteCount: UInt64) -> String? {
    let most = memoryByteCount - min(memoryByteCount, leastMemory)
    return size <= most ? nil : "the guest keeps 16M at least, so the most is \(most >> 20)M"
  }
}
