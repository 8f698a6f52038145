// The clock chip in its four forms, against the C library's calendar.
import Foundation
import Testing

@testable import Bootstrap

@Suite struct ClockChipTests {
  private func bcd(_ value: Int) -> UInt8 { UInt8((value / 10) << 4 | value % 10) }

  @Test(
    arguments: [
      [1970, 1, 1, 0, 0, 0], [1999, 12, 31, 23, 59, 59], [2000, 2, 29, 12, 0, 0], [2024, 2, 29, 0, 30, 1],
      [2026, 11, 28, 11, 59, 59], [2069, 3, 1, 13, 0, 0],
    ] as [[Int32]])
  func datesInAllForms(_ date: [Int32]) throws {
    var time = tm()
    (time.tm_year, time.tm_mon, time.tm_mday) = (date[0] - 1900, date[1] - 1, date[2])
    (time.tm_hour, time.tm_min, time.tm_sec) = (date[3], date[4], date[5])
    let wanted = UInt64(timegm(&time))
    let hour = Int(time.tm_hour)
    let twelve = (hour + 11) % 12 + 1
    for isBinary in [false, true] {
      for isLong in [false, true] {
        let machine = ModelMachine(ramByteCount: 4096)
        let code: (Int) -> UInt8 = { isBinary ? UInt8($0) : bcd($0) }
        let hours = isLong ? code(hour) : code(twelve) | (hour >= 12 ? 0x80 : 0)
        machine.setClock(bcd: [
          0: code(Int(time.tm_sec)), 2: code(Int(time.tm_min)), 4: hours, 7: code(Int(time.tm_mday)),
          8: code(Int(time.tm_mon) + 1), 9: code(Int(time.tm_year) % 100),
        ])
        machine.clock[0x0b] = (isLong ? 2 : 0) | (isBinary ? 4 : 0)
        #expect(ClockChip.seconds(machine) == wanted, "\(date) \(isBinary) \(isLong)")
      }
    }
  }

  @Test func nonsense() {
    let machine = ModelMachine(ramByteCount: 4096)
    machine.setClock(bcd: [8: 0x13, 7: 1])
    #expect(ClockChip.seconds(machine) == 0)
    machine.clock[0x0a] = 0x80
    #expect(ClockChip.seconds(machine) == 0, "it is for ever about to change")
  }
}
