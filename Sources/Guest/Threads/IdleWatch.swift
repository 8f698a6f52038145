// IdleWatch: what an idle CPU looks at before it halts, so that a device need not interrupt it: a queue that the device fills.
//
// An interrupt costs several microseconds, and on kvm_pvm two exits; where the next event is likely to come while the CPU polls anyway
// (SchedulerIdle), a look at memory takes its place. Whoever sleeps until the event has asked the device for an interrupt. The idle CPU takes
// that back (`begin`), looks (`isDue`), and asks again (`end`) before it halts, or runs anybody else: no other thread runs while the device has not been asked.
//
// All four are called on the CPU of the watch, by its idle thread or with interrupts off; they neither sleep nor allocate.
#if GUEST
  import Base
  import Platform

  /// A place to look at.
  public struct IdleWatch {
    /// Given to the functions.
    let context: UnsafeMutableRawPointer
    /// The event's interrupt is not wanted for now. False: nobody sleeps until the event; leave it.
    let begin: @convention(c) (UnsafeMutableRawPointer) -> Bool
    /// Whether the event has happened.
    let isDue: @convention(c) (UnsafeMutableRawPointer) -> Bool
    /// The interrupt is wanted again. True: the event has happened already, and whoever sleeps is to be woken.
    let end: @convention(c) (UnsafeMutableRawPointer) -> Bool
    /// Wakes who sleeps until the event.
    let wake: @convention(c) (UnsafeMutableRawPointer) -> Void

    /// A place to look at. `context` is valid for good.
    public init(
      context: UnsafeMutableRawPointer, begin: @escaping @convention(c) (UnsafeMutableRawPointer) -> Bool,
      isDue: @escaping @convention(c) (UnsafeMutableRawPointer) -> Bool,
      end: @escaping @convention(c) (UnsafeMutableRawPointer) -> Bool,
      wake: @escaping @convention(c) (UnsafeMutableRawPointer) -> Void
    ) {
      self.context = context
      self.begin = begin
      self.isDue = isDue
      self.end = end
      self.wake = wake
    }
  }

  extension Scheduler {
    /// Has this CPU look there when it is idle, from now on and for good. By a thread that stays on this CPU, and so do those who sleep until the
    /// event.
    /// - Returns: false: it looks somewhere else already, and goes on with that.
    @discardableResult public static func watch(_ watch: IdleWatch) -> Bool {
      let wasEnabled = Interrupts.disable()
      defer { Interrupts.restore(wasEnabled) }
      let here = CPUScheduler.here
      if here.pointee.watch != nil { return false }
      // A thread runs, so the CPU is not looking now; and what is set once cannot change under one that looks.
      here.pointee.watch = watch
      return true
    }
  }

  // SAFETY of all: nobody but this CPU touches its fields; the context is valid for good.
  extension UnsafeMutablePointer<CPUScheduler> {
    /// The idle thread is about to look.
    func beginWatch() {
      guard let watch = pointee.watch else { return }
      pointee.isWatching = watch.begin(watch.context)
    }

    /// Whether it looks, and has seen something. (Interrupts may be on, and another thread may have run meanwhile: at worst somebody is woken for
    /// nothing.)
    @inline(__always) var hasSeen: Bool {
      guard pointee.isWatching, let watch = pointee.watch else { return false }
      return watch.isDue(watch.context)
    }

    /// It looks no more; who sleeps until the event is woken if that has happened.
    func endWatch() {
      guard pointee.isWatching, let watch = pointee.watch else { return }
      pointee.isWatching = false
      if watch.end(watch.context) { watch.wake(watch.context) }
    }
  }
#endif
