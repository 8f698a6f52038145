// Which frames to the guest may be answered, told from their beginnings.
import Testing

@testable import VirtioNet

struct AnswerableFramesTests {
  private let acknowledge: UInt8 = 0x10

  /// A segment of TCP in a frame, of which `kept` bytes are seen.
  private func segment(
    isV6: Bool, data: Int, flags: UInt8, options: Int = 12, ipOptions: Int = 0, kept: Int = 1000
  ) -> [UInt8] {
    let tcp = 20 + options
    var header = [UInt8](repeating: 0, count: 12) + (isV6 ? [0x86, 0xdd] : [0x08, 0x00])
    if isV6 {
      header += [0x60, 0, 0, 0] + [UInt8((tcp + data) >> 8), UInt8((tcp + data) & 255)] + [6, 64]
      header += [UInt8](repeating: 0, count: 32)
    } else {
      let length = 20 + ipOptions + tcp + data
      header += [0x40 | UInt8(5 + ipOptions / 4), 0, UInt8(length >> 8), UInt8(length & 255), 0, 0, 0, 0, 64, 6]
      header += [UInt8](repeating: 0, count: 10 + ipOptions)
    }
    var rest = [UInt8](repeating: 0, count: tcp + data)
    rest[12] = UInt8(tcp / 4) << 4
    rest[13] = flags
    return Array((header + rest).prefix(kept))
  }

  private func may(_ frame: [UInt8]) -> Bool { frame.withUnsafeBytes { AnswerBatch.mayBeAnswered($0) } }

  @Test(arguments: [false, true]) func whatOnlyAcknowledgesIsNotAnswered(isV6: Bool) {
    for options in [0, 12, 40] { #expect(!may(segment(isV6: isV6, data: 0, flags: acknowledge, options: options))) }
    #expect(!may(segment(isV6: isV6, data: 0, flags: acknowledge | 8)))
    #expect(!may(segment(isV6: isV6, data: 0, flags: 4)), "a reset")
    // Padding behind it, as Ethernet's least frame has, is no data.
    #expect(!may(segment(isV6: isV6, data: 0, flags: acknowledge, options: 0) + [0, 0, 0, 0, 0, 0]))
  }

  @Test(arguments: [false, true]) func dataAndBeginningsAndEndsAre(isV6: Bool) {
    for data in [1, 22, 500] { #expect(may(segment(isV6: isV6, data: data, flags: acknowledge))) }
    #expect(may(segment(isV6: isV6, data: 0, flags: 2)) && may(segment(isV6: isV6, data: 0, flags: acknowledge | 1)))
  }

  @Test func optionsOfIPAreCountedToo() {
    for count in [4, 40] {
      let kept = AnswerBatch.prefixByteCount
      #expect(!may(segment(isV6: false, data: 0, flags: acknowledge, options: 0, ipOptions: count, kept: kept)))
      #expect(may(segment(isV6: false, data: 9, flags: acknowledge, options: 0, ipOptions: count, kept: kept)))
    }
  }

  /// Whatever a sender makes up is looked at within its bounds.
  @Test func anythingElseMayBe() {
    #expect(may([]) && may([UInt8](repeating: 0, count: 60)))
    var generator = SystemRandomNumberGenerator()
    for count in 0...AnswerBatch.prefixByteCount {
      for isV6 in [false, true] {
        let whole = segment(isV6: isV6, data: 0, flags: acknowledge, options: 0)
        _ = may(Array(whole.prefix(count)))
        for _ in 0..<50 {
          var bent = (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
          for (index, byte) in whole.prefix(min(count, 24)).enumerated() where index < 14 || Bool.random() {
            bent[index] = byte
          }
          _ = may(bent)
        }
      }
    }
  }
}
