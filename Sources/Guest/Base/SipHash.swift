// SipHash-2-4 (Aumasson and Bernstein): a keyed hash that nobody can aim collisions at without the key.
//
// For tables whose keys a program or a peer chooses: names, futexes, connections. The key comes from the boot seed.

/// A 128-bit key.
@frozen public struct SipKey: Sendable {
  /// First half.
  public var k0: UInt64
  /// Second half.
  public var k1: UInt64
  /// The key of two halves.
  @inline(__always) public init(_ k0: UInt64, _ k1: UInt64) {
    self.k0 = k0
    self.k1 = k1
  }
}

/// SipHash-2-4 in the making: words first, then perhaps some bytes, then `finish`.
@frozen public struct SipHasher {
  @usableFromInline var v0: UInt64
  @usableFromInline var v1: UInt64
  @usableFromInline var v2: UInt64
  @usableFromInline var v3: UInt64
  @usableFromInline var byteCount: UInt64 = 0

  /// A hash of nothing yet.
  @inline(__always) public init(_ key: SipKey) {
    v0 = key.k0 ^ 0x736f_6d65_7073_6575
    v1 = key.k1 ^ 0x646f_7261_6e64_6f6d
    v2 = key.k0 ^ 0x6c79_6765_6e65_7261
    v3 = key.k1 ^ 0x7465_6462_7974_6573
  }

  @inline(__always) private mutating func round() {
    v0 &+= v1
    v2 &+= v3
    v1 = Self.rotate(v1, 13) ^ v0
    v3 = Self.rotate(v3, 16) ^ v2
    v0 = Self.rotate(v0, 32)
    v2 &+= v1
    v0 &+= v3
    v1 = Self.rotate(v1, 17) ^ v2
    v3 = Self.rotate(v3, 21) ^ v0
    v2 = Self.rotate(v2, 32)
  }

  @inline(__always) private static func rotate(_ value: UInt64, _ count: UInt64) -> UInt64 {
    value &<< count | value &>> (64 &- count)
  }

  /// Takes in a word (8 bytes, little-endian). Not after `combine(bytes:)`.
  @inline(__always) public mutating func combine(_ word: UInt64) {
    v3 ^= word
    round()
    round()
    v0 ^= word
    byteCount &+= 8
  }

  /// Takes in a word as SipHash-1-3 does, with half the rounds; not mixed with `combine`, and ended by `finishShort`. For tables on hot paths:
  /// their hashes are seen by nobody, and a round a word is enough against those who only choose keys.
  @inline(__always) public mutating func combineShort(_ word: UInt64) {
    v3 ^= word
    round()
    v0 ^= word
    byteCount &+= 8
  }

  /// Gives the hash of the words taken in by `combineShort`.
  @inline(__always) public consuming func finishShort() -> UInt64 {
    combineShort(byteCount &<< 56)
    v2 ^= 0xff
    round()
    round()
    round()
    return v0 ^ v1 ^ v2 ^ v3
  }

  /// Takes in bytes and gives the hash: the last step.
  @inline(__always) public consuming func finish(bytes: UnsafeRawBufferPointer) -> UInt64 {
    var offset = 0
    while offset &+ 8 <= bytes.count {
      combine(UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)))
      offset &+= 8
    }
    var last: UInt64 = 0
    var shift: UInt64 = 0
    while offset < bytes.count {
      last |= bytes[offset].u64 &<< shift
      shift &+= 8
      offset &+= 1
      byteCount &+= 1
    }
    return end(last)
  }

  /// Gives the hash of the words taken in.
  @inline(__always) public consuming func finish() -> UInt64 { end(0) }

  @inline(__always) private mutating func end(_ rest: UInt64) -> UInt64 {
    let last = rest | byteCount &<< 56
    v3 ^= last
    round()
    round()
    v0 ^= last
    v2 ^= 0xff
    round()
    round()
    round()
    round()
    return v0 ^ v1 ^ v2 ^ v3
  }
}

extension SipKey {
  /// The hash of one word.
  @inline(__always) public func hash(_ word: UInt64) -> UInt64 {
    var hasher = SipHasher(self)
    hasher.combine(word)
    return hasher.finish()
  }

  /// The hash of bytes.
  @inline(__always) public func hash(bytes: UnsafeRawBufferPointer) -> UInt64 { SipHasher(self).finish(bytes: bytes) }
}
