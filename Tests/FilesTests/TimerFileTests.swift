// Timer files: one shot, intervals, what is left, waking those who wait.
import Base
import Files
import Locks
import Platform
import Testing

@Suite(.timeLimit(.minutes(15))) struct TimerFileTests {
  let millisecond: UInt64 = 1_000_000

  @Test func oneShot() throws {
    let timer = try TimerFile()
    #expect(timer.readyMask == [])
    #expect(timer.setting == (0, 0))
    let start = Clock.now()
    _ = timer.set(first: start + 10 * millisecond, interval: 0)
    let setting = timer.setting
    #expect(setting.remaining > 0 && setting.remaining <= 10 * millisecond)
    #expect(try timer.readNumber() == 1)
    #expect(Clock.now() >= start + 10 * millisecond)
    #expect(timer.setting == (0, 0))
    #expect(timer.readyMask == [])
  }

  @Test func intervals() throws {
    let timer = try TimerFile(flags: .nonBlocking)
    #expect(throws: Errno.EAGAIN) { _ = try timer.readNumber() }
    let now = Clock.now()
    _ = timer.set(first: now &- 35 * millisecond, interval: 10 * millisecond)
    #expect(timer.readyMask == .readable)
    #expect(try timer.readNumber() >= 4)
    #expect(timer.setting.interval == 10 * millisecond)
    #expect(timer.set(first: nil, interval: 0).interval == 10 * millisecond)
    #expect(throws: Errno.EAGAIN) { _ = try timer.readNumber() }
    #expect(throws: Errno.EINVAL) { _ = try timer.read(7) }
  }

  @Test func waking() throws {
    let timer = try TimerFile()
    let epoll = EpollFile()
    try epoll.add(timer, descriptor: 3, EpollInterest(events: 1, data: 7))
    let start = Clock.now()
    _ = timer.set(first: start + 5 * millisecond, interval: 5 * millisecond)
    for round in 1...3 as ClosedRange<UInt64> {
      #expect(try epoll.wait(limit: 4, until: .never).map(\.data) == [7])
      #expect(Clock.now() >= start + 5 * millisecond * round)
      #expect(try timer.readNumber() >= 1)
    }
    var requests = [PollRequest(timer, .readable)]
    #expect(try Poll.wait(&requests, until: .never) == 1)
    _ = timer.set(first: nil, interval: 0)
  }

  @Test func expirations() {
    func check(_ due: UInt64, _ interval: UInt64, _ now: UInt64, _ count: UInt64, _ next: UInt64) {
      let expirations = TimerExpirations(due: due, interval: interval, now: now)
      #expect(expirations.count == count)
      #expect(expirations.next == next)
    }
    check(10, 5, 10, 1, 15)
    check(10, 5, 19, 2, 20)
    check(10, 0, 19, 1, .max)
    check(10, .max, 19, 1, .max)
    check(0, .max, .max, 2, .max)
    check(10, .max - 10, 19, 1, .max)
    check(10, .max - 11, 19, 1, .max - 1)
  }
}
