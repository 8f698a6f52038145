// What an epoll keeps of a file that is in it, what it is asked and what it reports; and the list of those that are ready.
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
  /// EPOLLEXCLUSIVE: of several epolls that wait for a file, one is enough. Here all are told.
  public var isExclusive: Bool
  /// It is exclusive, and what else is wanted goes with that.
  let isValidExclusive: Bool
  /// The program's own number for it.
  public var data: UInt64

  /// An interest from epoll_event's fields.
  public init(events: UInt32, data: UInt64) {
    mask = ReadyMask(rawValue: events & 0xffff)
    isEdgeTriggered = events & 1 << 31 != 0
    isOneShot = events & 1 << 30 != 0
    isExclusive = events & 1 << 28 != 0
    // EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP; EPOLLET, EPOLLWAKEUP.
    isValidExclusive = isExclusive && events & ~(0x1d | 1 << 31 | 1 << 29 | 1 << 28) == 0
    self.data = data
  }
}

/// One report of an epoll.
public struct EpollEvent: BitwiseCopyable, Sendable {
  /// What is so: bits of a `ReadyMask`.
  public var bits: UInt32
  /// The program's number.
  public var data: UInt64
  /// What is so.
  public var mask: ReadyMask { ReadyMask(rawValue: bits) }

  /// A report.
  @inline(__always) public init(bits: UInt32, data: UInt64) {
    self.bits = bits
    self.data = data
  }
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
  // SAFETY: neighbours in the list of those that are ready, which are members of the epoll as long as they are in it.
  var nextReady: Unmanaged<EpollMember>?
  var previousReady: Unmanaged<EpollMember>?
  var isReady = false

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

/// Members in the order in which they became ready. Not synchronised.
struct ReadyList {
  // SAFETY of all: members are taken out of the list before they are taken out of their epoll.
  private(set) var first: Unmanaged<EpollMember>?
  private var last: Unmanaged<EpollMember>?
  private(set) var count = 0

  var isEmpty: Bool { first == nil }

  /// Adds one at the end, or behind another one.
  mutating func insert(_ member: Unmanaged<EpollMember>, behind other: Unmanaged<EpollMember>?) {
    member._withUnsafeGuaranteedRef { object in
      object.isReady = true
      object.previousReady = other
      object.nextReady = other == nil ? first : other.unsafelyUnwrapped._withUnsafeGuaranteedRef { $0.nextReady }
      if let next = object.nextReady {
        next._withUnsafeGuaranteedRef { $0.previousReady = member }
      } else {
        last = member
      }
    }
    if let other { other._withUnsafeGuaranteedRef { $0.nextReady = member } } else { first = member }
    count &+= 1
  }

  mutating func append(_ member: Unmanaged<EpollMember>) { insert(member, behind: last) }

  /// The last one, behind which others come.
  var end: Unmanaged<EpollMember>? { last }

  mutating func remove(_ member: Unmanaged<EpollMember>) {
    member._withUnsafeGuaranteedRef { object in
      guard object.isReady else { return }
      let (next, previous) = (object.nextReady, object.previousReady)
      if let previous { previous._withUnsafeGuaranteedRef { $0.nextReady = next } } else { first = next }
      if let next { next._withUnsafeGuaranteedRef { $0.previousReady = previous } } else { last = previous }
      (object.nextReady, object.previousReady) = (nil, nil)
      object.isReady = false
      count &-= 1
    }
  }
}

func memberHappened(_ context: UnsafeMutableRawPointer, _ events: UInt32) {
  // SAFETY: the member is in its epoll, which keeps it until the waiter is removed.
  Unmanaged<EpollMember>.fromOpaque(context)._withUnsafeGuaranteedRef { $0.epoll.arrive($0) }
}
