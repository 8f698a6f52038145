// Epoll: a set of open files, and those among them that have become ready.
//
// Each member has a waiter with its file's source. Its function, which may run in an interrupt handler, puts the
// member on a lock-free stack (`arrivals`) unless it is queued already, and wakes who waits. Everything else is done
// under `lock`: a wait takes the arrivals over, in their order, into `ready`, and looks at each member once; one that
// is level-triggered and still ready goes back to the end, so that all get their turn.
//
// `isQueued` is cleared before a member's file is looked at: what happens after the look queues it anew.
//
// Order of locks: an epoll's `lock`, then a file's links. Files and epolls refer to each other; the one that is closed
// first (its last descriptor) undoes that.
import Base
import Locks

/// What a member of an epoll wants and gets back; the flags are EPOLL*.
public struct EpollInterest: Sendable {
  /// What to report.
  public var mask: ReadyMask
  /// EPOLLET: report when something happens, not as long as it is so.
  public var isEdgeTriggered: Bool
  /// EPOLLONESHOT: report once, then no more until it is set anew.
  public var isOneShot: Bool
  /// The program's own number for it.
  public var data: UInt64

  /// An interest from epoll_event's fields.
  public init(events: UInt32, data: UInt64) {
    mask = ReadyMask(rawValue: events & 0xffff)
    isEdgeTriggered = events & 1 << 31 != 0
    isOneShot = events & 1 << 30 != 0
    self.data = data
  }
}

/// One report of an epoll.
public struct EpollEvent: Sendable {
  /// What is so.
  public var mask: ReadyMask
  /// The program's number.
  public var data: UInt64
}

/// A file in an epoll.
final class EpollMember {
  let file: OpenFile
  let descriptor: Int
  /// Kept until the member is taken out, so that a file that is being closed finds it.
  let epoll: EpollFile
  let waiter: UnsafeMutablePointer<PollWaiter>
  let isQueued = Atomic<Bool>(false)
  /// The next on the stack of arrivals.
  let older = Atomic<UInt>(0)
  // Guarded by the epoll's lock.
  var interest: EpollInterest
  var isEnabled = true
  var isRemoved = false
  /// Another of the same descriptor.
  var sibling: EpollMember?

  init(_ epoll: EpollFile, _ file: OpenFile, _ descriptor: Int, _ interest: EpollInterest) {
    self.epoll = epoll
    self.file = file
    self.descriptor = descriptor
    self.interest = interest
    waiter = .allocate(capacity: 1)
    // SAFETY: the member frees the waiter when it ends, after `remove`.
    waiter.initialize(to: PollWaiter(Unmanaged.passUnretained(self).toOpaque(), memberHappened))
  }

  deinit {
    waiter.deinitialize(count: 1)
    waiter.deallocate()
  }
}

private func memberHappened(_ context: UnsafeMutableRawPointer, _ events: UInt32) {
  // SAFETY: the member is in its epoll, which keeps it until the waiter is removed.
  Unmanaged<EpollMember>.fromOpaque(context)._withUnsafeGuaranteedRef { $0.epoll.arrive($0) }
}

/// An epoll, as its descriptor shows it.
public final class EpollFile: OpenFile {
  private let lock = Mutex()
  private let source = PollSource()
  private let arrivals = Atomic<UInt>(0)
  // Guarded by `lock`.
  /// By descriptor; more than one where a number was closed while a duplicate kept the file open.
  private var members = GrowingTable<EpollMember?>(blank: nil)
  private var ready: [EpollMember] = []
  private var isClosed = false

  /// An empty epoll.
  public init() {
    let vnode = AnonymousVnode(type: .unknown, mode: 0o600)
    super.init(
      vnode: vnode, location: AnonymousFileSystem.location(of: vnode, prefix: "anon_inode:[eventpoll]"),
      flags: .readWrite)
  }

  // MARK: Members

  /// Adds a file (EPOLL_CTL_ADD).
  /// - Throws: EEXIST, EPERM (a file that is always ready cannot be waited for), EINVAL (itself), ELOOP (epolls in a ring or
  ///   too deep), ENOMEM.
  public func add(_ file: OpenFile, descriptor: Int, _ interest: EpollInterest) throws(Errno) {
    guard file !== self else { throw .EINVAL }
    guard let fileSource = file.pollSource else { throw .EPERM }
    if let other = file as? EpollFile {
      EpollFile.nesting.lock()
      defer { EpollFile.nesting.unlock() }
      // What becomes ready at the bottom is told level by level, on one kernel stack.
      guard let below = other.depth(reaching: self, limit: Self.deepest), let above = height(limit: Self.deepest),
        above &+ 1 &+ below <= Self.deepest
      else { throw .ELOOP }
      return try addMember(file, fileSource, descriptor, interest)
    }
    try addMember(file, fileSource, descriptor, interest)
  }

  private func addMember(_ file: OpenFile, _ fileSource: PollSource, _ descriptor: Int, _ interest: EpollInterest)
    throws(Errno)
  {
    lock.lock()
    defer { lock.unlock() }
    guard !isClosed else { throw .EBADF }
    guard find(file, descriptor) == nil else { throw .EEXIST }
    try members.grow(to: descriptor &+ 1)
    let member = EpollMember(self, file, descriptor, interest)
    member.sibling = members[descriptor]
    members[descriptor] = member
    file.epollLinks.add(member)
    fileSource.add(member.waiter)
    if !mask(of: member).isEmpty { arrive(member) }
  }

  /// Changes what is wanted of a file (EPOLL_CTL_MOD).
  /// - Throws: ENOENT.
  public func modify(_ file: OpenFile, descriptor: Int, _ interest: EpollInterest) throws(Errno) {
    lock.lock()
    defer { lock.unlock() }
    guard let member = find(file, descriptor) else { throw .ENOENT }
    member.interest = interest
    member.isEnabled = true
    if !mask(of: member).isEmpty { arrive(member) }
  }

  /// Takes a file out (EPOLL_CTL_DEL).
  /// - Throws: ENOENT.
  public func remove(_ file: OpenFile, descriptor: Int) throws(Errno) {
    lock.lock()
    defer { lock.unlock() }
    guard let member = find(file, descriptor) else { throw .ENOENT }
    takeOut(member)
    file.epollLinks.remove(member)
  }

  /// The file of a member is closed.
  func fileClosed(_ member: EpollMember) {
    lock.lock()
    defer { lock.unlock() }
    if !member.isRemoved { takeOut(member) }
  }

  private func find(_ file: OpenFile, _ descriptor: Int) -> EpollMember? {
    guard descriptor >= 0, descriptor < members.count else { return nil }
    var candidate = members[descriptor]
    while let member = candidate, member.file !== file { candidate = member.sibling }
    return candidate
  }

  /// With the lock. After this nobody queues the member again.
  private func takeOut(_ member: EpollMember) {
    member.isRemoved = true
    member.file.pollSource?.remove(member.waiter)
    takeArrivals()
    ready.removeAll { $0 === member }
    if members[member.descriptor] === member {
      members[member.descriptor] = member.sibling
    } else {
      var before = members[member.descriptor]
      while let other = before, other.sibling !== member { before = other.sibling }
      before?.sibling = member.sibling
    }
    member.sibling = nil
  }

  /// With the lock.
  private func forEachMember(_ body: (EpollMember) -> Void) {
    for descriptor in 0..<members.count {
      var next = members[descriptor]
      while let member = next {
        next = member.sibling
        body(member)
      }
    }
  }

  /// The most epolls that may lie one in another, less one.
  private static let deepest = 4

  /// How many epolls this one is in, one in another, or nil if they are more than `limit`.
  private func height(limit: Int) -> Int? {
    var highest = 0
    for outer in epollLinks.epolls {
      guard limit > 0, let height = outer.height(limit: limit &- 1) else { return nil }
      highest = max(highest, height &+ 1)
    }
    return highest
  }

  /// How many epolls lie below, or nil if `target` is among them or they are more than `limit` deep.
  private func depth(reaching target: EpollFile, limit: Int) -> Int? {
    guard self !== target, limit > 0 else { return nil }
    var files: [EpollFile] = []
    lock.withLock {
      forEachMember { member in if let inner = member.file as? EpollFile { files.append(inner) } }
    }
    var deepest = 0
    for file in files {
      guard let depth = file.depth(reaching: target, limit: limit &- 1) else { return nil }
      deepest = max(deepest, depth &+ 1)
    }
    return deepest
  }

  private static let nesting = Mutex()

  // MARK: Events

  /// A member may have become ready. Any context.
  func arrive(_ member: EpollMember) {
    guard !member.isQueued.exchange(true, ordering: .acquiringAndReleasing) else { return }
    let word = UInt(bitPattern: Unmanaged.passUnretained(member).toOpaque())
    var head = arrivals.load(ordering: .relaxed)
    while true {
      member.older.store(head, ordering: .relaxed)
      let result = arrivals.compareExchange(expected: head, desired: word, ordering: .acquiringAndReleasing)
      if result.exchanged { break }
      head = result.original
    }
    source.notify(.readable)
  }

  /// Moves what has arrived to the end of `ready`. With the lock.
  private func takeArrivals() {
    var word = arrivals.exchange(0, ordering: .acquiring)
    guard word != 0 else { return }
    let start = ready.count
    while let pointer = UnsafeRawPointer(bitPattern: word) {
      // SAFETY: members on the stack are in `members`: taking one out empties the stack first.
      let member = Unmanaged<EpollMember>.fromOpaque(pointer).takeUnretainedValue()
      word = member.older.load(ordering: .relaxed)
      ready.append(member)
    }
    ready[start...].reverse()
  }

  private func mask(of member: EpollMember) -> ReadyMask {
    guard member.isEnabled else { return [] }
    return member.file.readyMask.withNormal.intersection(member.interest.mask.union(.always))
  }

  /// Takes up to `limit` reports.
  private func collect(_ limit: Int, _ events: inout [EpollEvent]) {
    lock.lock()
    defer { lock.unlock() }
    takeArrivals()
    var waiting = ready
    ready = []
    var index = 0
    var again: [EpollMember] = []
    while index < waiting.count, events.count < limit {
      let member = waiting[index]
      index &+= 1
      member.isQueued.store(false, ordering: .sequentiallyConsistent)
      let mask = mask(of: member)
      guard !mask.isEmpty else { continue }
      events.append(EpollEvent(mask: mask, data: member.interest.data))
      if member.interest.isOneShot {
        member.isEnabled = false
      } else if !member.interest.isEdgeTriggered,
        !member.isQueued.exchange(true, ordering: .acquiringAndReleasing)
      {
        again.append(member)
      }
    }
    waiting.removeFirst(index)
    ready = waiting + again + ready
  }

  /// Waits for reports (epoll_wait).
  /// - Parameters:
  ///   - limit: how many are wanted, 1 or more.
  ///   - deadline: how long to wait for the first.
  /// - Returns: them; none if time ran out.
  /// - Throws: EINTR.
  public func wait(limit: Int, until deadline: Deadline) throws(Errno) -> [EpollEvent] {
    var events: [EpollEvent] = []
    collect(limit, &events)
    if !events.isEmpty || deadline == .now { return events }
    while true {
      let result = source.wait(until: deadline, interruptible: true) { isIdle }
      if result == .interrupted { throw .EINTR }
      collect(limit, &events)
      if !events.isEmpty || result == .timedOut { return events }
    }
  }

  /// Whether nothing has arrived or is left over; may be wrong about members that are ready no more.
  private var isIdle: Bool {
    arrivals.load(ordering: .acquiring) == 0 && lock.withLock { ready.isEmpty }
  }

  // MARK: OpenFile

  /// Readable while some member is ready.
  public override var readyMask: ReadyMask {
    lock.lock()
    defer { lock.unlock() }
    takeArrivals()
    // Members that are ready no more go, so that they arrive again, and tell our own source, when they are.
    var isReady = false
    var index = 0
    while index < ready.count, !isReady {
      let member = ready[index]
      member.isQueued.store(false, ordering: .sequentiallyConsistent)
      isReady = !mask(of: member).isEmpty
      if isReady, !member.isQueued.exchange(true, ordering: .acquiringAndReleasing) { break }
      index &+= 1
    }
    ready.removeFirst(index)
    return isReady ? .readable : []
  }
  /// Tells when a member becomes ready.
  public override var pollSource: PollSource? { source }
  /// Lets go of all members.
  public override func closed() {
    lock.lock()
    defer { lock.unlock() }
    isClosed = true
    forEachMember { member in
      takeOut(member)
      member.file.epollLinks.remove(member)
    }
  }
}

/// The epolls that an open file is in.
final class EpollLinks {
  private let lock = Mutex()
  private var members: [EpollMember] = []

  /// The epolls.
  var epolls: [EpollFile] { lock.withLock { members.map { $0.epoll } } }

  func add(_ member: EpollMember) { lock.withLock { members.append(member) } }
  func remove(_ member: EpollMember) { lock.withLock { members.removeAll { $0 === member } } }

  /// The file's last descriptor is gone: all epolls forget it.
  func removeAll() {
    let all = lock.withLock {
      let all = members
      members = []
      return all
    }
    for member in all { member.epoll.fileClosed(member) }
  }
}
