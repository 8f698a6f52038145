// The self-test's check of the memory functions in assembly, against loops over bytes.
#if GUEST
  import Base
  import Instructions

  @_extern(c, "memcpy") private func memcpy(_ to: UnsafeMutableRawPointer, _ from: UnsafeRawPointer, _ count: Int)
    -> UnsafeMutableRawPointer
  @_extern(c, "memmove") private func memmove(_ to: UnsafeMutableRawPointer, _ from: UnsafeRawPointer, _ count: Int)
    -> UnsafeMutableRawPointer
  @_extern(c, "memset") private func memset(_ to: UnsafeMutableRawPointer, _ byte: Int32, _ count: Int)
    -> UnsafeMutableRawPointer
  @_extern(c, "memcmp") private func memcmp(_ a: UnsafeRawPointer, _ b: UnsafeRawPointer, _ count: Int) -> Int32
  @_extern(c, "strlen") private func strlen(_ string: UnsafeRawPointer) -> Int

  extension SelfTestCheck {
    /// Lengths to 300 at some alignments, overlaps both ways; bytes around must stay.
    static func memoryFunctions(_ bench: TestBench, _ report: inout SelfTestReport) {
      // SAFETY: `samples` is a page of the bench's; its words are not in use during this check, and all offsets below are
      // within 1024.
      let area = UnsafeMutableRawPointer(bench.samples).assumingMemoryBound(to: UInt8.self)
      func fill() {
        for index in 0..<896 { area[index] = pattern(index) }
      }
      func pattern(_ index: Int) -> UInt8 { (index &* 7 &+ index &>> 8).u8 }
      // Elements are compared by hand: the compiler would make memcmp of anything cleverer.
      var count = 0
      while count <= 300 {
        defer { count &+= count < 96 ? 1 : 13 }
        for step in 0..<4 {
          let shift = step &* 3
          fill()
          _ = memcpy(area + 64 + shift, area + 512, count)
          for index in -8..<count &+ 8 {
            let wanted = index >= 0 && index < count ? pattern(512 &+ index) : pattern(64 &+ shift &+ index)
            report.require(area[64 &+ shift &+ index] == wanted, "memcpy of", count.u64)
          }
          let distance = step == 0 ? 1 : step &* 9
          fill()
          _ = memmove(area + 64 + distance, area + 64, count)
          for index in 0..<count {
            report.require(area[64 &+ distance &+ index] == pattern(64 &+ index), "memmove up of", count.u64)
          }
          fill()
          _ = memmove(area + 64, area + 64 + distance, count)
          for index in 0..<count {
            report.require(area[64 &+ index] == pattern(64 &+ distance &+ index), "memmove down of", count.u64)
          }
          fill()
          _ = memset(area + 64 + shift, 0x1a5, count)
          for index in -8..<count &+ 8 {
            let wanted = index >= 0 && index < count ? 0xa5 : pattern(64 &+ shift &+ index)
            report.require(area[64 &+ shift &+ index] == wanted, "memset of", count.u64)
          }
        }
        fill()
        for index in 0..<count { area[512 &+ index] = area[64 &+ index] }
        report.require(memcmp(area + 64, area + 512, count) == 0, "memcmp of equals", count.u64)
        guard count > 0 else { continue }
        let at = 512 &+ count &* 5 % count
        area[at] = area[at] &+ 1
        let isGreater = area[at] > area[at &- 448]
        report.require((memcmp(area + 512, area + 64, count) > 0) == isGreater, "memcmp order of", count.u64)
        area[64 &+ count] = 0
        for index in 0..<count { area[64 &+ index] = 1 }
        report.require(strlen(area + 64) == count, "strlen of", count.u64)
      }
    }
  }
#endif
