// The balloon's start. A program that is soon over has no use for it, so nothing of it is touched before there is a first surplus of
// memory, or the monitor says that the host wants something: then the work thread maps the device's registers, starts it (one
// exit) and its thread.
#if GUEST
  import Base
  import Devices
  import Memory
  import Pages
  import Platform
  import Threads
  import VirtioABI

  enum BootBalloon {
    // SAFETY: written at boot, before the watch for a surplus and the monitor's events begin, and from then on changed by
    // the work thread alone; `startWhenNeeded` only looks whether there is one.
    nonisolated(unsafe) private static var description: BootDevice?
    private static let hasSurplus = Atomic<Bool>(false)

    /// There is such a device.
    static func note(_ device: BootDevice) { description = device }

    /// Has it started when memory is left over. `MonitorEvents` has started.
    static func startWhenNeeded() {
      guard description != nil else { return }
      Frames.watchSurplus {
        BootBalloon.hasSurplus.store(true, ordering: .releasing)
        WorkQueue.submit(MonitorEvents.work)
      }
    }

    /// Starts it, if it is time. The work thread only.
    static func startIfNeeded(isAskedFor: Bool) {
      guard isAskedFor || hasSurplus.load(ordering: .acquiring), let description else { return }
      self.description = nil
      // Without memory for it, or with a device that is at fault, there is no balloon.
      guard let function = VirtioFunction(description) else { return }
      do throws(Errno) { try BalloonDriver(function).start() } catch { return }
      _ = Reclaim.register({ BalloonDriver.giveBack(pages: $0) })
    }
  }
#endif
