// Epoll: a set of open files, and those among them that have become ready.
//
// Each member has a waiter with its file's source. Its function, which may run in an interrupt handler, puts the
// member on a lock-free stack (`arrivals`) unless it is queued already, and wakes who waits. Everything else is done
// under `lock`: a wait takes the arrivals over, in their order, into `ready`, and looks at each member once; one that
// is level-triggered and still ready goes back to the end, so that all get their turn.
//
// `isQueued` is cleared before a member's file is looked at: what happens after the look queues it anew.
//
// `ready` is a list through the members themselves, and reports go into memory of the caller's: waiting allocates and counts nothing.
//
// Order of locks: an epoll's `lock`, then a file's links. Files and epolls refer to each other; the one that is closed
// first (its last descriptor) undoes that.
import Base
import Locks

/// An epoll, as its descriptor shows it.
public final class EpollFile: OpenFile {
  private let lock = Mutex()
  private let source = PollSource()
  private let arrivals = Atomic<UInt>(0)
  // Guarded by `lock`.
  /// By descriptor; more than one where a number was closed while a duplicate kept the file open.
  private var members = GrowingTable<EpollMember?>(blank: nil)
  private var ready = ReadyList()
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
    if interest.isExclusive { guard interest.isValidExclusive, !(file is EpollFile) else { throw .EINVAL } }
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
  /// - Throws: ENOENT; EINVAL: it is or would be exclusive.
  public func modify(_ file: OpenFile, descriptor: Int, _ interest: EpollInterest) throws(Errno) {
    guard !interest.isExclusive else { throw .EINVAL }
    lock.lock()
    defer { lock.unlock() }
    guard let member = find(file, descriptor) else { throw .ENOENT }
    guard !member.interest.isExclusive else { throw .EINVAL }
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
    ready.remove(Unmanaged.passUnretained(member))
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
    // The stack has the newest first: each one goes before those that were taken.
    let place = ready.end
    while let pointer = UnsafeRawPointer(bitPattern: word) {
      // SAFETY: members on the stack are in `members`: taking one out empties the stack first.
      let member = Unmanaged<EpollMember>.fromOpaque(pointer)
      word = member._withUnsafeGuaranteedRef { $0.older.load(ordering: .relaxed) }
      ready.insert(member, behind: place)
    }
  }

  private func mask(of member: EpollMember) -> ReadyMask {
    guard member.isEnabled else { return [] }
    return member.file.readyMask.withNormal.intersection(member.interest.mask.union(.always))
  }

  /// Takes as many reports as there is room for; how many.
  private func collect(_ events: UnsafeMutableBufferPointer<EpollEvent>) -> Int {
    lock.lock()
    defer { lock.unlock() }
    takeArrivals()
    var (count, left) = (0, ready.count)
    while left > 0, count < events.count, let first = ready.first {
      left &-= 1
      ready.remove(first)
      first._withUnsafeGuaranteedRef { member in
        member.isQueued.store(false, ordering: .sequentiallyConsistent)
        let mask = mask(of: member)
        guard !mask.isEmpty else { return }
        events[count] = EpollEvent(bits: mask.rawValue, data: member.interest.data)
        count &+= 1
        if member.interest.isOneShot {
          member.isEnabled = false
        } else if !member.interest.isEdgeTriggered,
          !member.isQueued.exchange(true, ordering: .acquiringAndReleasing)
        {
          ready.append(first)
        }
      }
    }
    return count
  }

  /// Waits for reports (epoll_wait).
  /// - Parameters:
  ///   - events: where they go; room for one at least.
  ///   - deadline: how long to wait for the first.
  /// - Returns: how many; 0 if time ran out.
  /// - Throws: EINTR.
  public func wait(_ events: UnsafeMutableBufferPointer<EpollEvent>, until deadline: Deadline) throws(Errno) -> Int {
    var count = collect(events)
    if count > 0 || deadline == .now { return count }
    while true {
      let result = source.wait(until: deadline, interruptible: true) { isIdle }
      if result == .interrupted { throw .EINTR }
      count = collect(events)
      if count > 0 || result == .timedOut { return count }
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
    while let first = ready.first {
      let stays = first._withUnsafeGuaranteedRef { member -> (isReady: Bool, isHere: Bool) in
        member.isQueued.store(false, ordering: .sequentiallyConsistent)
        guard !mask(of: member).isEmpty else { return (false, false) }
        return (true, !member.isQueued.exchange(true, ordering: .acquiringAndReleasing))
      }
      // If it has arrived meanwhile it lies among the arrivals.
      if !stays.isHere { ready.remove(first) }
      if stays.isReady { return .readable }
    }
    return []
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
