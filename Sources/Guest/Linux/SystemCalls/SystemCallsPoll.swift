// System calls that wait for readiness: poll, select, epoll; and the files made for them: eventfd, timerfd.
import Base
import Files
import Locks
import Memory
import Pages
import Platform
import Threads

/// struct pollfd.
private struct PollDescriptor {
  var descriptor: Int32 = 0
  var events: UInt16 = 0
  var returned: UInt16 = 0
}

extension SystemCall {
  // MARK: poll

  func poll() throws(Errno) -> Int {
    let milliseconds = argument2.i32
    let deadline: Deadline =
      milliseconds < 0
      ? .never : milliseconds == 0 ? .now : .after(milliseconds.u64 &* 1_000_000, from: Clock.now())
    return try poll(until: deadline)
  }

  func ppoll() throws(Errno) -> Int {
    let deadline = try TimeSpecification.pollDeadline(at: address2)
    return try withMask(at: address3, byteCount: argument4) { () throws(Errno) in
      defer { storeTime(until: deadline, at: address2) }
      return try poll(until: deadline)
    }
  }

  private func poll(until deadline: Deadline) throws(Errno) -> Int {
    guard argument1 <= process.descriptors.limit.u64 else { throw .EINVAL }
    let count = argument1.int
    var requests = try PollRequests(capacity: count)
    for index in 0..<count {
      let wanted = try UserSpan.read(PollDescriptor.self, at: address0 + index &* 8)
      var request = PollRequest(nil, ReadyMask(rawValue: wanted.events.u32))
      if wanted.descriptor >= 0 {
        if let file = try? process.descriptors.file(wanted.descriptor.int) {
          request.file = file
        } else {
          request.result = .invalid
        }
      }
      requests.append(request)
    }
    let ready = try Poll.wait(requests, until: deadline)
    for index in 0..<count {
      try UserSpan.write(requests[index].result.rawValue.u16, at: address0 + (index &* 8 &+ 6))
    }
    return ready
  }

  /// Runs `body` with the signal mask of ppoll and its kin. If a signal cuts it short, the mask stays in force until that
  /// has been delivered.
  private func withMask(
    at address: VirtualAddress, byteCount: UInt64, _ body: () throws(Errno) -> Int
  ) throws(Errno) -> Int {
    guard !address.isNull else { return try body() }
    guard byteCount == 8 else { throw .EINVAL }
    task.suspendBlocked(try UserSpan.read(SignalSet.self, at: address))
    do throws(Errno) {
      let result = try body()
      task.resumeBlocked()
      return result
    } catch {
      if error != .EINTR { task.resumeBlocked() }
      throw error
    }
  }

  /// Stores what is left of a time-out, as Linux does, unless there was none. Memory that cannot be written stays as it is.
  private func storeTime(until deadline: Deadline, at address: VirtualAddress, inMicroseconds: Bool = false) {
    guard !address.isNull, deadline != .now, deadline != .never else { return }
    let now = Clock.now()
    let left = deadline.nanoseconds > now ? deadline.nanoseconds &- now : 0
    if inMicroseconds {
      try? UserSpan.write(TimeValue(left), at: address)
    } else {
      try? UserSpan.write(TimeSpecification(left), at: address)
    }
  }

  // MARK: select

  func select() throws(Errno) -> Int {
    var deadline = Deadline.never
    if !address4.isNull {
      let time = try UserSpan.read(TimeValue.self, at: address4)
      guard time.seconds >= 0, time.microseconds >= 0 else { throw .EINVAL }
      // Microseconds may exceed a second here.
      let total = time.seconds.u64 &* 1_000_000_000 &+ time.microseconds.u64 &* 1000
      deadline = total == 0 ? .now : .after(total, from: Clock.now())
    }
    defer { storeTime(until: deadline, at: address4, inMicroseconds: true) }
    return try select(until: deadline)
  }

  func pselect6() throws(Errno) -> Int {
    let deadline = try TimeSpecification.pollDeadline(at: address4)
    var mask: [2 of UInt64] = [0, 0]
    if argument5 != 0 { mask = try UserSpan.read([2 of UInt64].self, at: VirtualAddress(argument5)) }
    return try withMask(at: VirtualAddress(mask[0]), byteCount: mask[1]) { () throws(Errno) in
      defer { storeTime(until: deadline, at: address4) }
      return try select(until: deadline)
    }
  }

  private func select(until deadline: Deadline) throws(Errno) -> Int {
    guard argument0.i32 >= 0 else { throw .EINVAL }
    let count = min(argument0.i32.int, process.descriptors.count)
    let read = try set(at: address1, count)
    let write = try set(at: address2, count)
    let except = try set(at: address3, count)
    let ready = try Poll.select(
      count, in: process.descriptors, read: read, write: write, except: except, until: deadline)
    try store(read, at: address1)
    try store(write, at: address2)
    try store(except, at: address3)
    return ready
  }

  private func set(at address: VirtualAddress, _ count: Int) throws(Errno) -> SelectSet {
    let set = try SelectSet(count: count)
    guard !address.isNull else { return set }
    for index in 0..<set.bits.count {
      set.bits[index] = try UserSpan.read(UInt64.self, at: address + index &* 8)
    }
    // What lies behind the last descriptor does not count.
    if count & 63 != 0, let last = set.bits.indices.last { set.bits[last] &= (1 &<< (count & 63).u64) &- 1 }
    return set
  }

  private func store(_ set: borrowing SelectSet, at address: VirtualAddress) throws(Errno) {
    guard !address.isNull else { return }
    for index in 0..<set.bits.count { try UserSpan.write(set.bits[index], at: address + index &* 8) }
  }

  // MARK: epoll

  func epoll_create() throws(Errno) -> Int {
    guard argument0.i32 > 0 else { throw .EINVAL }
    return try install(EpollFile(), [])
  }

  func epoll_create1() throws(Errno) -> Int {
    let flags = OpenFlags(rawValue: argument0.u32)
    guard flags.subtracting(.closeOnExec).isEmpty else { throw .EINVAL }
    return try install(EpollFile(), flags)
  }

  private func install(_ file: OpenFile, _ flags: OpenFlags) throws(Errno) -> Int {
    try process.descriptors.install(file, closeOnExec: flags.contains(.closeOnExec))
  }

  private func epoll() throws(Errno) -> EpollFile {
    guard let epoll = try file() as? EpollFile else { throw .EINVAL }
    return epoll
  }

  /// struct epoll_event is packed: 32 bits of events, 64 of data.
  private static var eventByteCount: Int { 12 }

  func epoll_ctl() throws(Errno) -> Int {
    let epoll = try epoll()
    let number = argument2.i32.int
    let file = try file(argument2)
    guard file !== epoll else { throw .EINVAL }
    if argument1.i32 == 2 {
      try epoll.remove(file, descriptor: number)
      return 0
    }
    let events = try UserSpan.read(UInt32.self, at: address3)
    let low = try UserSpan.read(UInt32.self, at: address3 + 4)
    let high = try UserSpan.read(UInt32.self, at: address3 + 8)
    let interest = EpollInterest(events: events, data: low.u64 | high.u64 &<< 32)
    switch argument1.i32 {
    case 1: try epoll.add(file, descriptor: number, interest)
    case 3: try epoll.modify(file, descriptor: number, interest)
    default: throw .EINVAL
    }
    return 0
  }

  func epoll_wait() throws(Errno) -> Int {
    let limit = argument2.i32.int
    guard limit > 0, limit <= Int(Int32.max) / Self.eventByteCount else { throw .EINVAL }
    let milliseconds = argument3.i32
    let deadline: Deadline =
      milliseconds < 0
      ? .never : milliseconds == 0 ? .now : .after(milliseconds.u64 &* 1_000_000, from: Clock.now())
    return try epoll_wait(limit: limit, until: deadline)
  }

  /// The same with a time-out that is as exact as the clock.
  func epoll_pwait2() throws(Errno) -> Int {
    let limit = argument2.i32.int
    guard limit > 0, limit <= Int(Int32.max) / Self.eventByteCount else { throw .EINVAL }
    let deadline = try TimeSpecification.pollDeadline(at: VirtualAddress(argument3))
    return try withMask(at: address4, byteCount: argument5) { () throws(Errno) in
      try epoll_wait(limit: limit, until: deadline)
    }
  }

  private func epoll_wait(limit: Int, until deadline: Deadline) throws(Errno) -> Int {
    let epoll = try epoll()
    // Reports lie on the kernel stack, or, where many are wanted, in the heap.
    if limit <= 16 {
      var few: [16 of EpollEvent] = .init(repeating: EpollEvent(bits: 0, data: 0))
      return try withUnsafeMutableBytes(of: &few) { (bytes) throws(Errno) in
        let events = bytes.bindMemory(to: EpollEvent.self)
        return try epoll_wait(epoll, UnsafeMutableBufferPointer(rebasing: events[..<limit]), until: deadline)
      }
    }
    let count = min(limit, 1024)
    guard let memory = KernelHeap.allocate(byteCount: count &* MemoryLayout<EpollEvent>.stride) else { throw .ENOMEM }
    defer { KernelHeap.free(memory) }
    // SAFETY: memory for so many.
    let events = UnsafeMutableBufferPointer(
      start: memory.bindMemory(to: EpollEvent.self, capacity: count), count: count)
    return try epoll_wait(epoll, events, until: deadline)
  }

  private func epoll_wait(
    _ epoll: EpollFile, _ events: UnsafeMutableBufferPointer<EpollEvent>, until deadline: Deadline
  ) throws(Errno) -> Int {
    let count = try epoll.wait(events, until: deadline)
    for index in 0..<count {
      let place = address1 + index &* Self.eventByteCount
      let words: [3 of UInt32] = [events[index].bits, events[index].data.u32, (events[index].data &>> 32).u32]
      try UserSpan.write(words, at: place)
    }
    return count
  }

  func epoll_pwait() throws(Errno) -> Int {
    try withMask(at: address4, byteCount: argument5) { () throws(Errno) in try epoll_wait() }
  }

  // MARK: eventfd

  func eventfd() throws(Errno) -> Int { try makeEvent([], isSemaphore: false) }

  func eventfd2() throws(Errno) -> Int {
    guard argument1.u32 & ~0o2004001 == 0 else { throw .EINVAL }
    return try makeEvent(OpenFlags(rawValue: argument1.u32 & ~1), isSemaphore: argument1 & 1 != 0)
  }

  private func makeEvent(_ flags: OpenFlags, isSemaphore: Bool) throws(Errno) -> Int {
    return try install(
      EventFile(value: argument0.u32.u64, isSemaphore: isSemaphore, flags: flags.intersection(.nonBlocking)), flags)
  }

  // MARK: timerfd

  /// struct itimerspec.
  private struct TimerSetting {
    var interval = TimeSpecification()
    var value = TimeSpecification()
  }

  func timerfd_create() throws(Errno) -> Int {
    let clock = argument0.i32
    guard clock == 0 || clock == 1 || clock == 7 else { throw .EINVAL }
    let flags = OpenFlags(rawValue: argument1.u32)
    guard flags.subtracting([.closeOnExec, .nonBlocking]).isEmpty else { throw .EINVAL }
    return try install(try TimerFile(isRealtime: clock == 0, flags: flags.intersection(.nonBlocking)), flags)
  }

  private func timer() throws(Errno) -> TimerFile {
    guard let timer = try file() as? TimerFile else { throw .EINVAL }
    return timer
  }

  func timerfd_settime() throws(Errno) -> Int {
    guard argument1 & ~3 == 0 else { throw .EINVAL }
    let wanted = try UserSpan.read(TimerSetting.self, at: address2)
    let value = try wanted.value.total()
    let interval = try wanted.interval.total()
    let timer = try timer()
    var first: UInt64?
    if value != 0 {
      if argument1 & 1 == 0 {
        first = Deadline.after(value, from: Clock.now()).nanoseconds
      } else {
        let now = timer.isRealtime ? Clock.realtime() : Clock.now()
        first = Deadline.after(value > now ? value &- now : 0, from: Clock.now()).nanoseconds
      }
    }
    let before = timer.set(first: first, interval: interval)
    if !address3.isNull { try write(before, at: address3) }
    return 0
  }

  func timerfd_gettime() throws(Errno) -> Int {
    try write(try timer().setting, at: address1)
    return 0
  }

  private func write(_ setting: (remaining: UInt64, interval: UInt64), at address: VirtualAddress) throws(Errno) {
    try UserSpan.write(
      TimerSetting(interval: TimeSpecification(setting.interval), value: TimeSpecification(setting.remaining)),
      at: address)
  }
}

extension TimeSpecification {
  /// The deadline of a time-out for readiness: zero means not to wait at all.
  static func pollDeadline(at address: VirtualAddress) throws(Errno) -> Deadline {
    guard address.rawValue != 0 else { return .never }
    let time = try read(at: address)
    return time == 0 ? .now : .after(time, from: Clock.now())
  }
}
