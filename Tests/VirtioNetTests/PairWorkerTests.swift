// How long a pair's thread looks before it sleeps: whatever it was once, it becomes right for the traffic that there is.
import Testing

@testable import VirtioNet

struct PairWorkerTests {
  /// What it is after so many waits, from each end of its range.
  private func settled(waits: UInt64, wasNotified: Bool, count: Int = 20) -> [UInt64] {
    [PairWorker.patiences.lowerBound, PairWorker.patiences.upperBound].map { start in
      (0..<count).reduce(start) { old, _ in PairWorker.patience(old, after: waits, wasNotified: wasNotified) }
    }
  }

  @Test(arguments: [1_000, 40_000, 100_000] as [UInt64]) func shortWaitsAreLookedThrough(_ waits: UInt64) {
    #expect(
      settled(waits: waits, wasNotified: false) == [PairWorker.patiences.upperBound, PairWorker.patiences.upperBound])
  }

  @Test(arguments: [110_000, 1_000_000, 1_000_000_000] as [UInt64]) func longWaitsAreSlept(_ waits: UInt64) {
    #expect(
      settled(waits: waits, wasNotified: false) == [PairWorker.patiences.lowerBound, PairWorker.patiences.lowerBound])
  }

  /// A guest that answers while its worker sleeps is slow because it does: the worker stays awake for it.
  @Test func whoIsNotifiedSleptTooSoon() {
    #expect(
      settled(waits: 150_000, wasNotified: true) == [PairWorker.patiences.upperBound, PairWorker.patiences.upperBound])
    #expect(
      settled(waits: 250_000, wasNotified: true) == [PairWorker.patiences.lowerBound, PairWorker.patiences.lowerBound])
  }
}
