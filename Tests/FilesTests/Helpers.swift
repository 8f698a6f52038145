// Short forms for tests of open files.
import Base
import Files
import Locks
import Memory

extension OpenFile {
  func write(_ bytes: [UInt8]) throws(Errno) -> Int {
    try bytes.withUnsafeBufferPointer { (buffer) throws(Errno) in
      var transfer = Transfer(kernelSource: UnsafeRawBufferPointer(buffer))
      return try write(from: &transfer)
    }
  }

  func read(_ count: Int) throws(Errno) -> [UInt8] {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: max(count, 1), alignment: 8)
    defer { buffer.deallocate() }
    var transfer = Transfer(kernel: UnsafeMutableRawBufferPointer(rebasing: buffer[..<count]))
    let done = try read(into: &transfer)
    return Array(buffer[..<done])
  }

  func writeNumber(_ number: UInt64) throws(Errno) -> Int {
    try write(withUnsafeBytes(of: number) { Array($0) })
  }

  func readNumber() throws(Errno) -> UInt64 {
    try read(8).withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
  }
}

/// Lets a value into a closure that runs on another thread.
struct Shared<T>: @unchecked Sendable { let value: T }

extension Poll {
  /// Waits for requests of an array.
  static func wait(_ requests: inout [PollRequest], until deadline: Deadline) throws(Errno) -> Int {
    var all = try PollRequests(capacity: requests.count)
    for request in requests { all.append(request) }
    let ready = try wait(all, until: deadline)
    for index in 0..<requests.count { requests[index] = all[index] }
    return ready
  }
}

extension EpollFile {
  /// Waits for reports and gives them as an array.
  func wait(limit: Int, until deadline: Deadline) throws(Errno) -> [EpollEvent] {
    let events = UnsafeMutableBufferPointer<EpollEvent>.allocate(capacity: limit)
    defer { events.deallocate() }
    return Array(events[..<(try wait(events, until: deadline))])
  }
}
