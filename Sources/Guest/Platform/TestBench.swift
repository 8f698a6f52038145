// The bench of the self-test: a few threads with programs, a region of pages that fault, and the upcalls that serve both.
// A thread here is what it will be under the scheduler: a kernel stack, a program stack, an FS base, extended state.
#if GUEST
  import Base
  import Instructions
  import Synchronization
  import VirtioABI

  // SAFETY: set before the upcalls that look at it, by the thread of the self-test.
  nonisolated(unsafe) var testBench: TestBench? = nil

  /// One thread of the bench.
  struct TestThread: ~Copyable {
    var saved: SavedStack
    let kernelStackTop: VirtualAddress
    let programStackTop: VirtualAddress
    /// What FS points to (see storm_layout.h).
    let block: UnsafeMutableRawPointer
    let extendedState: UnsafeMutableRawPointer
    /// Whether no CPU has it: who sets this to false may run it.
    let isReady: Atomic<Bool>
  }

  /// What the bench keeps for each CPU.
  struct TestCPU {
    var boot: SavedStack = SavedStack()
    var bootStackTop: VirtualAddress = .zero
    var current: UnsafeMutablePointer<TestThread>? = nil
    /// The thread switched away from, until its stack is really left.
    var previous: UnsafeMutablePointer<TestThread>? = nil
    var random: UInt64 = 1
    var depth: UInt64 = 0
    var deepestNesting: UInt64 = 0
    var deepestStack: UInt64 = 0
    var interrupts: UInt64 = 0
    var nested: UInt64 = 0
    var switches: UInt64 = 0
    var calls: UInt64 = 0
    var faults: UInt64 = 0
    var migrations: UInt64 = 0

    /// The next pseudo-random number (xorshift).
    mutating func next() -> UInt64 {
      random ^= random &<< 13
      random ^= random &>> 7
      random ^= random &<< 17
      return random
    }
  }

  struct TestBench {
    static let cpuLimit: Int = 8
    static let threadCount: Int = 4
    /// Where programs of the bench touch memory that comes and goes: a corner of the program's addresses.
    static let region: UInt64 = 0x1000_0000_0000
    static let regionPages: Int = 64
    static let frameCount: Int = 16

    let cpus: UnsafeMutablePointer<TestCPU>
    let threads: UnsafeMutablePointer<TestThread>
    let samples: UnsafeMutablePointer<UInt64>
    /// A stack for each CPU but 0.
    let stacks: UnsafeMutableRawPointer
    private let root: UnsafeMutablePointer<UInt64>
    private let table: UnsafeMutablePointer<UInt64>
    private let frames: UnsafeMutableRawPointer
    static let sampleLimit: Int = 512

    /// Lays everything out in `memory`.
    init(memory: UnsafeMutableRawPointer) {
      var next = memory
      func take(_ byteCount: Int) -> UnsafeMutableRawPointer {
        // SAFETY: the caller of SelfTest.run gives SelfTest.memoryByteCount bytes; all pieces together are fewer.
        let piece = next
        next += byteCount.alignedUp(to: 4096)
        return piece
      }
      cpus = take(4096).bindMemory(to: TestCPU.self, capacity: Self.cpuLimit)
      threads = take(4096).bindMemory(to: TestThread.self, capacity: Self.threadCount)
      samples = take(4096).bindMemory(to: UInt64.self, capacity: Self.sampleLimit)
      let kernelStack = CPU.kernelStackByteCount.int
      stacks = take(kernelStack &* Self.cpuLimit)
      for cpu in 0..<Self.cpuLimit {
        (cpus + cpu).initialize(to: TestCPU())
        cpus[cpu].random = Boot.information.pointee.seed0 | 1 &+ cpu.u64
      }
      for index in 0..<Self.threadCount {
        let stack = take(kernelStack)
        let program = take(8192)
        let block = take(4096)
        let state = take(ExtendedState.byteCount)
        (threads + index).initialize(
          to: TestThread(
            saved: SavedStack(), kernelStackTop: VirtualAddress(stack + kernelStack),
            programStackTop: VirtualAddress(program + 8192), block: block, extendedState: state,
            isReady: Atomic(false)))
      }
      // One table at each level below the root serves the region.
      root = LinearMap.pointer(PhysicalAddress(Boot.information.pointee.pageTableRoot))
        .assumingMemoryBound(to: UInt64.self)
      let upper = take(4096).bindMemory(to: UInt64.self, capacity: 512)
      let middle = take(4096).bindMemory(to: UInt64.self, capacity: 512)
      table = take(4096).bindMemory(to: UInt64.self, capacity: 512)
      frames = take(4096 &* Self.frameCount)
      root[(Self.region &>> 39).int] = LinearMap.physical(of: upper).rawValue | 7
      upper[0] = LinearMap.physical(of: middle).rawValue | 7
      middle[0] = LinearMap.physical(of: table).rawValue | 7
    }

    // MARK: Pages of the region

    /// The address of page `index`.
    func page(_ index: Int) -> VirtualAddress { VirtualAddress(Self.region &+ index.u64 &* 4096) }
    /// The memory of frame `index`.
    func frame(_ index: Int) -> UnsafeMutablePointer<UInt64> {
      (frames + index &* 4096).assumingMemoryBound(to: UInt64.self)
    }
    /// Maps a page to a frame (read-write, or read-only); no flush.
    func map(_ page: Int, frame index: Int, writable: Bool = true, executable: Bool = false) {
      let physical = LinearMap.physical(of: frames + index &* 4096).rawValue
      table[page] = physical | (writable ? 0x67 : 0x65) | (executable ? 0 : 1 &<< 63)
    }
    /// Unmaps a page; no flush.
    func unmap(_ page: Int) { table[page] = 0 }
    /// Whether a page is mapped.
    func isMapped(_ page: Int) -> Bool { table[page] != 0 }
    /// Takes the region out of the address space.
    func removeMappings() {
      root[(Self.region &>> 39).int] = 0
      TLB.flushAllEverywhere()
    }
    /// The page that holds `address`, or nil outside the region.
    static func pageIndex(_ address: UInt64) -> Int? {
      let index = (address &- region) &>> 12
      return index < regionPages.u64 ? index.int : nil
    }

    // MARK: Threads

    /// Makes thread `index` start `program` when it is next run.
    func prepare(_ index: Int, program: UnsafeRawPointer) {
      let thread = threads + index
      let frame = ContextSwitch.programFrame(stackTop: thread.pointee.kernelStackTop)
      frame.pointee = TrapFrame()
      frame.pointee.rip = UInt(bitPattern: program).u64
      frame.pointee.rsp = thread.pointee.programStackTop.rawValue &- 4096
      frame.pointee.rflags = 0x202
      thread.pointee.saved = ContextSwitch.prepareProgram(stackTop: thread.pointee.kernelStackTop)
      ExtendedState.initialise(thread.pointee.extendedState)
      thread.pointee.block.storeBytes(
        of: VirtualAddress(thread.pointee.block).rawValue, toByteOffset: STORM_SELF.int, as: UInt64.self)
    }

    /// Runs `program` on thread 0 until it ends, and gives its result.
    func run(_ program: UnsafeRawPointer) -> UInt64 {
      prepare(0, program: program)
      enter(threads)
      return testResult
    }

    /// Leaves this CPU's boot context for `thread`; returns when the CPU comes back to it.
    func enter(_ thread: UnsafeMutablePointer<TestThread>) {
      let wasEnabled = Interrupts.disable()
      let cpu = cpus + CPU.current
      cpu.pointee.bootStackTop = CPU.kernelStackTop
      load(thread, on: cpu)
      ContextSwitch.run(from: &cpu.pointee.boot, to: &thread.pointee.saved)
      finishSwitch()
      Interrupts.restore(wasEnabled)
    }

    /// Leaves the running thread for `next`, or for the CPU's boot context. With interrupts disabled.
    func leave(for next: UnsafeMutablePointer<TestThread>?) {
      let cpu = cpus + CPU.current
      guard let current = cpu.pointee.current else { return }
      ExtendedState.save(current.pointee.extendedState)
      cpu.pointee.previous = current
      cpu.pointee.switches &+= 1
      if let next {
        load(next, on: cpu)
        ContextSwitch.run(from: &current.pointee.saved, to: &next.pointee.saved)
      } else {
        cpu.pointee.current = nil
        CPU.kernelStackTop = cpu.pointee.bootStackTop
        ContextSwitch.run(from: &current.pointee.saved, to: &cpu.pointee.boot)
      }
      finishSwitch()
      if cpus + CPU.current != cpu { cpus[CPU.current].migrations &+= 1 }
    }

    private func load(_ thread: UnsafeMutablePointer<TestThread>, on cpu: UnsafeMutablePointer<TestCPU>) {
      cpu.pointee.current = thread
      CPU.kernelStackTop = thread.pointee.kernelStackTop
      ThreadPointer.current = VirtualAddress(thread.pointee.block).rawValue
      ExtendedState.restore(thread.pointee.extendedState)
    }

    /// On the new stack: the thread that was left may run elsewhere from now on.
    func finishSwitch() {
      let cpu = cpus + CPU.current
      guard let previous = cpu.pointee.previous else { return }
      cpu.pointee.previous = nil
      previous.pointee.isReady.store(true, ordering: .releasing)
    }

    // MARK: Upcalls

    func install() {
      Upcalls.systemCall = { testBench.unsafelyUnwrapped.systemCall($0) }
      Upcalls.exception = { testBench.unsafelyUnwrapped.exception($0, address: $1) }
      Upcalls.pageFault = { testBench.unsafelyUnwrapped.pageFault($0, address: $1) }
      Upcalls.preempt = { Storm.preempt(testBench.unsafelyUnwrapped) }
      Upcalls.returnToProgram = { _ in testBench.unsafelyUnwrapped.finishSwitch() }
    }

    private func systemCall(_ frame: UnsafeMutablePointer<TrapFrame>) {
      let argumentsAreRight =
        frame.pointee.rdi == 1 && frame.pointee.rsi == 2 && frame.pointee.rdx == 3 && frame.pointee.r10 == 4
        && frame.pointee.r8 == 5 && frame.pointee.r9 == 6
      switch frame.pointee.rax {
      case 0x5700:
        testResult = frame.pointee.rdi
        _ = Interrupts.disable()
        leave(for: nil)
      case STORM_CALL_NUMBER.u64:
        Storm.systemCall(self)
        frame.pointee.rax = STORM_CALL_ANSWER.u64
      case 0x5710:
        frame.pointee.rax = argumentsAreRight && frame.pointee.vector == TrapFrame.systemCallVector ? 0 : 1
      case 0x5711:
        frame.pointee.rax = argumentsAreRight && frame.pointee.vector == TrapFrame.gateVector ? 0 : 1
      case 0x5713: testCalls &+= 1
      case 0x5712:
        frame.pointee.rip = 0x8000_0000_0000_0000
      default:
        frame.pointee.rax = UInt64.max
      }
    }

    private func exception(_ frame: UnsafeMutablePointer<TrapFrame>, address: UInt64) {
      if Storm.isFailure(frame) {
        _ = Interrupts.disable()
        Storm.failed(self)
        return
      }
      testExceptions |= 1 &<< frame.pointee.vector
      if frame.pointee.vector == 1 { testSteps &+= 1 }
      if frame.pointee.vector == 13 && frame.pointee.error == 0x70 &* 8 &+ 2 { testExceptions |= 1 &<< 62 }
      if frame.pointee.vector == 14 { testFaultAddress = address }
      if frame.pointee.rip == 0x8000_0000_0000_0000 {
        testExceptions |= 1 &<< 63
        frame.pointee.rip = frame.pointee.r13
        return
      }
      frame.pointee.rip &+= frame.pointee.rbx & 15
    }

    private func pageFault(_ frame: UnsafeMutablePointer<TrapFrame>, address: UInt64) -> Bool {
      guard let page = Self.pageIndex(address), testFaultMode != .refuse else { return false }
      testFaultAddress = address
      testFaultError = frame.pointee.error
      map(page, frame: page % Self.frameCount)
      if testFaultMode == .mapAndFlush { TLB.flush(VirtualAddress(address)) }
      cpus[CPU.current].faults &+= 1
      return true
    }
  }

  enum TestFaultMode {
    case refuse, map, mapAndFlush
  }

  // SAFETY: the checks run one after the other on one CPU; what their programs' calls and exceptions leave here is looked at
  // afterwards.
  nonisolated(unsafe) var testResult: UInt64 = 0
  nonisolated(unsafe) var testExceptions: UInt64 = 0
  nonisolated(unsafe) var testSteps: UInt64 = 0
  nonisolated(unsafe) var testCalls: UInt64 = 0
  nonisolated(unsafe) var testFaultAddress: UInt64 = 0
  nonisolated(unsafe) var testFaultError: UInt64 = 0
  nonisolated(unsafe) var testFaultMode: TestFaultMode = .refuse
#endif
