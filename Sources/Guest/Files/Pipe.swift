// Pipe: a ring between two ends, of 64 KiB until somebody wants another size.
//
// `lock` (a spin lock: who is switched away from holds nothing up) guards the ring's indices and the number of open ends, never a copy
// from or to program memory: bytes go through
// the ring's pages in pieces; a reader that is copying owns what it copies (`isReading`), a writer what it fills
// (`isWriting`), and others of the same side wait. A write of PIPE_BUF bytes or fewer starts only when all of it fits, so
// it is never mixed with another; larger ones may be.
//
// One at a time is woken, and wakes the next of its side if there is something left for it: whenever nobody is reading and
// there are bytes, no reader waits but one that has been woken; at the end of file all are. A writer that found the pipe full is woken
// when there is room for PIPE_BUF bytes, not for its own few: a full pipe would be refilled message by message, with a switch each.
// One that only met another waits for its turn, in a queue of its own, and all of those are woken.
//
// Whoever has `isReading` and `isWriting` both may put another ring in the place of this one.
import Base
import Locks
import Memory
import Pages

/// The ring, and who has it open.
public final class Pipe {
  /// Bytes that fit into a new one.
  public static let defaultCapacity = 65_536
  /// Bytes that fit into one that an ordinary user asks for, at most (fs.pipe-max-size).
  public static let maximumUserCapacity = 1 << 20
  /// Writes up to this many bytes are never split (PIPE_BUF).
  public static let atomicByteCount = 4096

  private let lock = SpinLock()
  /// Pollers, and who waits in `open`.
  let source = PollSource()
  private let waitingReaders = WaitQueue()
  private let waitingWriters = WaitQueue()
  private let waitingTurns = WaitQueue()
  private let waitingResizers = WaitQueue()
  // Guarded by `lock`.
  private var ring: UnsafeMutableRawPointer?
  /// A power of two of at least a page. Changes with `isReading` and `isWriting` held by who changes it.
  private var capacity = Pipe.defaultCapacity
  /// Somebody waits to change it.
  private var isResizing = false
  /// Bytes ever read and ever written; their difference is what the ring holds.
  private var readTotal: UInt64 = 0
  private var writtenTotal: UInt64 = 0
  private var isReading = false
  private var isWriting = false
  private var readers = 0
  private var writers = 0
  /// Ends ever opened: what a blocking open of a FIFO waits for.
  private var readersEver: UInt64 = 0
  private var writersEver: UInt64 = 0

  /// A pipe that nobody has open.
  public init() {}

  deinit { if let ring { KernelHeap.free(ring) } }

  /// Bytes that can be read now.
  public var readableByteCount: Int { lock.withLock { (writtenTotal &- readTotal).int } }

  // MARK: Ends

  /// Opens an end, as a FIFO is opened: for reading it waits for a writer, for writing for a reader, unless it is not to.
  /// - Throws: ENXIO (for writing, not to block, and nobody reads), EINTR, ENOMEM.
  public func open(_ flags: OpenFlags, vnode: Vnode, at location: Location) throws(Errno) -> OpenFile {
    let (reads, writes) = (flags.allowsReading, flags.allowsWriting)
    guard reads || writes else { throw .EINVAL }
    let waits = !flags.contains(.nonBlocking) && reads != writes
    try makeRing()
    let before = lock.withLock { () -> (readers: UInt64, writers: UInt64, hasPartner: Bool)? in
      if writes, !reads, !waits, readers == 0 { return nil }
      let result = (readersEver, writersEver, reads ? writers > 0 : readers > 0)
      countEnds(reads, writes, 1)
      return result
    }
    guard let before else { throw .ENXIO }
    let end = PipeEnd(self, vnode: vnode, location: location, flags: flags)
    source.notify([.readable, .writable])
    guard waits, !before.hasPartner else { return end }
    let result = source.wait(interruptible: true) {
      lock.withLock { reads ? writersEver == before.writers : readersEver == before.readers }
    }
    guard result == .woken else { throw .EINTR }
    return end
  }

  /// Two new ends of a new pipe.
  /// - Parameter flags: `nonBlocking` counts.
  /// - Throws: ENOMEM.
  public static func make(flags: OpenFlags = []) throws(Errno) -> (reader: OpenFile, writer: OpenFile) {
    let pipe = Pipe()
    try pipe.makeRing()
    let vnode = PipeVnode(pipe)
    let location = AnonymousFileSystem.location(of: vnode, prefix: "pipe:[")
    let kept = flags.intersection([.nonBlocking, .direct])
    pipe.lock.withLock { pipe.countEnds(true, true, 1) }
    return (
      PipeEnd(pipe, vnode: vnode, location: location, flags: kept),
      PipeEnd(pipe, vnode: vnode, location: location, flags: kept.union(.writeOnly))
    )
  }

  private func makeRing() throws(Errno) {
    if lock.withLock({ ring != nil }) { return }
    guard let memory = KernelHeap.allocate(byteCount: lock.withLock { capacity }) else { throw .ENOMEM }
    let isFirst = lock.withLock { () -> Bool in
      if ring != nil { return false }
      ring = memory
      return true
    }
    if !isFirst { KernelHeap.free(memory) }
  }

  private func countEnds(_ reads: Bool, _ writes: Bool, _ number: Int) {
    if reads {
      readers &+= number
      if number > 0 { readersEver &+= 1 }
    }
    if writes {
      writers &+= number
      if number > 0 { writersEver &+= 1 }
    }
  }

  func closeEnd(reads: Bool, writes: Bool) {
    lock.withLock { countEnds(reads, writes, -1) }
    waitingReaders.wakeAll()
    waitingWriters.wakeAll()
    waitingTurns.wakeAll()
    source.notify([.readable, .writable, .hangUp, .error])
  }

  // MARK: Reading

  func read(into transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int {
    guard transfer.remaining > 0 else { return 0 }
    let present = try beginReading(nonBlocking: nonBlocking)
    guard present > 0 else { return 0 }
    return try drain(min(present, transfer.remaining)) { (bytes) in
      let before = transfer.copied
      do throws(Errno) { _ = try transfer.copyOut(from: bytes) } catch { return (transfer.copied &- before, error) }
      return (transfer.copied &- before, nil)
    }
  }

  /// Waits until there are bytes and nobody else reads, and takes `isReading`: `drain` gives it back.
  /// - Returns: how many bytes there are; 0: none, and nobody writes any more (then `isReading` is not taken).
  func beginReading(nonBlocking: Bool) throws(Errno) -> Int {
    while true {
      let (present, isFree, isEnd) = lock.withLock { () -> (Int, Bool, Bool) in
        let present = (writtenTotal &- readTotal).int
        let isFree = !isReading
        if present > 0, isFree { isReading = true }
        return (present, isFree, present == 0 && writers == 0)
      }
      if present > 0, isFree { return present }
      if isEnd { return 0 }
      if nonBlocking { throw .EAGAIN }
      try waitForBytes()
    }
  }

  /// Waits until there may be something to read, or never will be.
  func waitForBytes() throws(Errno) {
    let result = waitingReaders.wait(interruptible: true) {
      lock.withLock { isReading || (writtenTotal == readTotal && writers > 0) }
    }
    if result != .woken { throw .EINTR }
  }

  /// Lets `body` take up to `wanted` bytes of those that are present, piece by piece, until it takes fewer than it was shown or fails;
  /// the caller has `isReading`, which is given back. With `keeps`, the bytes stay.
  @inline(__always) func drain(
    _ wanted: Int, keeps: Bool = false, _ body: (UnsafeRawBufferPointer) -> (count: Int, failure: Errno?)
  ) throws(Errno) -> Int {
    var done = 0
    var failure: Errno?
    while done < wanted {
      let start = (readTotal &+ done.u64).int & (capacity &- 1)
      let piece = min(wanted &- done, capacity &- start)
      // SAFETY: these bytes have been written, and no writer touches them before `readTotal` moves.
      let bytes = UnsafeRawBufferPointer(start: ring.unsafelyUnwrapped + start, count: piece)
      let taken = body(bytes)
      done &+= taken.count
      failure = taken.failure
      if failure != nil || taken.count < piece { break }
    }
    endReading(taken: keeps ? 0 : done)
    if done == 0, let failure { throw failure }
    return done
  }

  /// Gives `isReading` back, and so many bytes' room.
  private func endReading(taken: Int) {
    let (hadRoom, hasMore, hasRoomNow, isOver, isAwaited) = lock.withLock { () -> (Bool, Bool, Bool, Bool, Bool) in
      let hadRoom = hasRoom
      readTotal &+= taken.u64
      isReading = false
      let hasMore = writtenTotal != readTotal
      return (hadRoom, hasMore, hasRoom, !hasMore && writers == 0, isResizing)
    }
    if isOver { waitingReaders.wakeAll() } else if hasMore { waitingReaders.wakeOne() }
    if hasRoomNow { waitingWriters.wakeOne() }
    if isAwaited { waitingResizers.wakeAll() }
    // Who was refused because another was reading hears of what that one has left.
    var news: ReadyMask = hasMore ? .readable : []
    if hasRoomNow && !hadRoom { news.insert(.writable) }
    if !news.isEmpty { source.notify(news) }
  }

  // MARK: Writing

  func write(from transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int {
    guard transfer.remaining > 0 else { return 0 }
    let needed = transfer.remaining <= Pipe.atomicByteCount ? transfer.remaining : 1
    var written = 0
    while transfer.remaining > 0 {
      do throws(Errno) {
        let space = try beginWriting(min(needed, transfer.remaining), nonBlocking: nonBlocking)
        let count = try fill(min(space, transfer.remaining)) { (bytes) in
          let before = transfer.copied
          do throws(Errno) { _ = try transfer.copyIn(into: bytes) } catch { return (transfer.copied &- before, error) }
          return (transfer.copied &- before, nil)
        }
        written &+= count
        if count == 0 { return written }
      } catch {
        if written > 0 { return written }
        throw error
      }
    }
    return written
  }

  /// Waits until so many bytes fit and nobody else writes, and takes `isWriting`: `fill` gives it back.
  /// - Returns: how many bytes fit.
  /// - Throws: EPIPE, EAGAIN, EINTR.
  func beginWriting(_ wanted: Int, nonBlocking: Bool) throws(Errno) -> Int {
    while true {
      let (space, isFree, isBroken) = lock.withLock { () -> (Int, Bool, Bool) in
        let isBroken = readers == 0
        let space = capacity &- (writtenTotal &- readTotal).int
        let isFree = !isWriting && space >= wanted
        if isFree, !isBroken { isWriting = true }
        return (space, isFree, isBroken)
      }
      if isBroken { throw .EPIPE }
      if isFree { return space }
      if nonBlocking { throw .EAGAIN }
      try waitForRoom(isFull: space < wanted)
    }
  }

  /// Waits until there may be room for PIPE_BUF bytes; or, in a pipe that is not full, for whoever writes to be done.
  func waitForRoom(isFull: Bool) throws(Errno) {
    let result =
      isFull
      ? waitingWriters.wait(interruptible: true) { lock.withLock { readers > 0 && !hasRoom } }
      : waitingTurns.wait(interruptible: true) { lock.withLock { readers > 0 && isWriting } }
    if result != .woken { throw .EINTR }
  }

  /// Lets `body` fill up to `wanted` bytes of the free space, piece by piece, until it fills fewer than it could or fails; the caller
  /// has `isWriting`, which is given back.
  @inline(__always) func fill(
    _ wanted: Int, _ body: (UnsafeMutableRawBufferPointer) -> (count: Int, failure: Errno?)
  ) throws(Errno) -> Int {
    var done = 0
    var failure: Errno?
    while done < wanted {
      let start = (writtenTotal &+ done.u64).int & (capacity &- 1)
      let piece = min(wanted &- done, capacity &- start)
      // SAFETY: free space, which no reader touches before `writtenTotal` moves.
      let bytes = UnsafeMutableRawBufferPointer(start: ring.unsafelyUnwrapped + start, count: piece)
      let filled = body(bytes)
      done &+= filled.count
      failure = filled.failure
      if failure != nil || filled.count < piece { break }
    }
    endWriting(filled: done)
    if done == 0, let failure { throw failure }
    return done
  }

  /// Gives `isWriting` back; so many bytes have been written.
  private func endWriting(filled: Int) {
    let (hasBytes, hasRoomNow, isAwaited) = lock.withLock { () -> (Bool, Bool, Bool) in
      writtenTotal &+= filled.u64
      isWriting = false
      return (writtenTotal != readTotal && !isReading, hasRoom, isResizing)
    }
    if hasBytes { waitingReaders.wakeOne() }
    waitingTurns.wakeAll()
    if hasRoomNow { waitingWriters.wakeOne() }
    if isAwaited { waitingResizers.wakeAll() }
    source.notify(hasRoomNow ? [.readable, .writable] : .readable)
  }

  // MARK: Size

  /// Bytes that fit.
  var byteCapacity: Int { lock.withLock { capacity } }

  /// Makes room for at least so many bytes.
  /// - Returns: how many fit now.
  /// - Throws: EBUSY (what is in it does not fit), EINTR, ENOMEM.
  func resize(to wanted: Int) throws(Errno) -> Int {
    var size = 4096
    while size < wanted { size &*= 2 }
    guard let memory = KernelHeap.allocate(byteCount: size) else { throw .ENOMEM }
    while true {
      let isMine = lock.withLock { () -> Bool in
        isResizing = isReading || isWriting
        if isResizing { return false }
        (isReading, isWriting) = (true, true)
        return true
      }
      if isMine { break }
      let result = waitingResizers.wait(interruptible: true) { lock.withLock { isReading || isWriting } }
      if result != .woken {
        KernelHeap.free(memory)
        throw .EINTR
      }
    }
    let present = (writtenTotal &- readTotal).int
    let fits = present <= size
    var unused: UnsafeMutableRawPointer? = memory
    if fits {
      for done in 0..<present {
        let position = (readTotal &+ done.u64).int
        // SAFETY: both rings have their size in bytes, and nobody else touches either.
        memory.storeBytes(
          of: ring.unsafelyUnwrapped.load(fromByteOffset: position & (capacity &- 1), as: UInt8.self),
          toByteOffset: position & (size &- 1), as: UInt8.self)
      }
      unused = ring
      lock.withLock { (ring, capacity) = (memory, size) }
    }
    if let unused { KernelHeap.free(unused) }
    endReading(taken: 0)
    endWriting(filled: 0)
    guard fits else { throw .EBUSY }
    return size
  }

  /// Whether nobody reads any more.
  var isBroken: Bool { lock.withLock { readers == 0 } }

  /// Whether a write of PIPE_BUF bytes would wait.
  var isFull: Bool { lock.withLock { !hasRoom } }

  /// Whether a write of PIPE_BUF bytes would not wait; what poll calls writable. Under `lock`.
  private var hasRoom: Bool { capacity &- (writtenTotal &- readTotal).int >= Pipe.atomicByteCount }

  // MARK: Readiness

  func readyMask(reads: Bool, writes: Bool) -> ReadyMask {
    lock.withLock { () -> ReadyMask in
      var result: ReadyMask = []
      if reads {
        if writtenTotal != readTotal { result.insert(.readable) }
        if writers == 0, writersEver > 0 { result.insert(.hangUp) }
      }
      if writes {
        if hasRoom { result.insert(.writable) }
        if readers == 0 { result.insert(.error) }
      }
      return result
    }
  }
}

/// One open end of a pipe, or with both rights of a FIFO, both.
final class PipeEnd: OpenFile {
  let pipe: Pipe
  private let isClosed = Atomic<Bool>(false)

  init(_ pipe: Pipe, vnode: Vnode, location: Location, flags: OpenFlags) {
    self.pipe = pipe
    super.init(vnode: vnode, location: location, flags: flags)
  }

  deinit { close() }

  override func closed() { close() }

  private func close() {
    guard !isClosed.exchange(true, ordering: .acquiringAndReleasing) else { return }
    pipe.closeEnd(reads: isReadable, writes: isWritable)
  }

  override func readData(at offset: UInt64, into transfer: inout Transfer) throws(Errno) -> Int {
    try pipe.read(into: &transfer, nonBlocking: isNonBlocking)
  }

  override func writeData(at offset: UInt64, from transfer: inout Transfer) throws(Errno) -> Int {
    try pipe.write(from: &transfer, nonBlocking: isNonBlocking)
  }

  override var readyMask: ReadyMask { pipe.readyMask(reads: isReadable, writes: isWritable) }
  override var pollSource: PollSource? { pipe.source }

  override func control(_ request: UInt32, _ argument: UInt64) throws(Errno) -> Int {
    guard request == ControlRequest.readableByteCount else { throw .ENOTTY }
    try UserSpan.write(pipe.readableByteCount.i32, at: VirtualAddress(argument))
    return 0
  }
}

/// The file behind a pipe without a name; opening it again (through /proc/self/fd) gives another end.
final class PipeVnode: AnonymousVnode {
  private let pipe: Pipe

  init(_ pipe: Pipe) {
    self.pipe = pipe
    super.init(type: .fifo, mode: 0o600)
  }

  override func open(_ flags: OpenFlags, at location: Location) throws(Errno) -> OpenFile {
    try pipe.open(flags, vnode: self, at: location)
  }
}

/// Numbers of ioctl that files of several kinds know.
public enum ControlRequest {
  /// FIONREAD: bytes that a read would get.
  public static let readableByteCount: UInt32 = 0x541b
}
