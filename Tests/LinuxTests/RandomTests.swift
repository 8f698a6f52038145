// The kernel's generator: the block function is ChaCha20's, and keys do not repeat.
import Testing

@testable import Linux

@Suite struct RandomTests {
  /// RFC 8439, A.1, test vectors 1 and 2: zero key, zero nonce, counters 0 and 1.
  @Test func blockFunctionIsChaCha20() {
    let first = RandomGenerator.block(key: .init(repeating: 0), counter: 0)
    #expect(first[0] == 0xade0_b876 && first[1] == 0x903d_f1a0 && first[15] == 0x8665_eeb2)
    let second = RandomGenerator.block(key: .init(repeating: 0), counter: 1)
    #expect(second[0] == 0xbee7_079f && second[1] == 0x7a38_5155)
  }

  @Test func outputDoesNotRepeatAndDependsOnTheSeed() {
    var one = RandomGenerator(seed: (1, 2, 3, 4))
    var other = RandomGenerator(seed: (1, 2, 3, 5))
    var seen: Set<UInt64> = []
    for _ in 0..<1000 {
      seen.insert(one.next())
      seen.insert(other.next())
    }
    #expect(seen.count == 2000)
  }
}
