// LockTable: the advisory locks of one file as a list of ranges; who holds what, and what becomes of it when an owner asks for more
// or gives some back.
//
// An owner's ranges never overlap, and two of the same kind never touch: they are one. They lie one behind another in order of
// their start; owners stand in the order in which they came. Not synchronised (`FileLocks` locks). Growth can fail.
import Base

/// A lock on a range of bytes of a file, held or asked for.
public struct RangeLock: BitwiseCopyable, Sendable {
  /// Who: the number of a descriptor table or of an open file; never 0.
  public var owner: UInt
  /// The process that F_GETLK tells of; -1: none, an open file holds it.
  public var process: Int32
  /// Whether nobody else may have a lock there; otherwise others may have such too.
  public var isExclusive: Bool
  /// The first byte.
  public var start: UInt64
  /// The last byte; `UInt64.max`: however large the file gets.
  public var last: UInt64

  /// A lock.
  public init(owner: UInt, process: Int32 = -1, isExclusive: Bool, start: UInt64 = 0, last: UInt64 = .max) {
    self.owner = owner
    self.process = process
    self.isExclusive = isExclusive
    self.start = start
    self.last = last
  }

  /// Whether both have a byte in common.
  @inline(__always) func overlaps(_ other: RangeLock) -> Bool { start <= other.last && other.start <= last }
  /// Whether no byte lies between the two.
  @inline(__always) func touches(_ other: RangeLock) -> Bool {
    (other.last == .max || start <= other.last &+ 1) && (last == .max || other.start <= last &+ 1)
  }
}

/// Ranges that are locked.
struct LockTable: ~Copyable {
  private var locks = GrowingTable<RangeLock>(blank: RangeLock(owner: 0, isExclusive: false))
  /// How many ranges there are.
  private(set) var count = 0

  subscript(index: Int) -> RangeLock { locks[index] }

  /// The first lock of another owner that stands against `wanted`.
  func conflict(with wanted: RangeLock) -> RangeLock? {
    for index in 0..<count {
      let held = locks[index]
      if held.owner != wanted.owner, held.isExclusive || wanted.isExclusive, held.overlaps(wanted) { return held }
    }
    return nil
  }

  /// The first lock of an owner.
  func first(of owner: UInt) -> RangeLock? {
    for index in 0..<count where locks[index].owner == owner { return locks[index] }
    return nil
  }

  /// Gives an owner a lock that nothing stands against, in the place of what it has there.
  /// - Returns: whether it has given back something that others may have waited for.
  /// - Throws: ENOMEM; nothing has changed then.
  mutating func set(_ wanted: RangeLock) throws(Errno) -> Bool {
    try locks.grow(to: count &+ 2)
    var merged = wanted
    let hasGivenBack = cut(&merged, mergesKind: true)
    var place = count
    var isBehindOwn = false
    for index in 0..<count {
      if locks[index].owner == wanted.owner {
        if locks[index].start > merged.start {
          place = index
          break
        }
        isBehindOwn = true
      } else if isBehindOwn {
        place = index
        break
      }
    }
    insert(merged, at: place)
    return hasGivenBack
  }

  /// Takes a range from an owner; `range.isExclusive` does not count.
  /// - Returns: whether it had anything there.
  /// - Throws: ENOMEM (one lock becomes two); nothing has changed then.
  mutating func remove(_ range: RangeLock) throws(Errno) -> Bool {
    try locks.grow(to: count &+ 1)
    var range = range
    return cut(&range, mergesKind: false)
  }

  /// Takes everything from an owner.
  /// - Returns: whether it had anything.
  mutating func removeAll(of owner: UInt) -> Bool {
    var kept = 0
    for index in 0..<count where locks[index].owner != owner {
      locks[kept] = locks[index]
      kept &+= 1
    }
    let hadSome = kept < count
    count = kept
    return hadSome
  }

  /// Cuts `range` out of its owner's locks; with `mergesKind`, those of its kind that it touches become part of it instead.
  private mutating func cut(_ range: inout RangeLock, mergesKind: Bool) -> Bool {
    var hasGivenBack = false
    var index = 0
    while index < count {
      let held = locks[index]
      if held.owner != range.owner {
        index &+= 1
      } else if mergesKind, held.isExclusive == range.isExclusive {
        if held.touches(range) {
          range.start = min(range.start, held.start)
          range.last = max(range.last, held.last)
          removeOne(at: index)
        } else {
          index &+= 1
        }
      } else if held.overlaps(range) {
        hasGivenBack = true
        let (keepsLeft, keepsRight) = (held.start < range.start, held.last > range.last)
        var right = held
        right.start = range.last &+ 1
        if keepsLeft {
          locks[index].last = range.start &- 1
          index &+= 1
          if keepsRight {
            insert(right, at: index)
            index &+= 1
          }
        } else if keepsRight {
          locks[index] = right
          index &+= 1
        } else {
          removeOne(at: index)
        }
      } else {
        index &+= 1
      }
    }
    return hasGivenBack
  }

  /// There is room: the callers have seen to it.
  private mutating func insert(_ lock: RangeLock, at place: Int) {
    var index = count
    while index > place {
      locks[index] = locks[index &- 1]
      index &-= 1
    }
    locks[place] = lock
    count &+= 1
  }

  private mutating func removeOne(at place: Int) {
    count &-= 1
    for index in place..<count { locks[index] = locks[index &+ 1] }
  }
}
