// The ring of a flow: every interleaving of small programs, and real threads.
import Base
import Devices
import Glibc
import Locks
import ModelChecker
import Pages
import Testing

@testable import Network

@Suite(.serialized) struct PacketRingTests {
  private final class Shared {
    let ring: PacketRingCore<ModelWord>
    private let memory: UnsafeMutablePointer<ModelWord>
    private let capacity: Int
    /// What was pushed, by which producer, and what was popped.
    var pushed: [[UInt]] = [[], []]
    var popped: [UInt] = []

    init(capacity: Int) {
      memory = .allocate(capacity: capacity)
      self.capacity = capacity
      ring = PacketRingCore(memory, capacity: capacity)
    }
    deinit {
      memory.deinitialize(count: capacity)
      memory.deallocate()
    }

    func push(_ word: UInt, by producer: Int, tries: Int = 2) {
      if ring.push(word, tries: tries, pause: {}) == .pushed { pushed[producer].append(word) }
    }
    func pop() {
      let word = ring.pop()
      if word != 0 { popped.append(word) }
    }
    func finish() {
      while true {
        let word = ring.pop()
        if word == 0 { break }
        popped.append(word)
      }
      ModelChecker.check(popped.sorted() == (pushed[0] + pushed[1]).sorted(), "lost or doubled: \(pushed) \(popped)")
      for own in pushed {
        ModelChecker.check(popped.filter { own.contains($0) } == own, "out of order: \(pushed) \(popped)")
      }
    }
  }

  private func expectComplete(_ result: Exploration, _ location: SourceLocation = #_sourceLocation) {
    #expect(result.violation == nil, sourceLocation: location)
    #expect(result.isComplete, "\(result.schedules) schedules", sourceLocation: location)
  }

  @Test func everyScheduleOfOneProducerAndTheConsumer() {
    // The ring goes round, is full at times and empty at times.
    for capacity in [1, 2] {
      expectComplete(
        ModelChecker.explore {
          let shared = Shared(capacity: capacity)
          return ModelProgram(threads: [
            { for word: UInt in 1...3 { shared.push(word, by: 0) } }, { for _ in 0..<3 { shared.pop() } },
          ]) {
            ModelChecker.check(!shared.pushed[0].isEmpty, "nothing was pushed")
            shared.finish()
          }
        })
    }
  }

  @Test func everyScheduleOfTwoProducersAndTheConsumer() {
    expectComplete(
      ModelChecker.explore {
        let shared = Shared(capacity: 2)
        return ModelProgram(threads: [
          { shared.push(1, by: 0) }, { shared.push(11, by: 1) }, { for _ in 0..<2 { shared.pop() } },
        ]) { shared.finish() }
      })
  }

  @Test func twoProducersWithFewPreemptions() {
    expectComplete(
      ModelChecker.explore(preemptionBound: 2) {
        let shared = Shared(capacity: 2)
        return ModelProgram(threads: [
          { for word: UInt in 1...3 { shared.push(word, by: 0) } },
          { for word: UInt in 11...13 { shared.push(word, by: 1) } }, { for _ in 0..<4 { shared.pop() } },
        ]) { shared.finish() }
      })
  }

  /// Producers that take no turns, to see that the tests above would tell.
  @Test func withoutTurnsTheCheckerFindsTheLoss() {
    let result = ModelChecker.explore {
      let tail = ModelWord(0)
      let slots = UnsafeMutablePointer<ModelWord>.allocate(capacity: 2)
      for index in 0..<2 { (slots + index).initialize(to: ModelWord(0)) }
      func push(_ word: UInt) {
        let at = tail.load()
        if slots[Int(at & 1)].load() != 0 { return }
        slots[Int(at & 1)].store(word)
        tail.store(at + 1)
      }
      return ModelProgram(threads: [{ push(1) }, { push(2) }]) {
        ModelChecker.check(slots[0].load() + slots[1].load() == 3, "lost")
        slots.deinitialize(count: 2)
        slots.deallocate()
      }
    }
    #expect(result.violation != nil)
  }

  @Test func aRingHoldsWhatItHoldsAndSaysWhenHalfIsFull() throws {
    HostedArena.prepare()
    guard let ring = PacketRing() else { throw NoPacket() }
    for number in 0..<256 {
      let isHalfFull = ring.isHalfFull
      #expect(isHalfFull == (number >= 128))
      let isPushed = ring.push(try Packet.of([UInt8(number)]))
      #expect(isPushed)
    }
    let isPushed = ring.push(try Packet.of([0]))
    let isHalfFull = ring.isHalfFull
    #expect(!isPushed && isHalfFull)
    for number in 0..<256 {
      let isEmpty = ring.isEmpty
      #expect(!isEmpty)
      let packet = try need(ring.pop())
      #expect(packet.allBytes == [UInt8(number)])
    }
    let (isEmpty, isStillHalfFull) = (ring.isEmpty, ring.isHalfFull)
    #expect(isEmpty && !isStillHalfFull)
  }

  @Test func packetsInARingGoWithIt() throws {
    HostedArena.prepare()
    guard let memory = PacketMemory.allocate(capacity: 100) else { throw NoPacket() }
    do {
      guard let ring = PacketRing() else { throw NoPacket() }
      for _ in 0..<100 {
        memory.retain()
        _ = ring.push(try need(Packet(PacketSlice(memory: memory, offset: 0, count: 1))))
      }
      #expect(!memory.isUnshared)
    }
    #expect(memory.isUnshared)
    memory.release()
  }

  /// Several producers, one consumer, on threads of the host: every packet that was taken comes out once, those of a producer in order.
  @Test(arguments: [1, 3]) func threads(producers: Int) throws {
    HostedArena.prepare()
    final class Stress: @unchecked Sendable {
      let ring = PacketRing()!
      let pushed = Atomic<Int>(0)
      let finished = Atomic<Int>(0)
      var popped = 0
      var isOrdered = true
    }
    let stress = Stress()
    let rounds = 60_000
    HostThreads.run(producers + 1) { index in
      if index < producers {
        for round in 0..<rounds {
          let packet = Packet()!
          packet.tag = UInt64(index) << 32 | UInt64(round)
          if stress.ring.push(packet) { stress.pushed.add(1, ordering: .relaxed) } else { sched_yield() }
        }
        stress.finished.add(1, ordering: .releasing)
        return
      }
      var last = [Int](repeating: -1, count: producers)
      while true {
        let isOver = stress.finished.load(ordering: .acquiring) == producers
        while let packet = stress.ring.pop() {
          let (producer, round) = (Int(packet.tag >> 32), Int(packet.tag & 0xffff_ffff))
          if round <= last[producer] { stress.isOrdered = false }
          last[producer] = round
          stress.popped += 1
        }
        if isOver { break }
        sched_yield()
      }
    }
    #expect(stress.isOrdered && stress.popped == stress.pushed.load(ordering: .relaxed) && stress.popped > 1000)
  }
}
