// The self-test's checks of page tables, of copies from program memory, and of entries from programs.
#if GUEST
  import Base
  import Instructions
  import VirtioABI

  extension SelfTestCheck {
    /// A fault arrives with its address and kind, and the access is repeated.
    static func pageFault(_ bench: TestBench, _ report: inout SelfTestReport) {
      Interrupts.enable()
      var best = UInt64.max
      for mode in 0..<2 {
        testFaultMode = mode == 0 ? .map : .mapAndFlush
        for page in 0..<32 {
          bench.unmap(page)
          TLB.flush(bench.page(page))
          let address = bench.page(page) + 8 &* page.u64
          let start = instruction_rdtsc()
          let isStored = UserCopy.store32(address, page.u32)
          best = min(best, instruction_rdtsc() &- start)
          report.require(isStored, "the store was not repeated")
          report.require(testFaultAddress == address.rawValue, "wrong address", testFaultAddress)
          // A write; an emulator of one CPU may read first what it exchanges then.
          let isReadFirst = ForeignMonitor.isThere && testFaultError & 3 == 0
          report.require(testFaultError & 3 == 2 || isReadFirst, "wrong kind", testFaultError)
          report.require(UserCopy.load32(address) == page.u32, "the store is lost")
        }
      }
      _ = Interrupts.disable()
      testFaultMode = .refuse
      report.figure("resolved in", nanoseconds(best), " ns at best")
    }

    /// A changed entry takes effect after a flush: another frame, and fewer rights.
    static func translationFlush(_ bench: TestBench, _ report: inout SelfTestReport) {
      let address = bench.page(0)
      for index in 0..<2 { bench.frame(index)[0] = 0xa0 &+ index.u64 }
      for round in 0..<200 {
        bench.map(0, frame: round & 1)
        if round & 2 == 0 { TLB.flush(address) } else { TLB.flushAll() }
        report.require(UserCopy.load32(address) == 0xa0 &+ (round & 1).u32, "the old frame is still seen")
      }
      bench.map(0, frame: 0)
      TLB.flush(address)
      report.require(UserCopy.store32(address, 1), "a writable page refused a store")
      bench.map(0, frame: 0, writable: false)
      TLB.flush(address)
      report.require(!UserCopy.store32(address, 2), "a read-only page took a store")
      report.require(UserCopy.load32(address) == 1, "a read-only page cannot be read")
      TLB.setRoot(PhysicalAddress(Boot.information.pointee.pageTableRoot))
      report.require(UserCopy.load32(address) == 1, "the root was lost")
      let start = instruction_rdtsc()
      for _ in 0..<100 { TLB.flush(address) }
      let middle = instruction_rdtsc()
      for _ in 0..<100 { TLB.flushAll() }
      let end = instruction_rdtsc()
      bench.unmap(0)
      TLB.flush(address)
      report.figure("a page", nanoseconds(middle &- start) / 100, " ns")
      report.figure("all", nanoseconds(end &- middle) / 100, " ns")
    }

    /// Copies stop where program memory ends, and say how much is left.
    static func guardedCopies(_ bench: TestBench, _ report: inout SelfTestReport) {
      for page in 0..<TestBench.regionPages { bench.unmap(page) }
      bench.map(1, frame: 1)
      TLB.flushAll()
      let buffer = UnsafeMutableRawPointer(bench.samples)
      let end = bench.page(2)
      report.require(UserCopy.copyFromProgram(end - 100, to: buffer, count: 100) == 0, "a copy out failed")
      report.require(
        UserCopy.copyFromProgram(end - 100, to: buffer, count: 160) == 60, "a copy out ended elsewhere")
      report.require(
        UserCopy.copyToProgram(end - 1, from: buffer, count: 4096) == 4095, "a copy in ended elsewhere")
      report.require(UserCopy.copyToProgram(bench.page(0), from: buffer, count: 9) == 9, "a copy in to nowhere")
      copiesOfEverySize(bench, buffer, &report)
      report.require(UserCopy.zeroProgram(bench.page(1), count: 4097) == 1, "zeroing ended elsewhere")
      report.require(UserCopy.load32(end) == nil, "a load from nowhere")
      report.require(!UserCopy.store32(end, 0), "a store to nowhere")
      report.require(UserCopy.compareExchange32(end, expected: 0, desired: 1) == nil, "an exchange in nowhere")
      report.require(
        UserCopy.compareExchange32(bench.page(1), expected: 0, desired: 7) == 0, "an exchange failed")
      report.require(
        UserCopy.compareExchange32(bench.page(1), expected: 0, desired: 8) == 7, "an exchange that should fail")
      report.require(UserCopy.stringLength(bench.page(1) + 4, limit: 10) == 0, "an empty string")
      bench.frame(1)[511] = UInt64.max
      report.require(UserCopy.stringLength(end - 3, limit: 3) == 3, "a string as long as the limit")
      report.require(UserCopy.stringLength(end - 3, limit: 4) == nil, "a string without an end")
      copiedStrings(end, buffer, &report)
      bench.unmap(1)
      TLB.flushAll()
    }

    /// Copies of all lengths about those where the way of copying changes, up to the end of what is there and beyond it.
    private static func copiesOfEverySize(
      _ bench: TestBench, _ buffer: UnsafeMutableRawPointer, _ report: inout SelfTestReport
    ) {
      let end = bench.page(2)
      for index in 0..<512 { bench.frame(1)[index] = 0x0101_0101_0101_0101 &* (index & 0xff).u64 }
      for beyond in [0, 1, 7, 8, 9, 40] {
        for count in [1, 7, 8, 9, 31, 255, 256, 257, 264, 300] {
          buffer.initializeMemory(as: UInt8.self, repeating: 0, count: 512)
          let left = UserCopy.copyFromProgram(end - count, to: buffer, count: count &+ beyond)
          report.require(left == beyond, "a copy out ended elsewhere")
          for index in 0..<count {
            let expected = ((4096 &- count &+ index) &>> 3).u8
            report.require(buffer.load(fromByteOffset: index, as: UInt8.self) == expected, "a copy out is wrong")
          }
          let none = buffer.load(fromByteOffset: count, as: UInt8.self)
          report.require(none == 0, "a copy out wrote more than it said")
        }
      }
    }

    /// Strings that end a few bytes before the end of what is there, and one that does not end.
    private static func copiedStrings(
      _ end: VirtualAddress, _ buffer: UnsafeMutableRawPointer, _ report: inout SelfTestReport
    ) {
      for length in 0..<20 {
        let start = end - (length &+ 1)
        report.require(UserCopy.zeroProgram(end - 32, count: 32) == 0, "clearing failed")
        for index in 0..<length { buffer.storeBytes(of: 0x41 &+ index.u8, toByteOffset: index, as: UInt8.self) }
        report.require(UserCopy.copyToProgram(start, from: buffer, count: length) == 0, "storing a string failed")
        buffer.initializeMemory(as: UInt8.self, repeating: 0, count: 64)
        report.require(UserCopy.copyString(start, to: buffer, limit: 64) == length, "a string's length")
        for index in 0..<length {
          let byte = buffer.load(fromByteOffset: index, as: UInt8.self)
          report.require(byte == 0x41 &+ index.u8, "a string's bytes")
        }
        report.require(buffer.load(fromByteOffset: length, as: UInt8.self) == 0, "a string's end")
        report.require(UserCopy.copyString(start, to: buffer, limit: length) == length, "as long as the limit")
      }
      let letters: UInt64 = 0x4242_4242_4242_4242
      withUnsafeBytes(of: letters) {
        let start = $0.baseAddress.unsafelyUnwrapped
        report.require(UserCopy.copyToProgram(end - 8, from: start, count: 8) == 0, "storing letters failed")
      }
      report.require(UserCopy.copyString(end - 5, to: buffer, limit: 64) == nil, "a string without an end was copied")
    }

    /// What is saved comes back.
    static func extendedState(_ bench: TestBench, _ report: inout SelfTestReport) {
      let first = bench.threads[0].extendedState
      let second = bench.threads[1].extendedState
      ExtendedState.initialise(first)
      ExtendedState.initialise(second)
      ExtendedState.restore(first)
      report.require(vector_read() == 0, "the first state is not clean")
      vector_load(0x1111)
      ExtendedState.save(first)
      ExtendedState.restore(second)
      report.require(vector_read() == 0, "the second state is not clean")
      vector_load(0x2222)
      ExtendedState.save(second)
      ExtendedState.restore(first)
      report.require(vector_read() == 0x1111, "the first state is lost")
      ExtendedState.restore(second)
      report.require(vector_read() == 0x2222, "the second state is lost")
      let start = instruction_rdtsc()
      for _ in 0..<100 {
        ExtendedState.save(second)
        ExtendedState.restore(second)
      }
      report.figure("save and restore", nanoseconds(instruction_rdtsc() &- start) / 100, " ns")
    }

    /// `syscall`: number, arguments, answer, registers, red zone.
    static func systemCall(_ bench: TestBench, _ report: inout SelfTestReport) {
      for _ in 0..<100 {
        let result = bench.run(address_of_self_test_call_program())
        report.require(result == 0, "something was lost", result)
      }
    }

    /// The same by the gate, as a C function.
    static func gate(_ bench: TestBench, _ report: inout SelfTestReport) {
      for _ in 0..<100 {
        let result = bench.run(address_of_self_test_gate_program())
        report.require(result == 0, "something was lost", result)
      }
    }

    /// By jumps from rewritten sites: what one costs. (The storm looks at what it leaves behind.)
    static func jumps(_ bench: TestBench, _ report: inout SelfTestReport) {
      let calls: UInt64 = 100_000
      testCalls = 0
      var best = UInt64.max
      for round in 1...5 as ClosedRange<UInt64> {
        best = min(best, bench.run(address_of_self_test_jump_program()))
        report.require(testCalls == calls &* round, "calls were lost", testCalls)
      }
      report.figure("a call", best / calls, " cycles")
      report.figure("or", nanoseconds(best &* 100 / calls) / 100, " ns")
    }

    /// Exceptions in programs arrive as what they are, with RIP where it belongs.
    static func exceptions(_ bench: TestBench, _ report: inout SelfTestReport) {
      testExceptions = 0
      testSteps = 0
      bench.frame(5)[0] = 0xe6ff_70cd
      bench.map(5, frame: 5, executable: true)
      testFaultAddress = 0
      let result = bench.run(address_of_self_test_exception_program())
      report.require(result == 8, "of eight came", result)
      report.require(testSteps == 7, "single steps", testSteps)
      let expected: UInt64 = 1 &<< 0 | 1 &<< 1 | 1 &<< 3 | 1 &<< 62 | 1 &<< 6 | 1 &<< 13 | 1 &<< 14 | 1 &<< 63
      report.require(testExceptions == expected, "the wrong ones", testExceptions)
      report.require(testFaultAddress == TestBench.region &+ 63 &* 4096 &+ 0xff8, "wrong address", testFaultAddress)
    }
  }
#endif
