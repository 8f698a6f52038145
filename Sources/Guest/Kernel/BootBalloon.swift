// The balloon's start. A program that is soon over has no use for it, so nothing of it is touched before the machine has run for
// a while: then the work thread maps the device's registers, starts it (one exit) and its thread.
#if GUEST
  import Base
  import Devices
  import Locks
  import Memory
  import Platform
  import Threads
  import VirtioABI

  enum BootBalloon {
    /// When it starts, ns after the program; sooner where the host wants something in it from the beginning.
    private static let usualDelay: UInt64 = 100_000_000
    private static let shortDelay: UInt64 = 5_000_000

    nonisolated(unsafe) private static var description: BootDevice?
    // SAFETY: initialised before the timer is armed; afterwards only handed to the work queue.
    nonisolated(unsafe) private static var work: UnsafeMutablePointer<WorkItem>! = nil

    /// There is such a device.
    static func note(_ device: BootDevice) { description = device }

    /// Has it started some time later. The work queue is up.
    /// - Throws: ENOMEM.
    static func startLater() throws(Errno) {
      guard let description, Reclaim.register({ BalloonDriver.giveBack(pages: $0) }) else { return }
      work = UnsafeMutablePointer<WorkItem>.allocate(capacity: 1)
      work.initialize(to: WorkItem({ _ in BootBalloon.start() }, context: nil))
      let timer = try TimerEvent(handler: { _ in WorkQueue.submit(BootBalloon.work) }, context: nil)
      let wanted = description.configuration.0.u32
      timer.arm(at: .after(wanted == 0 ? usualDelay : shortDelay))
    }

    /// Without memory for it, or with a device that is at fault, there is no balloon.
    private static func start() {
      guard let description, let function = VirtioFunction(description) else { return }
      do throws(Errno) { try BalloonDriver(function).start() } catch { return }
    }
  }
#endif
