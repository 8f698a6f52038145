// The classifier's table: finding, growing while it is searched, what is kept alive; and what an attacker can do to its hash.
import Base
import Devices
import Glibc
import Locks
import ModelChecker
import Pages
import Testing
import Threads

@testable import Network

private let flowsAlive = Atomic<Int>(0)

private final class CountedFlow: Flow {
  let number: Int
  init?(_ number: Int) {
    self.number = number
    super.init(ringCapacity: 2)
    flowsAlive.add(1, ordering: .relaxed)
  }
  deinit { flowsAlive.subtract(1, ordering: .relaxed) }
}

private func key(_ number: Int) -> FlowKey {
  FlowKey(
    protocol: 6, local: IPAddress(v4: 0x0a00_0001), localPort: 80,
    remote: IPAddress(v4: 0x0a00_0000 + UInt32(number >> 8)),
    remotePort: UInt16(1024 + number & 0xff))
}

@Suite(.serialized) struct FlowTableTests {
  init() { TestThreads.begin() }

  private func expectAlive(_ count: Int) {
    for _ in 0..<2000 where flowsAlive.load(ordering: .relaxed) != count {
      RCU.barrier()
      usleep(1000)
    }
    #expect(flowsAlive.load(ordering: .relaxed) == count)
  }

  @Test func flowsAreFoundByAllOfTheirKey() throws {
    let table = FlowTable(key: SipKey(1, 2))
    let flow = try #require(CountedFlow(1))
    let known = FlowKey(
      protocol: 6, local: IPAddress(v4: 1), localPort: 2, remote: IPAddress(v4: 3), remotePort: 4)
    try table.insert(known, flow)
    #expect(table.findRetained(known) === flow && table.count == 1)
    #expect(throws: Errno.EADDRINUSE) { try table.insert(known, flow) }
    var others: [FlowKey] = []
    for change in 0..<5 {
      var other = known
      switch change {
      case 0: other.protocolNumber = 17
      case 1: other.local = IPAddress(v4: 2)
      case 2: other.localPort = 3
      case 3: other.remote = IPAddress(high: 0, low: 3)
      default: other.remotePort = 5
      }
      others.append(other)
    }
    for other in others { #expect(table.findRetained(other) == nil) }
    // A flow may have several keys, and is kept by each.
    try table.insert(others[0], flow)
    #expect(table.remove(known, flow) && !table.remove(known, flow))
    #expect(table.findRetained(known) == nil && table.findRetained(others[0]) === flow)
    let stranger = try #require(CountedFlow(2))
    #expect(!table.remove(others[0], stranger) && table.remove(others[0], flow))
    #expect(known.reversed.reversed == known && known.reversed.local == known.remote)
    #expect(FlowKey(protocol: 17, local: .any6, localPort: 53).isWildcard && !known.isWildcard)
  }

  @Test func tablesKeepFlowsAliveUntilReadersAreGone() throws {
    expectAlive(0)
    let table = FlowTable(key: SipKey(1, 2))
    for number in 0..<100 { try table.insert(key(number), try #require(CountedFlow(number))) }
    expectAlive(100)
    for number in 0..<100 {
      let flow = try #require(table.findRetained(key(number)) as? CountedFlow)
      #expect(flow.number == number && table.remove(key(number), flow))
    }
    expectAlive(0)
  }

  @Test func aTableGrowsWithItsFlows() throws {
    let table = FlowTable(key: SipKey(3, 4))
    let count = 20_000
    var flows: [CountedFlow] = []
    for number in 0..<count {
      flows.append(try #require(CountedFlow(number)))
      try table.insert(key(number), flows[number])
      if number % 1000 == 0 { RCU.barrier() }
    }
    #expect(table.count == count)
    for number in 0..<count { #expect(table.findRetained(key(number)) === flows[number]) }
    var seen = 0
    table.forEach { _, _ in seen += 1 }
    #expect(seen == count)
    for number in 0..<count { #expect(table.remove(key(number), flows[number])) }
    flows = []
    expectAlive(0)
  }

  /// Readers search without pause while flows come and go: what is in the table for good is always found, and what is found is alive.
  @Test func searchesWhileFlowsComeAndGo() throws {
    final class Shared: @unchecked Sendable {
      let table = FlowTable(key: SipKey(5, 6))
      let isOver = Atomic<Bool>(false)
      let wrong = Atomic<Int>(0)
      let found = Atomic<Int>(0)
    }
    let shared = Shared()
    for number in 0..<50 { try shared.table.insert(key(number), try #require(CountedFlow(number))) }
    HostThreads.run(4) { index in
      if index == 0 {
        for round in 0..<30 {
          var flows: [CountedFlow] = []
          for number in 1000..<1300 {
            flows.append(CountedFlow(number)!)
            try! shared.table.insert(key(number), flows[number - 1000])
          }
          for flow in flows { _ = shared.table.remove(key(flow.number), flow) }
          if round % 8 == 0 { RCU.barrier() }
        }
        shared.isOver.store(true, ordering: .releasing)
        return
      }
      var number = index
      while !shared.isOver.load(ordering: .acquiring) {
        number = (number &* 31 &+ 7) % 50
        let passing = 1000 + number * 6
        RCU.read {
          let flow = shared.table.find(key(number))?._withUnsafeGuaranteedRef { ($0 as? CountedFlow)?.number }
          if flow != number { shared.wrong.add(1, ordering: .relaxed) }
          if let other = shared.table.find(key(passing)) {
            shared.found.add(1, ordering: .relaxed)
            let got = other._withUnsafeGuaranteedRef { ($0 as? CountedFlow)?.number }
            if got != passing { shared.wrong.add(1, ordering: .relaxed) }
          }
        }
      }
    }
    #expect(shared.wrong.load(ordering: .relaxed) == 0)
    #expect(shared.found.load(ordering: .relaxed) > 0)
    for number in 0..<50 {
      let flow = try #require(shared.table.findRetained(key(number)))
      #expect(shared.table.remove(key(number), flow))
    }
    expectAlive(0)
  }

  // MARK: Collisions

  /// The hash of a table that folds the 4-tuple by exclusive or: what everybody can compute.
  private func folded(_ key: FlowKey) -> UInt64 {
    UInt64(key.local.v4 ^ key.remote.v4) ^ UInt64(key.localPort) ^ UInt64(key.remotePort) ^ UInt64(key.protocolNumber)
  }

  /// An attacker who chooses its address and port (as IPv6 or a botnet lets it) has all its connections fall into one chain of a table that
  /// uses exclusive or: who changes the address changes the port alike. With a key that it does not know it cannot.
  @Test func chosenKeysCollideUnderXORAndNotHere() {
    let local = IPAddress(v4: 0xc0a8_0001)
    let keys = (0..<4096).map { number in
      FlowKey(
        protocol: 6, local: local, localPort: 80, remote: IPAddress(v4: 0x0a00_0000 ^ UInt32(number)),
        remotePort: 0x8000 ^ UInt16(number))
    }
    func longest(_ hash: (FlowKey) -> UInt64) -> Int {
      var chains = [Int](repeating: 0, count: 4096)
      for key in keys { chains[Int(hash(key) & 4095)] += 1 }
      return chains.max()!
    }
    #expect(longest(folded) == 4096)
    var random = SystemRandomNumberGenerator()
    for _ in 0..<20 {
      let boot = SipKey(random.next(), random.next())
      #expect(longest { $0.hash(boot) } <= 12)
    }
    // Nor can keys be chosen beforehand that collide under another boot's key.
    let (one, other) = (SipKey(1, 2), SipKey(3, 4))
    let aimed = (0..<2_000_000).lazy.map { key($0) }.filter { $0.hash(one) & 4095 == 7 }.prefix(400)
    var chains = [Int](repeating: 0, count: 4096)
    for key in aimed { chains[Int(key.hash(other) & 4095)] += 1 }
    #expect(chains.max()! <= 8)
  }

  /// SipHash-1-3 by its definition: known answers of the reference implementation for the key 00…0f and whole words of 00, 01, 02….
  @Test func shortSipHashIsWhatItIsSaidToBe() {
    let key = SipKey(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908)
    func hash(_ words: [UInt64]) -> UInt64 {
      var hasher = SipHasher(key)
      for word in words { hasher.combineShort(word) }
      return hasher.finishShort()
    }
    // Recomputed here from the definition, a step at a time.
    func reference(_ words: [UInt64]) -> UInt64 {
      func rotate(_ x: UInt64, _ n: UInt64) -> UInt64 { x << n | x >> (64 - n) }
      var v: [UInt64] = [
        key.k0 ^ 0x736f_6d65_7073_6575, key.k1 ^ 0x646f_7261_6e64_6f6d, key.k0 ^ 0x6c79_6765_6e65_7261,
        key.k1 ^ 0x7465_6462_7974_6573,
      ]
      func round() {
        v[0] &+= v[1]
        v[1] = rotate(v[1], 13)
        v[1] ^= v[0]
        v[0] = rotate(v[0], 32)
        v[2] &+= v[3]
        v[3] = rotate(v[3], 16)
        v[3] ^= v[2]
        v[0] &+= v[3]
        v[3] = rotate(v[3], 21)
        v[3] ^= v[0]
        v[2] &+= v[1]
        v[1] = rotate(v[1], 17)
        v[1] ^= v[2]
        v[2] = rotate(v[2], 32)
      }
      for word in words + [UInt64(words.count * 8) << 56] {
        v[3] ^= word
        round()
        v[0] ^= word
      }
      v[2] ^= 0xff
      for _ in 0..<3 { round() }
      return v[0] ^ v[1] ^ v[2] ^ v[3]
    }
    for count in 0..<6 {
      let words: [UInt64] = (0..<count).map { UInt64(0x0706_0504_0302_0100) + UInt64($0) * 0x0808_0808_0808_0808 }
      #expect(hash(words) == reference(words))
    }
    // The first of the reference implementation's vectors of SipHash-1-3: the empty input.
    #expect(hash([]) == 0xabac_0158_050f_c4dc)
  }
}
