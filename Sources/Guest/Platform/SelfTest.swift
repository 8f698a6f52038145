// The kernel's self-test (`osv-run --self-test`): every primitive of the platform in turn, a line each, and then the
// interrupt storm. It says which KVM this is and whether it keeps what the kernel relies on, so that people with other
// processors can report.
//
// It runs in place of a program, on CPU 0's boot stack, after `Platform.start` and before there are threads: it installs
// upcalls of its own, starts the other CPUs, and leaves both so. The kernel ends afterwards.
#if GUEST
  import Base
  import Instructions
  import VirtioABI

  /// The self-test of the platform.
  public enum SelfTest {
    /// Bytes of memory it needs.
    public static let memoryByteCount: Int = 0x10_0000

    /// Runs every check; gives each line to `reporting`, and whether all were passed. `memory` is `memoryByteCount` bytes
    /// of zeroed RAM, page-aligned, in the linear map. `interrupts` is how many the storm lasts (20,000 take less than a second).
    public static func run(
      memory: UnsafeMutableRawPointer, interrupts: UInt64 = 20_000, reporting: (TextLine) -> Void
    ) -> Bool {
      let bench = TestBench(memory: memory)
      testBench = bench
      bench.install()
      var report = SelfTestReport()

      var line = TextLine()
      line.append("platform: ")
      line.append(Platform.name)
      line.append(", ")
      line.append(decimal: CPU.count.u64)
      line.append(" CPU, TSC ")
      line.append(decimal: Boot.clockPage.pointee.frequency / 1_000_000)
      line.append(" MHz, extended state ")
      line.append(decimal: ExtendedState.byteCount.u64)
      line.append(" bytes")
      reporting(line)

      var number = 0
      while let name = SelfTestCheck.name(number) {
        report.begin(name)
        SelfTestCheck.perform(number, bench, &report)
        reporting(report.line())
        number &+= 1
      }
      Storm.run(bench, interrupts: interrupts, &report, reporting)
      bench.removeMappings()
      return report.failures == 0
    }
  }

  /// The checks in their order, by number: a table of closures would need the heap, which is not there yet.
  enum SelfTestCheck {
    static func name(_ number: Int) -> StaticString? {
      switch number {
      case 0: "interrupt masking"
      case 1: "clock"
      case 2: "timer"
      case 3: "idle wake-up"
      case 4: "page fault"
      case 5: "TLB flush"
      case 6: "guarded copies"
      case 7: "FS base"
      case 8: "extended state"
      case 9: "system call"
      case 10: "system call by jump"
      case 11: "exceptions"
      case 12: "second CPU"
      case 13: "interrupts between CPUs"
      case 14: "TLB flush on other CPUs"
      case 15: "wake-up by another CPU"
      case 16: "memory functions"
      default: nil
      }
    }

    static func perform(_ number: Int, _ bench: TestBench, _ report: inout SelfTestReport) {
      switch number {
      case 0: interruptMasking(&report)
      case 1: clock(&report)
      case 2: timer(&report)
      case 3: idleWakeUp(&report)
      case 4: pageFault(bench, &report)
      case 5: translationFlush(bench, &report)
      case 6: guardedCopies(bench, &report)
      case 7: threadPointer(&report)
      case 8: extendedState(bench, &report)
      case 9: systemCall(bench, &report)
      case 10:
        gate(bench, &report)
        jumps(bench, &report)
      case 11: exceptions(bench, &report)
      case 12: secondCPU(bench, &report)
      case 13: interProcessor(bench, &report)
      case 14: remoteFlush(bench, &report)
      case 15: remoteWakeUp(bench, &report)
      default: memoryFunctions(bench, &report)
      }
    }
  }

  /// What a check found: "name: ok (figures)" or "name: FAILED (why)".
  struct SelfTestReport {
    private(set) var failures: UInt64 = 0
    private var name: StaticString = ""
    private var details: TextLine = TextLine()
    private var hasFailed: Bool = false
    private var isSkipped: Bool = false

    mutating func begin(_ name: StaticString) {
      self.name = name
      details = TextLine()
      hasFailed = false
      isSkipped = false
    }

    /// Fails the check unless `condition`; the first reason is the one shown first.
    mutating func require(_ condition: Bool, _ reason: StaticString, _ value: UInt64? = nil) {
      guard !condition else { return }
      separate()
      details.append(reason)
      if let value {
        details.append(" ")
        details.append(hexadecimal: value)
      }
      if !hasFailed { failures &+= 1 }
      hasFailed = true
    }

    /// Adds a figure.
    mutating func figure(_ name: StaticString, _ value: UInt64, _ unit: StaticString = "") {
      separate()
      details.append(name)
      details.append(" ")
      details.append(decimal: value)
      details.append(unit)
    }

    mutating func skip(_ reason: StaticString) {
      separate()
      details.append(reason)
      isSkipped = true
    }

    private mutating func separate() {
      if details.byteCount != 0 { details.append(", ") }
    }

    func line() -> TextLine {
      var line = TextLine()
      line.append(name)
      line.append(hasFailed ? ": FAILED" : isSkipped ? ": skipped" : ": ok")
      if details.byteCount != 0 {
        line.append(" (")
        for index in 0..<details.byteCount { line.append(byte: details[index]) }
        line.append(")")
      }
      return line
    }
  }
#endif
