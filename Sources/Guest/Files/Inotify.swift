// Inotify: an open file that tells what happens to files, and what it watches.
//
// An instance knows its watches by number, a watched vnode knows them too (`WatchList`), and a watch keeps both alive until it
// is taken out: by the program, by the end of the file, or when the instance's last descriptor is closed.
//
// Order of locks: an instance's `control`, a vnode's list, an instance's queue. Who tells of an event takes the last two; a watch that
// ends by what happens to its file is taken out after the list's lock has been given back.
//
// Events lie in memory of the kernel heap in the form in which they are read, a chain of them. One that there is no memory for is
// lost, and so are all beyond the limit: both are told by IN_Q_OVERFLOW.
import Base
import Locks
import Memory
import Pages

/// What happens to files; the numbers are IN_*.
public struct FileEvents: OptionSet, Sendable {
  /// Linux's bits.
  public let rawValue: UInt32
  /// Events from Linux's bits.
  public init(rawValue: UInt32) { self.rawValue = rawValue }
  /// IN_ACCESS: read.
  public static var read: FileEvents { FileEvents(rawValue: 0x1) }
  /// IN_MODIFY: written, or its size changed.
  public static var changed: FileEvents { FileEvents(rawValue: 0x2) }
  /// IN_ATTRIB: attributes changed.
  public static var attributes: FileEvents { FileEvents(rawValue: 0x4) }
  /// IN_CLOSE_WRITE: closed by who could write.
  public static var closedWriter: FileEvents { FileEvents(rawValue: 0x8) }
  /// IN_CLOSE_NOWRITE: closed by another.
  public static var closedReader: FileEvents { FileEvents(rawValue: 0x10) }
  /// IN_OPEN.
  public static var opened: FileEvents { FileEvents(rawValue: 0x20) }
  /// IN_MOVED_FROM: a name has gone to elsewhere.
  public static var movedFrom: FileEvents { FileEvents(rawValue: 0x40) }
  /// IN_MOVED_TO: a name has come from elsewhere.
  public static var movedTo: FileEvents { FileEvents(rawValue: 0x80) }
  /// IN_CREATE: a name is new.
  public static var created: FileEvents { FileEvents(rawValue: 0x100) }
  /// IN_DELETE: a name is gone.
  public static var deleted: FileEvents { FileEvents(rawValue: 0x200) }
  /// IN_DELETE_SELF: the file itself is gone.
  public static var deletedSelf: FileEvents { FileEvents(rawValue: 0x400) }
  /// IN_MOVE_SELF: the file has another name.
  public static var movedSelf: FileEvents { FileEvents(rawValue: 0x800) }
  /// IN_UNMOUNT: its file system is not there any more.
  public static var unmounted: FileEvents { FileEvents(rawValue: 0x2000) }
  /// IN_Q_OVERFLOW: events were lost.
  public static var overflow: FileEvents { FileEvents(rawValue: 0x4000) }
  /// IN_IGNORED: the watch is no more.
  public static var ignored: FileEvents { FileEvents(rawValue: 0x8000) }
  /// IN_ISDIR: it is about a directory.
  public static var directory: FileEvents { FileEvents(rawValue: 0x4000_0000) }
  /// What can be asked for (IN_ALL_EVENTS).
  public static var all: FileEvents { FileEvents(rawValue: 0xfff) }

  /// IN_ONLYDIR.
  public static var onlyDirectory: FileEvents { FileEvents(rawValue: 0x100_0000) }
  /// IN_DONT_FOLLOW.
  public static var noFollow: FileEvents { FileEvents(rawValue: 0x200_0000) }
  /// IN_EXCL_UNLINK: nothing of names that are gone.
  public static var excludesUnlinked: FileEvents { FileEvents(rawValue: 0x400_0000) }
  /// IN_MASK_CREATE: fail if there is a watch.
  public static var onlyNew: FileEvents { FileEvents(rawValue: 0x1000_0000) }
  /// IN_MASK_ADD: besides what is watched already.
  public static var added: FileEvents { FileEvents(rawValue: 0x2000_0000) }
  /// IN_ONESHOT: one event, then no more.
  public static var oneShot: FileEvents { FileEvents(rawValue: 0x8000_0000) }
  /// All that inotify_add_watch knows.
  static var known: FileEvents {
    all.union([
      .unmounted, .overflow, .ignored, .directory, .onlyDirectory, .noFollow, .excludesUnlinked, .onlyNew, .added,
    ])
    .union(.oneShot)
  }
}

/// One vnode that an instance watches.
final class Watch {
  let instance: InotifyInstance
  let vnode: Vnode
  let number: Int32
  /// What is asked for, with `oneShot` and `excludesUnlinked`. Guarded by the vnode's list.
  var wanted: FileEvents
  /// Taken out, or about to be: it tells no more. Guarded by the vnode's list.
  var isOver = false

  init(_ instance: InotifyInstance, _ vnode: Vnode, _ number: Int32, _ wanted: FileEvents) {
    self.instance = instance
    self.vnode = vnode
    self.number = number
    self.wanted = wanted
  }
}

/// What an inotify descriptor stands for.
final class InotifyInstance {
  /// fs.inotify.max_queued_events, max_user_instances, max_user_watches.
  static let maximumEvents = 16_384
  static let maximumInstances = 128
  static let maximumWatches = 65_536

  /// The head of an event in memory; the bytes that are read follow.
  private struct Event {
    var next: UnsafeMutablePointer<Event>?
    /// Bytes that follow.
    var byteCount: Int
  }

  let source = PollSource()
  private let control = Mutex()
  // Guarded by `control`; in order of their numbers.
  private var watches = GrowingTable<Watch?>(blank: nil)
  private var watchCount = 0
  private var lastNumber: Int32 = 0
  private let queueLock = Mutex()
  // Guarded by `queueLock`.
  private var first: UnsafeMutablePointer<Event>?
  private var last: UnsafeMutablePointer<Event>?
  private var eventCount = 0
  private var queuedByteCount = 0
  private var hasOverflowed = false

  deinit { while let event = take() { KernelHeap.free(UnsafeMutableRawPointer(event)) } }

  // MARK: Watches

  func add(_ vnode: Vnode, _ mask: FileEvents) throws(Errno) -> Int32 {
    let kept = mask.intersection(.all.union([.excludesUnlinked, .oneShot]))
    control.lock()
    defer { control.unlock() }
    let list = vnode.makeWatchList()
    for index in 0..<watchCount {
      guard let watch = watches[index], watch.vnode === vnode else { continue }
      if mask.contains(.onlyNew) { throw .EEXIST }
      let isKept = list.lock.withLock { () -> Bool in
        if watch.isOver { return false }
        watch.wanted = mask.contains(.added) ? watch.wanted.union(kept) : kept
        return true
      }
      if isKept { return watch.number }
    }
    guard watchCount < Self.maximumWatches else { throw .ENOSPC }
    try watches.grow(to: watchCount &+ 1)
    lastNumber = lastNumber == .max ? 1 : lastNumber &+ 1
    let watch = Watch(self, vnode, lastNumber, kept)
    watches[watchCount] = watch
    watchCount &+= 1
    list.add(watch)
    return watch.number
  }

  func remove(_ number: Int32) throws(Errno) {
    control.lock()
    defer { control.unlock() }
    for index in 0..<watchCount {
      guard let watch = watches[index], watch.number == number else { continue }
      watch.vnode.watchList?.remove(watch)
      drop(at: index)
      tell(number, .ignored)
      return
    }
    throw .EINVAL
  }

  /// A watch has been taken out of its vnode's list by what happened there.
  func forget(_ watch: Watch) {
    control.lock()
    defer { control.unlock() }
    for index in 0..<watchCount where watches[index] === watch {
      drop(at: index)
      tell(watch.number, .ignored)
      return
    }
  }

  func close() {
    control.lock()
    defer { control.unlock() }
    while watchCount > 0 {
      if let watch = watches[watchCount &- 1] { watch.vnode.watchList?.remove(watch) }
      drop(at: watchCount &- 1)
    }
  }

  private func drop(at place: Int) {
    watchCount &-= 1
    for index in place..<watchCount { watches[index] = watches[index &+ 1] }
    watches[watchCount] = nil
  }

  // MARK: Events

  /// Puts an event behind the others, unless it says the same as the last one.
  func tell(_ number: Int32, _ events: FileEvents, cookie: UInt32 = 0, name: PathBytes = PathBytes("")) {
    let nameByteCount = name.isEmpty ? 0 : (name.count &+ 1).alignedUp(to: 16)
    let byteCount = 16 &+ nameByteCount
    let memory = KernelHeap.allocate(byteCount: MemoryLayout<Event>.size &+ byteCount)
    if let memory {
      let event = memory.bindMemory(to: Event.self, capacity: 1)
      event.initialize(to: Event(next: nil, byteCount: byteCount))
      let bytes = Self.bytes(of: event)
      // SAFETY: all within the block.
      bytes.storeBytes(of: number, toByteOffset: 0, as: Int32.self)
      bytes.storeBytes(of: events.rawValue, toByteOffset: 4, as: UInt32.self)
      bytes.storeBytes(of: cookie, toByteOffset: 8, as: UInt32.self)
      bytes.storeBytes(of: nameByteCount.u32, toByteOffset: 12, as: UInt32.self)
      for index in 0..<nameByteCount { bytes[16 &+ index] = index < name.count ? name[index] : 0 }
      let isKept = queueLock.withLock { () -> Bool in
        if let last, Self.isSame(last, event) { return false }
        return push(event)
      }
      if !isKept { KernelHeap.free(memory) }
    } else {
      queueLock.withLock { hasOverflowed = true }
    }
    source.notify(.readable)
  }

  private static func bytes(of event: UnsafeMutablePointer<Event>) -> UnsafeMutableRawBufferPointer {
    // SAFETY: the block has so many bytes behind its head.
    UnsafeMutableRawBufferPointer(start: UnsafeMutableRawPointer(event + 1), count: event.pointee.byteCount)
  }

  private static func isSame(_ one: UnsafeMutablePointer<Event>, _ two: UnsafeMutablePointer<Event>) -> Bool {
    guard one.pointee.byteCount == two.pointee.byteCount else { return false }
    let (left, right) = (bytes(of: one), bytes(of: two))
    for index in 0..<left.count where left[index] != right[index] { return false }
    return true
  }

  private func push(_ event: UnsafeMutablePointer<Event>) -> Bool {
    guard eventCount < Self.maximumEvents, !hasOverflowed else {
      hasOverflowed = true
      return false
    }
    if let last { last.pointee.next = event } else { first = event }
    last = event
    eventCount &+= 1
    queuedByteCount &+= event.pointee.byteCount
    return true
  }

  private func take() -> UnsafeMutablePointer<Event>? {
    guard let event = first else { return nil }
    first = event.pointee.next
    if first == nil { last = nil }
    eventCount &-= 1
    queuedByteCount &-= event.pointee.byteCount
    return event
  }

  var hasEvents: Bool { queueLock.withLock { first != nil || hasOverflowed } }
  /// Bytes that can be read.
  var readableByteCount: Int { queueLock.withLock { queuedByteCount &+ (hasOverflowed ? 16 : 0) } }

  /// Gives as many events as fit.
  /// - Returns: bytes; 0: there are none.
  /// - Throws: EINVAL: the first does not fit; EFAULT.
  func read(into transfer: inout Transfer) throws(Errno) -> Int {
    let before = transfer.copied
    while true {
      queueLock.lock()
      guard let next = first else {
        guard hasOverflowed, transfer.remaining >= 16 else {
          let isFull = hasOverflowed && transfer.copied == before
          queueLock.unlock()
          if isFull { throw .EINVAL }
          break
        }
        // What was lost came behind what is there.
        hasOverflowed = false
        queueLock.unlock()
        let event: [4 of UInt32] = [.max, FileEvents.overflow.rawValue, 0, 0]
        _ = try withUnsafeBytes(of: event) { (bytes) throws(Errno) in try transfer.copyOut(from: bytes) }
        continue
      }
      guard next.pointee.byteCount <= transfer.remaining else {
        queueLock.unlock()
        if transfer.copied == before { throw .EINVAL }
        break
      }
      _ = take()
      queueLock.unlock()
      defer { KernelHeap.free(UnsafeMutableRawPointer(next)) }
      do throws(Errno) { _ = try transfer.copyOut(from: UnsafeRawBufferPointer(Self.bytes(of: next))) } catch {
        if transfer.copied == before { throw error }
        break
      }
    }
    return transfer.copied &- before
  }
}

/// An inotify descriptor's file.
public final class InotifyFile: OpenFile {
  private let instance = InotifyInstance()
  private static let count = Atomic<Int>(0)

  /// An instance that watches nothing.
  /// - Parameter flags: `nonBlocking` counts.
  /// - Throws: EMFILE: too many.
  public init(flags: OpenFlags) throws(Errno) {
    let isTooMany =
      InotifyFile.count.wrappingAdd(1, ordering: .relaxed).newValue > InotifyInstance.maximumInstances
    let vnode = AnonymousVnode(type: .unknown, mode: 0o600)
    super.init(
      vnode: vnode, location: AnonymousFileSystem.location(of: vnode, prefix: "anon_inode:inotify"),
      flags: flags.intersection(.nonBlocking))
    if isTooMany { throw .EMFILE }
  }

  deinit { InotifyFile.count.wrappingSubtract(1, ordering: .relaxed) }

  /// Watches a file, or changes what is watched of it.
  /// - Returns: the watch's number.
  /// - Throws: EINVAL, EEXIST, ENOSPC, ENOTDIR, EACCES, ENOMEM.
  public func add(_ place: Location, _ mask: FileEvents, _ credentials: Credentials) throws(Errno) -> Int32 {
    let vnode = place.vnode
    if mask.contains(.onlyDirectory), !vnode.isDirectory { throw .ENOTDIR }
    try vnode.checkAccess(.read, credentials)
    return try instance.add(vnode, mask)
  }

  /// Whether a mask makes sense.
  /// - Throws: EINVAL.
  public static func check(_ mask: FileEvents) throws(Errno) {
    guard !mask.isDisjoint(with: .known), !mask.contains([.added, .onlyNew]) else { throw .EINVAL }
  }

  /// Watches a file no more.
  /// - Throws: EINVAL.
  public func remove(_ number: Int32) throws(Errno) { try instance.remove(number) }

  public override func readData(at offset: UInt64, into transfer: inout Transfer) throws(Errno) -> Int {
    while true {
      let count = try instance.read(into: &transfer)
      if count > 0 { return count }
      if isNonBlocking { throw .EAGAIN }
      let result = instance.source.wait { !instance.hasEvents }
      if result != .woken { throw .EINTR }
    }
  }

  public override func control(_ request: UInt32, _ argument: UInt64) throws(Errno) -> Int {
    guard request == ControlRequest.readableByteCount else { throw .ENOTTY }
    try UserSpan.write(instance.readableByteCount.i32, at: VirtualAddress(argument))
    return 0
  }

  public override var readyMask: ReadyMask { instance.hasEvents ? .readable : [] }
  public override var pollSource: PollSource? { instance.source }
  public override func closed() { instance.close() }
}
