// Which frames of the guest wait for others, and for how long: with the time made up.
import Testing

@testable import VirtioNet

/// A batch that `#expect` can ask.
private final class Subject {
  private var batch = AnswerBatch()
  var owed: Int { batch.owed }
  func hasDelivered(_ count: Int) { batch.hasDelivered(count) }
  func hasSent(_ count: Int) { batch.hasSent(count) }
  func forget() { batch.forget() }
  func holds(_ count: Int, now: UInt64) -> Bool { batch.holds(count, now: now) }
}

struct AnswerBatchTests {
  private let limit = AnswerBatch.timeLimit

  @Test func whatNobodyAskedForIsSentAtOnce() {
    let batch = Subject()
    for count in 1...64 { #expect(!batch.holds(count, now: 1)) }
  }

  @Test func oneOpenRequestIsAnsweredAtOnce() {
    let batch = Subject()
    for time in 1...100 as ClosedRange<UInt64> {
      batch.hasDelivered(1)
      #expect(!batch.holds(0, now: time))
      #expect(!batch.holds(1, now: time))
      batch.hasSent(1)
    }
  }

  @Test func answersWaitForOneAnother() {
    let batch = Subject()
    batch.hasDelivered(3)
    #expect(batch.holds(1, now: 1000))
    #expect(batch.holds(2, now: 1001))
    #expect(!batch.holds(3, now: 1002))
    batch.hasSent(3)
    #expect(batch.owed == 0 && !batch.holds(1, now: 1003))
  }

  @Test func manyWaitForNoMore() {
    let batch = Subject()
    batch.hasDelivered(1_000_000)
    #expect(batch.owed == AnswerBatch.owedLimit)
    #expect(batch.holds(AnswerBatch.countLimit - 1, now: 1))
    #expect(!batch.holds(AnswerBatch.countLimit, now: 2))
  }

  /// Whatever comes, no frame waits longer than the limit.
  @Test func nothingWaitsForLong() {
    var generator = SystemRandomNumberGenerator()
    let batch = Subject()
    var (now, waiting, since): (UInt64, Int, UInt64) = (1, 0, 0)
    for _ in 0..<100_000 {
      now += UInt64.random(in: 1...20_000, using: &generator)
      batch.hasDelivered(Int.random(in: 0...3, using: &generator))
      if waiting == 0, Bool.random(using: &generator) { since = now }
      if since == now || waiting > 0 { waiting += Int.random(in: 1...2, using: &generator) }
      if batch.holds(waiting, now: now) {
        #expect(waiting > 0 && now - since < limit)
      } else {
        batch.hasSent(waiting)
        waiting = 0
      }
    }
  }

  /// Waiting in vain is left out more and more often, until it has been of use again.
  @Test func waitingInVainIsGivenUp() {
    let batch = Subject()
    var now: UInt64 = 1
    /// Whether the first of two answers waits, of which the second comes too late or in time.
    func waits(inVain: Bool) -> Bool {
      batch.hasDelivered(2)
      now += 1
      guard batch.holds(1, now: now) else {
        batch.hasSent(1)
        batch.forget()
        return false
      }
      now += inVain ? limit : 1
      #expect(!batch.holds(inVain ? 1 : 2, now: now))
      batch.hasSent(inVain ? 1 : 2)
      return true
    }
    var pauses: [Int] = []
    for _ in 0..<9 {
      var pause = 0
      while !waits(inVain: true) { pause += 1 }
      pauses.append(pause)
    }
    #expect(pauses == [0, 1, 2, 4, 8, 16, 32, 64, 64])
    while !waits(inVain: false) {}
    for _ in 0..<100 { #expect(waits(inVain: false)) }
  }

  @Test func whoSleepsExpectsNoAnswer() {
    let batch = Subject()
    batch.hasDelivered(5)
    #expect(batch.holds(1, now: 1))
    batch.forget()
    #expect(!batch.holds(1, now: 2))
  }
}
