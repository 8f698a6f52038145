// The kernel's random numbers: ChaCha20 with fast key erasure, keyed by the seed that the monitor gave.
//
// Every refill makes 256 bytes and takes the first 32 of them as the next key, so what has been handed out cannot be computed
// from what is in memory later. Thread context only.
import Base
import Locks

/// A ChaCha20 block function and the generator on it. Pure; not synchronised.
struct RandomGenerator {
  private var key: [8 of UInt32] = .init(repeating: 0)
  private var pool: [28 of UInt64] = .init(repeating: 0)
  /// Words of the pool not handed out yet: the last ones.
  private var left = 0

  /// A generator keyed by 256 bits.
  init(seed: (UInt64, UInt64, UInt64, UInt64)) { mix(seed) }

  /// Changes the key by 256 bits from outside; what is in the pool is dropped.
  mutating func mix(_ seed: (UInt64, UInt64, UInt64, UInt64)) {
    let words: [4 of UInt64] = [seed.0, seed.1, seed.2, seed.3]
    for index in 0..<4 {
      key[index &* 2] ^= words[index].u32
      key[index &* 2 &+ 1] ^= (words[index] &>> 32).u32
    }
    left = 0
  }

  /// The next 64 bits.
  mutating func next() -> UInt64 {
    if left == 0 { refill() }
    left &-= 1
    let value = pool[left]
    pool[left] = 0
    return value
  }

  private mutating func refill() {
    let oldKey = key
    for counter in 0..<4 {
      let block = Self.block(key: oldKey, counter: counter.u32)
      for index in 0..<8 {
        let word = block[index &* 2].u64 | block[index &* 2 &+ 1].u64 &<< 32
        let place = counter &* 8 &+ index
        if place < 4 {
          key[place &* 2] = word.u32
          key[place &* 2 &+ 1] = (word &>> 32).u32
        } else {
          pool[place &- 4] = word
        }
      }
    }
    left = 28
  }

  /// One block of ChaCha20 (RFC 8439, 2.3) with a nonce of zero.
  static func block(key: [8 of UInt32], counter: UInt32) -> [16 of UInt32] {
    var state: [16 of UInt32] = .init(repeating: 0)
    state[0] = 0x6170_7865
    state[1] = 0x3320_646e
    state[2] = 0x7962_2d32
    state[3] = 0x6b20_6574
    for index in 0..<8 { state[index &+ 4] = key[index] }
    state[12] = counter
    var working = state
    for _ in 0..<10 {
      quarter(&working, 0, 4, 8, 12)
      quarter(&working, 1, 5, 9, 13)
      quarter(&working, 2, 6, 10, 14)
      quarter(&working, 3, 7, 11, 15)
      quarter(&working, 0, 5, 10, 15)
      quarter(&working, 1, 6, 11, 12)
      quarter(&working, 2, 7, 8, 13)
      quarter(&working, 3, 4, 9, 14)
    }
    for index in 0..<16 { state[index] = state[index] &+ working[index] }
    return state
  }

  @inline(__always)
  private static func quarter(_ s: inout [16 of UInt32], _ a: Int, _ b: Int, _ c: Int, _ d: Int) {
    s[a] = s[a] &+ s[b]
    s[d] = rotate(s[d] ^ s[a], 16)
    s[c] = s[c] &+ s[d]
    s[b] = rotate(s[b] ^ s[c], 12)
    s[a] = s[a] &+ s[b]
    s[d] = rotate(s[d] ^ s[a], 8)
    s[c] = s[c] &+ s[d]
    s[b] = rotate(s[b] ^ s[c], 7)
  }

  @inline(__always)
  private static func rotate(_ value: UInt32, _ count: UInt32) -> UInt32 { value &<< count | value &>> (32 &- count) }
}

/// The one generator of the kernel.
public enum Random {
  // SAFETY: a lock is made to be shared.
  private static let lock = Mutex()
  // SAFETY: `lock` is held by whoever touches it.
  nonisolated(unsafe) private static var generator = RandomGenerator(seed: (0, 0, 0, 0))

  /// Adds 256 bits from outside: the boot seed, the entropy device.
  public static func mix(_ seed: (UInt64, UInt64, UInt64, UInt64)) { lock.withLock { generator.mix(seed) } }

  /// 64 random bits.
  public static func next() -> UInt64 { lock.withLock { generator.next() } }

  /// Fills a buffer of the kernel.
  public static func fill(_ buffer: UnsafeMutableRawBufferPointer) {
    lock.lock()
    defer { lock.unlock() }
    var at = 0
    while at < buffer.count {
      let word = generator.next()
      let count = min(8, buffer.count &- at)
      for index in 0..<count { buffer[at &+ index] = (word &>> (index &* 8).u64).u8 }
      at &+= count
    }
  }
}
