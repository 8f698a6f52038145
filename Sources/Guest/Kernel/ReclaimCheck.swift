// A part of `osv-run --self-test threads`: memory that is given back only behind a grace period is there when who asked for it goes on.
#if GUEST
  import Base
  import Locks
  import Memory
  import Pages
  import Platform
  import Threads
  import VirtioABI

  /// The check of shrinkers that defer.
  enum ReclaimCheck {
    private static let count = 64
    // SAFETY: the check writes them before its shrinker is registered; from then on they are the shrinker's and its call's,
    // one at a time.
    nonisolated(unsafe) private static var frames: InlineArray<64, PhysicalAddress> = .init(
      repeating: PhysicalAddress(0))
    nonisolated(unsafe) private static var call: UnsafeMutablePointer<RCU.Call>?
    nonisolated(unsafe) private static var isGiven = false

    /// Runs it, from a thread without locks, and gives a line.
    static func run(_ reporting: (TextLine) -> Void) -> Bool {
      let failure = check()
      var line = TextLine()
      line.append("memory behind a grace period: ")
      line.append(failure == nil ? "ok" : "FAILED, ")
      if let failure { line.append(failure) }
      reporting(line)
      return failure == nil
    }

    private static func check() -> StaticString? {
      guard let memory = KernelHeap.allocate(byteCount: MemoryLayout<RCU.Call>.stride) else { return "no memory" }
      // SAFETY: fresh heap memory of the right size, which is never freed.
      let record = memory.bindMemory(to: RCU.Call.self, capacity: 1)
      record.initialize(to: RCU.Call())
      call = record
      for index in 0..<count {
        guard let frame = Frames.allocate() else { return "no memory" }
        frames[index] = frame
      }
      guard Reclaim.register({ ReclaimCheck.give($0) }) else { return "no room for a shrinker" }
      let before = Frames.statistics.free
      // More than there is to give, so that all are asked.
      guard Reclaim.run(pages: Frames.statistics.total, .noLocks) else { return "nothing was given" }
      if RCU.pendingCalls != 0 { return "the memory is still to come" }
      if !isGiven { return "the shrinker was not asked" }
      return Frames.statistics.free >= before &+ count ? nil : "frames are missing"
    }

    /// Gives the frames once, behind a grace period.
    private static func give(_ pages: Int) -> Int {
      guard let record = call else { return 0 }
      call = nil
      RCU.later(
        record,
        { _ in
          for index in 0..<ReclaimCheck.count { Frames.free(ReclaimCheck.frames[index]) }
          ReclaimCheck.isGiven = true
        }, nil)
      return count
    }
  }
#endif
