// EventFile: a counter that one can wait for (eventfd).
import Base
import Locks
import Memory

/// An event counter.
public final class EventFile: OpenFile {
  private let counter: Atomic<UInt64>
  private let isSemaphore: Bool
  private let source = PollSource()

  /// A counter.
  /// - Parameters:
  ///   - value: its first value.
  ///   - isSemaphore: whether a read takes 1 instead of all (EFD_SEMAPHORE).
  ///   - flags: `nonBlocking` counts.
  public init(value: UInt64, isSemaphore: Bool, flags: OpenFlags = []) {
    counter = Atomic(value)
    self.isSemaphore = isSemaphore
    let vnode = AnonymousVnode(type: .unknown, mode: 0o600)
    super.init(
      vnode: vnode, location: AnonymousFileSystem.location(of: vnode, prefix: "anon_inode:[eventfd]"),
      flags: flags.intersection(.nonBlocking).union(.readWrite))
  }

  public override func describe(_ text: inout TextBuffer) {
    text.append("eventfd-count: ")
    text.append(hexadecimal: counter.load(ordering: .acquiring))
    text.append(isSemaphore ? "\neventfd-semaphore: 1\n" : "\neventfd-semaphore: 0\n")
  }

  /// The largest value.
  private static var limit: UInt64 { .max &- 1 }

  /// Reads 8 bytes: the value, which becomes 0, or 1, by which it gets lower.
  public override func readData(at offset: UInt64, into transfer: inout Transfer) throws(Errno) -> Int {
    guard transfer.remaining >= 8 else { throw .EINVAL }
    var taken = take()
    while taken == 0 {
      if isNonBlocking { throw .EAGAIN }
      let result = source.wait { counter.load(ordering: .acquiring) == 0 }
      if result != .woken { throw .EINTR }
      taken = take()
    }
    source.notify(.writable)
    return try transfer.copyOut(value: taken)
  }

  private func take() -> UInt64 {
    var value = counter.load(ordering: .acquiring)
    while value > 0 {
      let rest = isSemaphore ? value &- 1 : 0
      let result = counter.compareExchange(expected: value, desired: rest, ordering: .acquiringAndReleasing)
      if result.exchanged { return value &- rest }
      value = result.original
    }
    return 0
  }

  /// Adds 8 bytes' value; waits while the sum would be too large.
  public override func writeData(at offset: UInt64, from transfer: inout Transfer) throws(Errno) -> Int {
    guard transfer.remaining >= 8 else { throw .EINVAL }
    let number = try transfer.copyInValue()
    guard number != .max else { throw .EINVAL }
    while !add(number) {
      if isNonBlocking { throw .EAGAIN }
      let result = source.wait { counter.load(ordering: .acquiring) > EventFile.limit &- number }
      if result != .woken { throw .EINTR }
    }
    if number > 0 { source.notify(.readable) }
    return 8
  }

  private func add(_ number: UInt64) -> Bool {
    var value = counter.load(ordering: .acquiring)
    while value <= EventFile.limit &- number {
      let result = counter.compareExchange(
        expected: value, desired: value &+ number, ordering: .acquiringAndReleasing)
      if result.exchanged { return true }
      value = result.original
    }
    return false
  }

  /// Readable above 0, writable below the limit.
  public override var readyMask: ReadyMask {
    let value = counter.load(ordering: .acquiring)
    var result: ReadyMask = []
    if value > 0 { result.insert(.readable) }
    if value < EventFile.limit { result.insert(.writable) }
    return result
  }
  /// Tells when the value changes.
  public override var pollSource: PollSource? { source }
}

extension Transfer {
  /// Copies a number out, in the machine's byte order.
  /// - Returns: 8.
  mutating func copyOut(value: UInt64) throws(Errno) -> Int {
    var value = value
    return try withUnsafeBytes(of: &value) { (bytes) throws(Errno) in try copyOut(from: bytes) }
  }
  /// Takes a number of 8 bytes.
  mutating func copyInValue() throws(Errno) -> UInt64 {
    var value: UInt64 = 0
    _ = try withUnsafeMutableBytes(of: &value) { (bytes) throws(Errno) in try copyIn(into: bytes) }
    return value
  }
}
