// Futexes on the host: real threads sleep on words of this process.
import Base
import Foundation
import Locks
import Testing

@testable import Linux

/// A word that threads wait on.
private final class Word: @unchecked Sendable {
  let pointer = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)
  init(_ value: UInt32) { pointer.initialize(to: value) }
  deinit { pointer.deallocate() }
  var key: FutexKey { try! FutexKey(VirtualAddress(UnsafeRawPointer(pointer)), space: 1) }
}

/// Counts what threads report.
private final class Tally: @unchecked Sendable {
  private let lock = NSLock()
  private var results: [String: Int] = [:]
  func add(_ result: String) { lock.withLock { results[result, default: 0] += 1 } }
  subscript(result: String) -> Int { lock.withLock { results[result, default: 0] } }
  var total: Int { lock.withLock { results.values.reduce(0, +) } }
}

@Suite(.serialized) struct FutexTests {
  @Test func theQueuesFitTheirMemory() {
    #expect(MemoryLayout<FutexBucket>.stride * FutexTable.bucketCount <= FutexTable.storageByteCount)
  }

  /// Starts a thread that waits on a word, and tallies how that ended.
  private func spawnWaiter(_ word: Word, _ tally: Tally, bitset: UInt32 = .max, until deadline: Deadline = .never) {
    Thread.detachNewThread {
      do throws(Errno) {
        try FutexTable.wait(word.key, expected: 7, bitset: bitset, until: deadline)
        tally.add("woken")
      } catch { tally.add("\(error)") }
    }
  }

  /// Wakes until so many have been woken (waiters may still be on their way into the queue).
  private func wake(_ word: Word, _ count: Int, bitset: UInt32 = .max) {
    var left = count
    let end = Date().addingTimeInterval(10)
    while left > 0, Date() < end {
      left -= FutexTable.wake(word.key, count: left, bitset: bitset)
      if left > 0 { usleep(1000) }
    }
    #expect(left == 0)
  }

  private func waitUntil(_ tally: Tally, total: Int) {
    let end = Date().addingTimeInterval(10)
    while tally.total < total, Date() < end { usleep(1000) }
  }

  @Test func aWordThatDiffersIsNotWaitedFor() {
    let word = Word(8)
    #expect(throws: Errno.EAGAIN) { try FutexTable.wait(word.key, expected: 7, bitset: .max, until: .never) }
  }

  @Test func timeOutsEndWaits() {
    let word = Word(7)
    #expect(throws: Errno.ETIMEDOUT) { try FutexTable.wait(word.key, expected: 7, bitset: .max, until: .now) }
    #expect(FutexTable.wake(word.key, count: 1) == 0)
  }

  @Test func misalignedWordsAreRefused() {
    #expect(throws: Errno.EINVAL) { try FutexKey(VirtualAddress(0x1002), space: 1) }
  }

  @Test func wakesReachExactlyAsManyAsAsked() {
    let word = Word(7)
    let tally = Tally()
    for _ in 0..<6 { spawnWaiter(word, tally) }
    wake(word, 4)
    waitUntil(tally, total: 4)
    usleep(5000)
    #expect(tally["woken"] == 4)
    wake(word, 2)
    waitUntil(tally, total: 6)
    #expect(tally["woken"] == 6)
  }

  @Test func bitsetsSelect() {
    let word = Word(7)
    let first = Tally()
    let second = Tally()
    spawnWaiter(word, first, bitset: 1)
    spawnWaiter(word, second, bitset: 2)
    wake(word, 1, bitset: 2)
    waitUntil(second, total: 1)
    #expect(first.total == 0 && second["woken"] == 1)
    wake(word, 1, bitset: 1)
    waitUntil(first, total: 1)
    #expect(first["woken"] == 1)
  }

  @Test func requeuedWaitersAreWokenAtTheirNewWord() throws {
    let source = Word(7)
    let target = Word(0)
    let tally = Tally()
    for _ in 0..<4 { spawnWaiter(source, tally) }
    wake(source, 1)
    var moved = 0
    let end = Date().addingTimeInterval(10)
    while moved < 3, Date() < end {
      moved += try FutexTable.requeue(from: source.key, to: target.key, wakeCount: 0, moveCount: 9, expected: 7).moved
    }
    #expect(moved == 3)
    #expect(FutexTable.wake(source.key, count: 9) == 0)
    #expect(throws: Errno.EAGAIN) {
      try FutexTable.requeue(from: source.key, to: target.key, wakeCount: 1, moveCount: 1, expected: 6)
    }
    wake(target, 3)
    waitUntil(tally, total: 4)
    #expect(tally["woken"] == 4)
  }

  @Test func waitersThatTimeOutWhileBeingWokenAreCountedOnce() {
    let word = Word(7)
    let tally = Tally()
    var woken = 0
    for round in 0..<200 {
      spawnWaiter(word, tally, until: .after(50_000, from: DispatchTime.now().uptimeNanoseconds))
      if round % 2 == 0 { usleep(50) }
      woken += FutexTable.wake(word.key, count: 1)
    }
    waitUntil(tally, total: 200)
    #expect(tally.total == 200)
    woken += FutexTable.wake(word.key, count: 1000)
    #expect(tally["woken"] == woken)
  }
}
