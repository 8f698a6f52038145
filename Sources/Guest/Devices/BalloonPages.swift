// What is in the balloon: growing it to the size that the host wants, and shrinking it for the host or for who is out of memory.
//
// The balloon takes what programs could have, down to a sixteenth of memory; files' contents that can be read again go first. When
// memory is out, the balloon gives before anybody is refused, and does not grow for a while. A block goes in as large as
// possible, so that it leaves as one and the host gives it up as one.
import Base
import Locks
import Memory
import Pages
import Platform
import Threads
import VirtioABI

extension BalloonDriver {
  /// How long the balloon does not grow after somebody needed memory, ns.
  private static var holdTime: UInt64 { 1_000_000_000 }
  /// Frames asked of the page cache at a time.
  private static var reclaimCount: Int { 1024 }

  /// Brings the balloon to the size that the host wants, as far as that is possible.
  /// - Returns: whether it should be tried again later.
  func adjust() -> Bool {
    let wanted = function.readConfiguration(at: VirtioBalloonConfiguration.wantedOffset).int
    let before = frameCount
    var count = before
    while count > wanted && !function.isDead {
      guard deflate(count &- wanted) > 0 else { break }
      count = frameCount
    }
    while count < wanted && !function.isDead && heldUntil.load(ordering: .relaxed) <= Clock.now() {
      if inflate(wanted &- count) == 0 {
        // Whatever the page cache gives may not be enough for ever.
        guard Frames.statistics.free < leastFree &+ Self.reclaimCount,
          Reclaim.run(pages: Self.reclaimCount, .requestLocks),
          Frames.statistics.free > leastFree
        else { break }
      }
      count = frameCount
    }
    tellSize()
    return count < wanted
  }

  /// Tells the host how large the balloon is, if that has changed.
  private func tellSize() {
    lock.withLock {
      let count = stash.frameCount
      guard count != toldCount, !function.isDead else { return }
      toldCount = count
      function.writeConfiguration(at: VirtioBalloonConfiguration.actualOffset, count.u32)
    }
  }

  private var frameCount: Int { lock.withLock { stash.frameCount } }

  /// Frames that stay free: programs shall be able to begin something.
  private var leastFree: Int { max(1024, Frames.statistics.total >> 4) }

  /// Puts up to so many frames into the balloon: as many as one request holds.
  /// - Returns: how many; 0 if memory is short, or the device at fault.
  private func inflate(_ wanted: Int) -> Int {
    lock.lock()
    defer { lock.unlock() }
    var left = min(wanted, Self.requestLimit)
    var spare = Frames.statistics.free &- leastFree
    var count = 0
    var order = FrameStash.maximumOrder
    while left > 0 && order >= 0 {
      guard 1 << order <= min(left, spare), let frame = Frames.allocate(order: order, use: .program) else {
        order &-= 1
        continue
      }
      stash.push(frame, order: order)
      count = note(frame, order: order, after: count)
      left &-= 1 << order
      spare &-= 1 << order
    }
    guard count > 0 else { return 0 }
    return send(count, inflateQueue) ? count : 0
  }

  /// Takes about so many frames out of the balloon, one request at most, and frees them.
  /// - Returns: how many.
  private func deflate(_ wanted: Int) -> Int {
    lock.lock()
    defer { lock.unlock() }
    var leaving = FrameStash()
    var count = 0
    while count < wanted {
      let left = min(wanted, Self.requestLimit) &- count
      guard left > 0 else { break }
      // Rather a large block too much than none.
      let maximum = min(left.uint.log2Floor, FrameStash.maximumOrder)
      guard let block = stash.pop(maximumOrder: maximum) ?? (count == 0 ? stash.pop(maximumOrder: .max) : nil) else {
        break
      }
      leaving.push(block.frame, order: block.order)
      count = note(block.frame, order: block.order, after: count)
    }
    guard count > 0 else { return 0 }
    // If the device is at fault it is stopped, and touches them no more.
    _ = send(count, deflateQueue)
    while let block = leaving.pop(maximumOrder: .max) { Frames.free(block.frame, order: block.order) }
    return count
  }

  /// Writes the numbers of a block's frames into the request.
  private func note(_ frame: PhysicalAddress, order: Int, after count: Int) -> Int {
    for index in 0..<1 << order { numbers[count &+ index] = frame.pageNumber.u32 &+ index.u32 }
    return count &+ 1 << order
  }

  /// Sends the first numbers of the page. Under the lock.
  private func send(_ count: Int, _ queue: Virtqueue) -> Bool {
    var segment = DeviceSegment(address: numbers, count: count &* 4)
    do throws(Errno) {
      _ = try withUnsafePointer(to: &segment) { (pointer) throws(Errno) in
        try queue.perform(pointer, readable: 1, writable: 0)
      }
      return true
    } catch {
      function.stop()
      return false
    }
  }

  /// The device is stopped: what was in the balloon is ours again.
  func letEverythingGo() {
    lock.withLock {
      while let block = stash.pop(maximumOrder: .max) { Frames.free(block.frame, order: block.order) }
    }
  }

  /// For whoever is out of memory: takes pages out of the balloon, and waits for what is just being reported.
  /// - Returns: how many pages the balloon gave.
  public static func giveBack(pages: Int) -> Int {
    guard let driver = current, !driver.isOwnThread else { return 0 }
    var given = 0
    while given < pages {
      let count = driver.deflate(pages &- given)
      guard count > 0 else { break }
      given &+= count
    }
    if given > 0 {
      driver.heldUntil.store(Clock.now() &+ holdTime, ordering: .relaxed)
      driver.wakeToAdjust()
    }
    return given
  }
}
