// Readiness: sources under contention, poll, select, epoll in its three manners.
import Base
import Dispatch
import Locks
import Platform
import Testing

@testable import Files

@Suite(.timeLimit(.minutes(15))) struct PollTests {
  func event(_ value: UInt64 = 0) -> EventFile { EventFile(value: value, isSemaphore: false, flags: .nonBlocking) }
  func soon(_ milliseconds: UInt64) -> Deadline { .after(milliseconds * 1_000_000, from: Clock.now()) }

  @Test func pollReportsWhatIsSo() throws {
    let ends = try Pipe.make()
    var requests = [
      PollRequest(ends.reader, [.readable]), PollRequest(ends.writer, [.writable, .readable]),
      PollRequest(nil, .readable), PollRequest(event(), [.readable, .writable]),
    ]
    #expect(try Poll.wait(&requests, until: .now) == 2)
    #expect(requests.map(\.result) == [[], .writable, [], .writable])
    requests = [PollRequest(ends.reader, [.readable])]
    let start = Clock.now()
    #expect(try Poll.wait(&requests, until: soon(20)) == 0)
    #expect(Clock.now() - start >= 20_000_000)
  }

  @Test func pollWakes() throws {
    let events = (0..<20).map { _ in event() }
    for index in [0, 7, 19] {
      let shared = Shared(value: events[index])
      DispatchQueue.global().asyncAfter(deadline: .now() + .milliseconds(10)) { _ = try? shared.value.writeNumber(1) }
      var requests = events.map { PollRequest($0, .readable) }
      #expect(try Poll.wait(&requests, until: .never) == 1)
      #expect(requests[index].result == .readable)
      _ = try events[index].readNumber()
    }
  }

  @Test func manyPollersAndNotifiers() throws {
    let source = PollSource()
    let shared = Shared(value: source)
    let rounds = 2000
    DispatchQueue.concurrentPerform(iterations: 4) { thread in
      if thread == 0 {
        for _ in 0..<rounds { shared.value.notify(.readable) }
        return
      }
      let waiter = UnsafeMutablePointer<PollWaiter>.allocate(capacity: 1)
      let counter = UnsafeMutablePointer<Int>.allocate(capacity: 1)
      counter.initialize(to: 0)
      for _ in 0..<rounds {
        waiter.initialize(
          to: PollWaiter(counter) { context, _ in context.assumingMemoryBound(to: Int.self).pointee += 1 })
        shared.value.add(waiter)
        shared.value.notify(.writable)
        shared.value.remove(waiter)
        waiter.deinitialize(count: 1)
      }
      // Each own notify came between add and remove. Only the server writes, and it is done with us.
      if counter.pointee < rounds { Issue.record("told \(counter.pointee) times of \(rounds)") }
      waiter.deallocate()
      counter.deallocate()
    }
  }

  @Test func select() throws {
    let table = DescriptorTable()
    let ends = try Pipe.make()
    _ = try table.install(ends.reader)
    _ = try table.install(ends.writer)
    let read = try SelectSet(count: 70)
    let write = try SelectSet(count: 70)
    let except = try SelectSet(count: 70)
    read[0] = true
    write[1] = true
    #expect(try Poll.select(2, in: table, read: read, write: write, except: except, until: .never) == 1)
    #expect(!read[0] && write[1])
    read[0] = true
    write[1] = false
    #expect(try Poll.select(2, in: table, read: read, write: write, except: except, until: soon(1)) == 0)
    #expect(!read[0])
    read[69] = true
    #expect(throws: Errno.EBADF) {
      try Poll.select(70, in: table, read: read, write: write, except: except, until: .now)
    }
  }

  // MARK: Epoll

  let input: UInt32 = 1
  let edge: UInt32 = 1 << 31
  let oneShot: UInt32 = 1 << 30

  func data(_ epoll: EpollFile, _ limit: Int = 16) throws -> [UInt64] {
    try epoll.wait(limit: limit, until: .now).map(\.data)
  }

  @Test func deepEpollsAreRefused() throws {
    // Built from the top down: what is added is always a single one.
    let chain = (0..<6).map { _ in EpollFile() }
    for index in 0..<4 {
      try chain[index].add(chain[index + 1], descriptor: index, EpollInterest(events: input, data: 0))
    }
    #expect(throws: Errno.ELOOP) {
      try chain[4].add(chain[5], descriptor: 9, EpollInterest(events: input, data: 0))
    }
    #expect(throws: Errno.ELOOP) {
      try chain[4].add(chain[0], descriptor: 9, EpollInterest(events: input, data: 0))
    }
    let bottom = event()
    try chain[4].add(bottom, descriptor: 10, EpollInterest(events: input, data: 7))
    #expect(chain[0].readyMask == [])
    _ = try bottom.writeNumber(1)
    #expect(chain[0].readyMask == .readable)
    for epoll in chain { epoll.closed() }
  }

  /// An exclusive member stays as it is, and wants nothing unusual.
  @Test func exclusive() throws {
    let exclusive: UInt32 = 1 << 28
    let (epoll, other, file) = (EpollFile(), EpollFile(), event())
    try epoll.add(file, descriptor: 3, EpollInterest(events: input | exclusive | edge, data: 1))
    try other.add(file, descriptor: 3, EpollInterest(events: input | exclusive, data: 2))
    #expect(throws: Errno.EINVAL) { try epoll.modify(file, descriptor: 3, EpollInterest(events: input, data: 1)) }
    #expect(throws: Errno.EINVAL) {
      try epoll.add(file, descriptor: 4, EpollInterest(events: input | exclusive | oneShot, data: 1))
    }
    #expect(throws: Errno.EINVAL) {
      try epoll.add(other, descriptor: 5, EpollInterest(events: input | exclusive, data: 1))
    }
    try epoll.add(event(), descriptor: 6, EpollInterest(events: input, data: 1))
    #expect(throws: Errno.EINVAL) {
      try epoll.modify(file, descriptor: 6, EpollInterest(events: input | exclusive, data: 1))
    }
    _ = try file.writeNumber(1)
    #expect(try data(epoll) == [1] || data(other) == [2])
    for each in [epoll, other] { each.closed() }
  }

  @Test func levelTriggered() throws {
    let (epoll, one, two) = (EpollFile(), event(), event(1))
    try epoll.add(one, descriptor: 3, EpollInterest(events: input, data: 1))
    try epoll.add(two, descriptor: 4, EpollInterest(events: input, data: 2))
    #expect(try data(epoll) == [2])
    #expect(try data(epoll) == [2])
    _ = try one.writeNumber(1)
    #expect(try data(epoll).sorted() == [1, 2])
    // With room for one, all get their turn.
    #expect(try Set([data(epoll, 1), data(epoll, 1)]) == [[1], [2]])
    _ = try two.readNumber()
    #expect(try data(epoll) == [1])
    _ = try one.readNumber()
    #expect(try data(epoll) == [])
    #expect(epoll.readyMask == [])
  }

  @Test func edgeTriggered() throws {
    let (epoll, one) = (EpollFile(), event(1))
    try epoll.add(one, descriptor: 3, EpollInterest(events: input | edge, data: 1))
    #expect(try data(epoll) == [1])
    #expect(try data(epoll) == [])
    _ = try one.writeNumber(1)
    #expect(try data(epoll) == [1])
    #expect(try data(epoll) == [])
    try epoll.modify(one, descriptor: 3, EpollInterest(events: input | edge, data: 5))
    #expect(try data(epoll) == [5])
  }

  @Test func oneShots() throws {
    let (epoll, one) = (EpollFile(), event(1))
    try epoll.add(one, descriptor: 3, EpollInterest(events: input | oneShot, data: 1))
    #expect(try data(epoll) == [1])
    _ = try one.writeNumber(1)
    #expect(try data(epoll) == [])
    try epoll.modify(one, descriptor: 3, EpollInterest(events: input | oneShot, data: 2))
    #expect(try data(epoll) == [2])
  }

  @Test func membership() throws {
    let (epoll, one, inner) = (EpollFile(), event(1), EpollFile())
    let interest = EpollInterest(events: input, data: 1)
    try epoll.add(one, descriptor: 3, interest)
    #expect(throws: Errno.EEXIST) { try epoll.add(one, descriptor: 3, interest) }
    try epoll.add(one, descriptor: 4, interest)
    #expect(throws: Errno.EINVAL) { try epoll.add(epoll, descriptor: 5, interest) }
    #expect(throws: Errno.ENOENT) { try epoll.remove(inner, descriptor: 5) }
    #expect(throws: Errno.ENOENT) { try epoll.modify(one, descriptor: 5, interest) }
    try epoll.remove(one, descriptor: 3)
    try epoll.remove(one, descriptor: 4)
    #expect(try data(epoll) == [])
    // An epoll in an epoll is ready when one of its members is; a ring is refused.
    try inner.add(one, descriptor: 3, interest)
    try epoll.add(inner, descriptor: 5, EpollInterest(events: input, data: 9))
    #expect(try data(epoll) == [9])
    #expect(throws: Errno.ELOOP) { try inner.add(epoll, descriptor: 6, interest) }
    _ = try one.readNumber()
    #expect(try data(epoll) == [])
    _ = try one.writeNumber(1)
    #expect(try data(epoll) == [9])
  }

  @Test func closedFilesLeave() throws {
    let table = DescriptorTable()
    let epoll = EpollFile()
    var one: EventFile? = event(1)
    weak let watched = one
    _ = try table.install(epoll)
    _ = try table.install(one!)
    _ = try table.duplicate(1)
    try epoll.add(one!, descriptor: 1, EpollInterest(events: input, data: 1))
    one = nil
    try table.close(1)
    #expect(try data(epoll) == [1])
    try table.close(2)
    #expect(try data(epoll) == [])
    #expect(watched == nil)
    // And the other way round: a closed epoll lets its files go.
    let two = event(1)
    try epoll.add(two, descriptor: 3, EpollInterest(events: input, data: 2))
    try table.close(0)
    #expect(throws: Errno.EBADF) { try epoll.add(two, descriptor: 3, EpollInterest(events: input, data: 2)) }
  }

  @Test func edgesBetweenThreadsAreNotLost() throws {
    let epoll = EpollFile()
    let events = (0..<4).map { _ in event() }
    for (index, event) in events.enumerated() {
      try epoll.add(event, descriptor: index, EpollInterest(events: input | edge, data: UInt64(index)))
    }
    let shared = Shared(value: events)
    let group = DispatchGroup()
    for index in 0..<4 {
      DispatchQueue.global().async(group: group) {
        for _ in 0..<500 { _ = try? shared.value[index].writeNumber(1) }
      }
    }
    var sum: UInt64 = 0
    while sum < 2000 {
      let reports = try epoll.wait(limit: 2, until: soon(5000))
      if reports.isEmpty { break }
      for report in reports { sum += (try? events[Int(report.data)].readNumber()) ?? 0 }
    }
    group.wait()
    #expect(sum == 2000)
  }
}
