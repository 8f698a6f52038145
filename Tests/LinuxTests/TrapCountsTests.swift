// The counts of traps: when a site is due, and which ones are forgotten.
import Testing

@testable import Linux

/// Counts that a macro's arguments may name.
private final class Counts {
  private let counts = TrapCounts()
  func note(_ address: UInt64, threshold: UInt64) -> Bool { counts.note(address, threshold: threshold) }
  func forget(_ address: UInt64) { counts.forget(address) }
}

struct TrapCountsTests {
  @Test func aSiteIsDueOnceAtTheThreshold() {
    let counts = Counts()
    for turn in 1...15 { #expect(!counts.note(0x40_1007, threshold: 16), "\(turn)") }
    #expect(counts.note(0x40_1007, threshold: 16))
    for _ in 0..<100_000 { #expect(!counts.note(0x40_1007, threshold: 16)) }
    counts.forget(0x40_1007)
    for _ in 0..<15 { #expect(!counts.note(0x40_1007, threshold: 16)) }
    #expect(counts.note(0x40_1007, threshold: 16))
    #expect(counts.note(0x40_2007, threshold: 1))
    #expect(!counts.note(0x40_2007, threshold: 1))
  }

  /// Busy sites become due while many others trap now and then.
  @Test func busySitesAreNotForgotten() {
    let counts = Counts()
    let busy = (0..<24).map { UInt64(0x7f00_1234_0000) + $0 &* 0x1235 }
    var due: Set<UInt64> = []
    for turn in 0..<400 as Range<UInt64> {
      for site in busy where counts.note(site, threshold: 16) { due.insert(site) }
      _ = counts.note(0x55_0000_0000 + turn &* 4099, threshold: 16)
    }
    #expect(due == Set(busy))
  }
}
