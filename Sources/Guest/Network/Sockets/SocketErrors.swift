// SocketErrors: what has gone wrong with a socket and has not been told yet: the one error that the next call gives (SO_ERROR), and,
// for programs that want to know more, a queue of errors with what they are about (IP_RECVERR, MSG_ERRQUEUE).
//
// An object of its own that the socket and its flow share: errors arrive while the socket may be closing. The lock is a leaf. The queue is
// bounded: what does not fit is not told but as `pending`.
import Base
import Files
import Locks
import Pages

/// Errors of a socket.
public final class SocketErrors {
  /// An error with what it is about; the bytes of the packet follow it in memory.
  private struct Entry {
    var next: UnsafeMutablePointer<Entry>?
    var report: ErrorReport
    var byteCount: Int
  }

  /// Entries that are kept, and the most bytes of a packet of each.
  private static var maximumCount: Int { 64 }
  private static var maximumByteCount: Int { 1280 }

  /// The error that the next call gives; 0: none.
  public let pending = Atomic<Int32>(0)
  /// Whether the program asks for errors about IPv4 (1) and about IPv6 (2).
  let wanted = Atomic<UInt8>(0)
  private let count = Atomic<Int>(0)
  private let source: PollSource
  private let lock = Mutex()
  // Guarded by `lock`.
  private var first: UnsafeMutablePointer<Entry>?
  private var last: UnsafeMutablePointer<Entry>?

  /// None yet; `source` tells of new ones.
  public init(_ source: PollSource) { self.source = source }

  deinit { while let entry = removeFirst() { KernelHeap.free(entry) } }

  /// Whether there is something to tell: what poll calls an error.
  @inline(__always) public var isThere: Bool {
    pending.load(ordering: .acquiring) != 0 || count.load(ordering: .acquiring) != 0
  }

  /// Lets the next call fail. Any context.
  public func set(_ error: Errno) {
    pending.store(error.rawValue, ordering: .releasing)
    source.notify([.error, .readable, .writable])
  }

  /// Whether the program asks for errors about a family.
  @inline(__always) func wants(isV4: Bool) -> Bool { wanted.load(ordering: .relaxed) & (isV4 ? 1 : 2) != 0 }

  /// Takes the error that the next call gives.
  @inline(__always) public func take() -> Errno? {
    pending.load(ordering: .acquiring) == 0 ? nil : Errno(rawValue: pending.exchange(0, ordering: .acquiring))
  }

  /// Fails with the error that is waiting to be told, if there is one.
  @inline(__always) public func check() throws(Errno) { if let error = take() { throw error } }

  // MARK: The queue

  /// Adds an error with the bytes of the packet that it is about. Thread context; the error becomes pending as well, unless it has no number.
  /// - Parameter isQuiet: nothing is made pending.
  public func add(_ report: ErrorReport, about bytes: UnsafeRawBufferPointer, isQuiet: Bool = false) {
    let kept = min(bytes.count, Self.maximumByteCount)
    if count.load(ordering: .relaxed) < Self.maximumCount,
      let memory = KernelHeap.allocate(byteCount: MemoryLayout<Entry>.stride &+ kept)
    {
      // SAFETY: fresh memory of that size; whoever takes the entry out frees it.
      let entry = memory.bindMemory(to: Entry.self, capacity: 1)
      entry.initialize(to: Entry(next: nil, report: report, byteCount: kept))
      if kept > 0 {
        (memory + MemoryLayout<Entry>.stride).copyMemory(from: bytes.baseAddress.unsafelyUnwrapped, byteCount: kept)
      }
      lock.withLock {
        if let last { last.pointee.next = entry } else { first = entry }
        last = entry
        count.wrappingAdd(1, ordering: .releasing)
      }
    }
    if !isQuiet, report.error.number != 0 { pending.store(report.error.number.i32, ordering: .releasing) }
    source.notify([.error, .readable, .writable])
  }

  private func removeFirst() -> UnsafeMutablePointer<Entry>? {
    guard let entry = first else { return nil }
    first = entry.pointee.next
    if first == nil { last = nil }
    count.wrappingSubtract(1, ordering: .releasing)
    return entry
  }

  /// Takes the oldest error out of the queue; the one behind it is pending then, as Linux has it.
  /// - Parameter body: gets it and the bytes of the packet that it is about.
  /// - Throws: EAGAIN: there is none.
  public func takeReport<R>(_ body: (ErrorReport, UnsafeRawBufferPointer) throws(Errno) -> R) throws(Errno) -> R {
    let (taken, next) = lock.withLock { () -> (UnsafeMutablePointer<Entry>?, ExtendedError) in
      let entry = removeFirst()
      return (entry, first?.pointee.report.error ?? ExtendedError())
    }
    guard let taken else { throw .EAGAIN }
    defer { KernelHeap.free(taken) }
    if next.isFromNetwork {
      pending.store(next.number.i32, ordering: .releasing)
    } else if taken.pointee.report.error.isFromNetwork {
      pending.store(0, ordering: .releasing)
    }
    let bytes = UnsafeRawPointer(taken) + MemoryLayout<Entry>.stride
    return try body(taken.pointee.report, UnsafeRawBufferPointer(start: bytes, count: taken.pointee.byteCount))
  }
}

/// An error that a program may ask for.
public struct ErrorReport: BitwiseCopyable, Sendable {
  /// What it is.
  public var error: ExtendedError
  /// Who says so; unspecified: nobody else.
  public var offender: InternetEndpoint
  /// Where the packet that it is about was going.
  public var destination: InternetEndpoint
  /// It is about IPv4.
  public var isV4: Bool

  /// An error.
  public init(_ error: ExtendedError, offender: InternetEndpoint, destination: InternetEndpoint, isV4: Bool) {
    (self.error, self.offender, self.destination, self.isV4) = (error, offender, destination, isV4)
  }

  /// What ICMP says about a packet that was sent to an end.
  init(_ error: InternetError, isV4: Bool, about destination: InternetEndpoint) {
    self.init(
      ExtendedError(
        error.errno, origin: isV4 ? .control4 : .control6, type: error.type, code: error.code,
        information: error.kind == .packetTooBig ? error.mtu.u32 : error.info),
      offender: InternetEndpoint(error.sender), destination: destination, isV4: isV4)
  }
}
