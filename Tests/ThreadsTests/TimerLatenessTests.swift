import Testing

@testable import Threads

/// Timers that start their way early, so as to come in time.
@Suite struct TimerLatenessTests {
  /// Arms for deadlines 1 ms apart; the interrupt takes what `way` says. How far from each deadline it came.
  private func run(_ count: Int, way: (Int) -> UInt64) -> (distances: [Int64], lateness: TimerLateness) {
    var lateness = TimerLateness()
    var distances: [Int64] = []
    for number in 0..<count {
      let deadline = UInt64(number + 1) * 1_000_000
      let start = lateness.start(for: deadline)
      #expect(start <= deadline && deadline - start <= TimerLateness.most)
      let now = start + way(number)
      lateness.learn(now, armedFor: start)
      distances.append(Int64(now) - Int64(deadline))
    }
    return (distances, lateness)
  }

  @Test func anEvenWayIsMadeUpFor() {
    let (distances, _) = run(200) { _ in 12_000 }
    #expect(distances[100...].allSatisfy { abs($0) <= 1_000 })
  }

  @Test func halfComeALittleLateAndHalfALittleEarly() {
    // 10 to 16 us, evenly.
    let (distances, lateness) = run(4_000) { UInt64(10_000 + $0 * 7_919 % 6_000) }
    let settled = distances[1_000...].sorted()
    #expect(abs(settled[settled.count / 2]) < 1_500)
    let early = settled.filter { $0 < 0 }.count
    #expect(early * 4 > settled.count && early * 4 < settled.count * 3)
    #expect(lateness.typical > 11_000 && lateness.typical < 15_000)
  }

  @Test func aBusyHostIsNotLearntFrom() {
    // One in ten is 3 ms late.
    let (_, lateness) = run(1_000) { $0 % 10 == 9 ? 3_000_000 : 8_000 }
    #expect(lateness.typical < 10_000)
  }

  @Test func itIsForgottenWhenTheWayBecomesShort() {
    let (distances, _) = run(200) { $0 < 100 ? 15_000 : 3_000 }
    #expect(distances[180...].allSatisfy { abs($0) <= 1_500 })
  }

  @Test func noDeadlineIsNoTimer() {
    #expect(TimerLateness().start(for: .max) == .max)
  }
}
