// Futexes with owners, on the host: what owners inherit from those who wait.
import Base
import Foundation
import Locks
import Testing
import Threads

@testable import Linux

/// A word with an owner.
private final class OwnedWord: @unchecked Sendable {
  let pointer = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)
  init() { pointer.initialize(to: 0) }
  deinit { pointer.deallocate() }
  var key: FutexKey { try! FutexKey(VirtualAddress(UnsafeRawPointer(pointer)), space: 2) }
  var owner: UInt32 { load & FutexTable.ownerMask }
  private var load: UInt32 { UnsafePointer<Atomic<UInt32>>(OpaquePointer(pointer)).pointee.load(ordering: .acquiring) }
}

/// The threads of a test by their numbers.
private final class Roll: @unchecked Sendable {
  private let lock = NSLock()
  private var threads: [UInt32: Threads.Thread] = [:]
  private(set) var results: [UInt32: Errno?] = [:]

  subscript(number: UInt32) -> Threads.Thread? {
    get { lock.withLock { threads[number] } }
    set { lock.withLock { threads[number] = newValue } }
  }
  func note(_ number: UInt32, _ result: Errno?) { lock.withLock { results[number] = .some(result) } }
  func hasEnded(_ number: UInt32) -> Bool { lock.withLock { results[number] != nil } }
  func result(_ number: UInt32) -> Errno? { lock.withLock { results[number] ?? nil } }
}

@Suite(.serialized) struct FutexLockTests {
  private func waitUntil(_ condition: () -> Bool, _ location: SourceLocation = #_sourceLocation) {
    let end = Date().addingTimeInterval(10)
    while !condition(), Date() < end { usleep(500) }
    #expect(condition(), sourceLocation: location)
  }

  /// A thread with that number and priority takes the first word, then the second, gives both back and ends.
  private func spawn(
    _ roll: Roll, _ number: UInt32, priority: UInt8, has first: OwnedWord? = nil, wants second: OwnedWord,
    until deadline: Deadline = .never
  ) {
    Foundation.Thread.detachNewThread {
      Threads.Thread.current.policy = SchedulingPolicy(kind: .fifo, priority: priority)
      roll[number] = Threads.Thread.current
      do throws(Errno) {
        if let first { try FutexTable.lockOwned(first.key, identifier: number, until: .never) { roll[$0] } }
        defer { if let first { try? FutexTable.unlockOwned(first.key, identifier: number) } }
        try FutexTable.lockOwned(second.key, identifier: number, until: deadline) { roll[$0] }
        try FutexTable.unlockOwned(second.key, identifier: number)
        roll.note(number, nil)
      } catch { roll.note(number, error) }
    }
  }

  @Test func ownersInheritAlongChains() throws {
    let roll = Roll()
    let (one, two) = (OwnedWord(), OwnedWord())
    let me = Threads.Thread.current
    roll[1] = me
    try FutexTable.lockOwned(one.key, identifier: 1, until: .never) { roll[$0] }
    #expect(me.effectivePriority == 0)
    spawn(roll, 2, priority: 15, has: two, wants: one)
    waitUntil { me.effectivePriority == 15 }
    #expect(two.owner == 2)
    spawn(roll, 3, priority: 30, wants: two)
    waitUntil { me.effectivePriority == 30 && roll[2]?.effectivePriority == 30 }
    // The more urgent one comes later and is first.
    spawn(roll, 4, priority: 20, wants: one)
    waitUntil { FutexTable.waitersForOwnersCount == 3 }
    try FutexTable.unlockOwned(one.key, identifier: 1)
    #expect(me.effectivePriority == 0)
    waitUntil { roll.hasEnded(2) && roll.hasEnded(3) && roll.hasEnded(4) }
    #expect(roll[2]?.effectivePriority == 15)
    #expect(one.owner == 0 && two.owner == 0)
  }

  @Test func aTimeOutTakesThePriorityAway() throws {
    let roll = Roll()
    let word = OwnedWord()
    let me = Threads.Thread.current
    roll[1] = me
    try FutexTable.lockOwned(word.key, identifier: 1, until: .never) { roll[$0] }
    spawn(roll, 2, priority: 20, wants: word, until: .after(200_000_000, from: DispatchTime.now().uptimeNanoseconds))
    waitUntil { me.effectivePriority == 20 }
    waitUntil { roll.hasEnded(2) }
    #expect(roll.result(2) == .ETIMEDOUT && me.effectivePriority == 0)
    try FutexTable.unlockOwned(word.key, identifier: 1)
    #expect(word.owner == 0)
  }

  @Test func aCircleIsADeadlock() throws {
    let roll = Roll()
    let (one, two) = (OwnedWord(), OwnedWord())
    roll[1] = Threads.Thread.current
    try FutexTable.lockOwned(one.key, identifier: 1, until: .never) { roll[$0] }
    spawn(roll, 2, priority: 5, has: two, wants: one)
    waitUntil { FutexTable.waitersForOwnersCount == 1 }
    waitUntil { Threads.Thread.current.effectivePriority == 5 }
    #expect(throws: Errno.EDEADLK) {
      try FutexTable.lockOwned(two.key, identifier: 1, until: .never) { roll[$0] }
    }
    #expect(throws: Errno.EDEADLK) {
      try FutexTable.lockOwned(one.key, identifier: 1, until: .never) { roll[$0] }
    }
    try FutexTable.unlockOwned(one.key, identifier: 1)
    waitUntil { roll.hasEnded(2) }
  }

  @Test func whoEndsHandsItsLocksOn() throws {
    let roll = Roll()
    let word = OwnedWord()
    let me = Threads.Thread.current
    roll[1] = me
    try FutexTable.lockOwned(word.key, identifier: 1, until: .never) { roll[$0] }
    spawn(roll, 2, priority: 7, wants: word)
    spawn(roll, 3, priority: 9, wants: word)
    waitUntil { FutexTable.waitersForOwnersCount == 2 && me.effectivePriority == 9 }
    roll[1] = nil
    FutexTable.abandon(identifier: 1, thread: me)
    waitUntil { roll.hasEnded(2) && roll.hasEnded(3) }
    #expect(me.effectivePriority == 0 && word.owner == 0)
  }
}
