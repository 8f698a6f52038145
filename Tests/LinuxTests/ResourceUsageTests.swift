import Testing

@testable import Linux

@Suite struct ResourceUsageTests {
  @Test func eachSignalMovesTheSoftLimitOn() {
    func shown(_ soft: UInt64, milliseconds: UInt64) -> UInt64 {
      var limit = ResourceLimit(current: soft, maximum: 9)
      limit.passSeconds(of: milliseconds * 1_000_000)
      #expect(limit.maximum == 9)
      return limit.current
    }
    #expect(shown(2, milliseconds: 0) == 2)
    #expect(shown(2, milliseconds: 1999) == 2)
    #expect(shown(2, milliseconds: 2000) == 3)
    #expect(shown(2, milliseconds: 3500) == 4)
    #expect(shown(.max, milliseconds: 5000) == .max)
  }

  @Test func limitsOfCPUTimeAreNanoseconds() {
    #expect(CPULimit.nanoseconds(0) == 1_000_000_000)
    #expect(CPULimit.nanoseconds(3) == 3_000_000_000)
    #expect(CPULimit.nanoseconds(.max - 1) == .max)
  }

  @Test func usageIsLaidOutAsLinuxDoes() {
    var usage = ResourceUsage(
      cpuTime: 2_000_500_000, voluntarySwitches: 1, involuntarySwitches: 2, minorFaults: 3, majorFaults: 4)
    usage.add(usage)
    let words = usage.words(residentByteCount: 8192)
    let expected: [Int: UInt64] = [0: 4, 1: 1000, 4: 8, 8: 6, 9: 8, 16: 2, 17: 4]
    for index in 0..<18 { #expect(words[index] == expected[index] ?? 0) }
  }
}
