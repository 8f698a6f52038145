// ReceiveThread: the thread of a queue pair of an interface: takes frames in batches, gives the device buffers, sleeps.
//
// It ends never, unless the device breaks down.
//
// A pair's interrupts go to the CPU of its number, and so does the thread, as soon as that CPU is there. Until then an interrupt goes to nobody, and
// the device, which has been told of one event, raises no other: the thread looks by itself.
import Base
import Devices
import Locks
import Platform
import Threads

/// A queue pair's thread.
final class ReceiveThread {
  private unowned(unsafe) let stack: NetworkStack
  private let link: DeviceInterface
  private let pair: Int
  private var batch: ReceiveBatch! = nil
  /// When the flows that nobody attends to are to be drained, ns; 0: there are none.
  private var drainAt: UInt64 = 0
  /// Whether it runs on the CPU to which the pair's interrupts go.
  private var isHome = false

  private init(_ stack: NetworkStack, _ link: DeviceInterface, _ pair: Int) {
    self.stack = stack
    self.link = link
    self.pair = pair
    // Who adds is this thread, in its batch; it looks before it sleeps.
    batch = ReceiveBatch(stack, link, wake: {})
  }

  /// Starts the thread of a pair.
  /// - Throws: ENOMEM, EAGAIN.
  static func start(_ stack: NetworkStack, _ link: DeviceInterface, pair: Int) throws(Errno) {
    let object = ReceiveThread(stack, link, pair)
    // SAFETY: the thread keeps what it is given until it ends.
    let argument = Unmanaged.passRetained(object)
    do throws(Errno) {
      try Thread.spawn(
        name: "network receive",
        entry: { context in
          guard let context else { return }
          Unmanaged<ReceiveThread>.fromOpaque(context).takeRetainedValue().run()
        }, argument: argument.toOpaque()
      ).detach()
    } catch {
      argument.release()
      throw error
    }
  }

  /// How long it sleeps at most while its CPU is not there, ns.
  private static var homelessPatience: UInt64 { 1_000_000 }

  /// Goes where its interrupts go, if it can by now.
  private func goHome() {
    #if GUEST
      guard Scheduler.isActive(pair) else { return }
      Thread.current.affinity = 1 &<< pair.u64
      Scheduler.watch(link.driver.idleWatch(pair))
    #endif
    isHome = true
  }

  private func run() {
    let driver = link.driver
    while !driver.hasFailed {
      let now = stack.environment.now()
      let count = batch.run(now: now) { driver.receive(pair) }
      if count > 0 { driver.refill(pair) }
      stack.runDeferred()
      drainIfDue(now: now)
      if count == ReceiveBatch.limit || driver.hasReceived(pair) { continue }
      sleep(driver)
      if pair == 0 { noteStatus(driver) }
    }
    driver.takeBack(pair)
    link.set(.running, false)
  }

  private func noteStatus(_ driver: NetworkDriver) {
    guard link.hasStatusChanged.load(ordering: .relaxed), link.hasStatusChanged.exchange(false, ordering: .acquiring)
    else {
      return
    }
    link.set(.running, driver.isLinkUp)
  }

  private func drainIfDue(now: UInt64) {
    if batch.unattended.isEmpty {
      drainAt = 0
    } else if drainAt == 0 {
      drainAt = now &+ UnattendedFlows.patience
    } else if drainAt <= now {
      drainAt = 0
      batch.unattended.drain(now: now)
      stack.runDeferred()
    }
  }

  private func sleep(_ driver: NetworkDriver) {
    var deadline = drainAt == 0 ? Deadline.never : Deadline(nanoseconds: drainAt)
    if driver.isShort(pair) {
      // There was no memory for all buffers. The device may have a frame for which those that there are do not suffice: nobody will wake us.
      driver.refill(pair)
      if driver.isShort(pair) { deadline = min(deadline, Deadline.after(10_000_000)) }
    }
    if !isHome {
      // Before the interrupt is asked for.
      goHome()
      if !isHome { deadline = min(deadline, Deadline.after(Self.homelessPatience)) }
    }
    driver.sleep(pair, until: deadline)
  }
}
