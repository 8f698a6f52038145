// TCP for Swift programs: listeners, connections, and waiting for many of them.
//
// Each operation is a call of the kernel's function for it. A listener takes connections of both families; several listeners of one port share
// what comes, so that each thread of a server can have its own. A connection belongs to one value: it is closed when that goes away.
import Base

private enum SocketABI {
  static let internet6 = 10
  static let stream = 1
  static let nonBlocking = 0o4000
  static let closeOnExec = 0o2000000
  static let socketLevel = 1
  static let reuseAddress = 2
  static let reusePort = 15
  static let tcpLevel = 6
  static let noDelay = 1
  static let noSignal = 0x4000
  /// sockaddr_in6.
  static let addressByteCount = 28
}

/// A listening TCP socket.
public struct Listener: ~Copyable {
  let descriptor: Int

  /// Listens at a port of all addresses, IPv4 and IPv6. Other listeners of this program at the same port share what comes.
  /// - Parameters:
  ///   - port: 1 to 65,535; 0: one that is free.
  ///   - backlog: connections that may wait to be accepted.
  /// - Throws: EADDRINUSE, EAFNOSUPPORT (a machine without network)…
  public init(port: UInt16, backlog: Int = 4096) throws(Errno) {
    let socket = try checked(
      call(Call.socket, SocketABI.internet6, SocketABI.stream | SocketABI.nonBlocking | SocketABI.closeOnExec, 0))
    do throws(Errno) { try Self.listen(socket, port, backlog) } catch {
      _ = call(Call.close, socket)
      throw error
    }
    descriptor = socket
  }

  private static func listen(_ socket: Int, _ port: UInt16, _ backlog: Int) throws(Errno) {
    try setOption(socket, SocketABI.socketLevel, SocketABI.reuseAddress, 1)
    try setOption(socket, SocketABI.socketLevel, SocketABI.reusePort, 1)
    var address: [28 of UInt8] = .init(repeating: 0)
    address[0] = UInt8(truncatingIfNeeded: SocketABI.internet6)
    address[2] = UInt8(truncatingIfNeeded: port >> 8)
    address[3] = UInt8(truncatingIfNeeded: port)
    let bound = withUnsafeBytes(of: &address) {
      call(Call.bind, socket, argument($0.baseAddress), SocketABI.addressByteCount)
    }
    _ = try checked(bound)
    _ = try checked(call(Call.listen, socket, backlog))
  }

  deinit { _ = call(Call.close, descriptor) }

  /// The port that it listens at.
  public borrowing func port() throws(Errno) -> UInt16 {
    var address: [28 of UInt8] = .init(repeating: 0)
    var byteCount = UInt32(truncatingIfNeeded: SocketABI.addressByteCount)
    let result = withUnsafeMutableBytes(of: &address) { bytes in
      withUnsafeMutablePointer(to: &byteCount) {
        call(Call.getsockname, descriptor, argument(bytes.baseAddress), argument($0))
      }
    }
    _ = try checked(result)
    return UInt16(address[2]) << 8 | UInt16(address[3])
  }

  /// The next connection that waits, nil if none does (a `Poller` waits for one). What is written to it goes out at once (TCP_NODELAY).
  /// - Throws: EMFILE, ENFILE, ENOMEM: the connection waits on.
  public borrowing func accept() throws(Errno) -> Connection? {
    let result = call(
      Call.accept4, descriptor, 0, 0, SocketABI.nonBlocking | SocketABI.closeOnExec)
    do throws(Errno) {
      let connection = Connection(descriptor: try checked(result))
      // It cannot fail but for a connection that has gone, which reading tells.
      try? setOption(connection.descriptor, SocketABI.tcpLevel, SocketABI.noDelay, 1)
      return connection
    } catch {
      // One that has gone again is none.
      guard error == .EAGAIN || error == .EINTR || error == .ECONNABORTED else { throw error }
      return nil
    }
  }
}

/// A TCP connection. Nothing here waits.
public struct Connection: ~Copyable {
  let descriptor: Int

  deinit { _ = call(Call.close, descriptor) }

  /// Reads what has come into `buffer`: bytes read; 0: the other side will send no more; nil: nothing is there.
  /// - Throws: ECONNRESET, ETIMEDOUT…: the connection is gone.
  public borrowing func read(into buffer: UnsafeMutableRawBufferPointer) throws(Errno) -> Int? {
    try optional(call(Call.recvfrom, descriptor, argument(buffer.baseAddress), buffer.count, 0, 0, 0))
  }

  /// Gives bytes to the connection to be sent: how many it has taken, fewer than all where its buffer is full, nil: none.
  /// - Throws: ECONNRESET, EPIPE…: the connection is gone.
  public borrowing func write(_ bytes: UnsafeRawBufferPointer) throws(Errno) -> Int? {
    try optional(
      call(Call.sendto, descriptor, argument(bytes.baseAddress), bytes.count, SocketABI.noSignal, 0, 0))
  }

  /// Ends what is sent; what the other side sends can still be read.
  public borrowing func finishWriting() { _ = call(Call.shutdown, descriptor, 1) }

  private borrowing func optional(_ result: Int) throws(Errno) -> Int? {
    do throws(Errno) { return try checked(result) } catch {
      guard error == .EAGAIN || error == .EINTR else { throw error }
      return nil
    }
  }
}

private func setOption(_ descriptor: Int, _ level: Int, _ name: Int, _ value: Int32) throws(Errno) {
  var value = value
  let result = withUnsafeBytes(of: &value) {
    call(Call.setsockopt, descriptor, level, name, argument($0.baseAddress), $0.count)
  }
  _ = try checked(result)
}

/// Waits for any of many listeners and connections (epoll, level-triggered).
public struct Poller: ~Copyable {
  /// What to wait for.
  public struct Interest: OptionSet, Sendable {
    /// epoll's bits.
    public let rawValue: UInt32
    /// Those bits.
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    /// Something to be read or accepted, or the end of it.
    public static let reading = Interest(rawValue: 1)
    /// Room for something to be written.
    public static let writing = Interest(rawValue: 4)
  }

  /// What has been waited for.
  public struct Event {
    /// The number that was given with the interest.
    public var token: Int
    /// What is so: of what was asked for, or both if the connection is gone, for reading tells why.
    public var ready: Interest
  }

  /// struct epoll_event of Linux for x86-64 is packed: four bytes of events and eight of data.
  private static let eventByteCount = 12
  private static let isGone: UInt32 = 8 | 16

  private let descriptor: Int
  private let capacity: Int
  private let events: UnsafeMutableRawPointer

  /// A poller of nothing yet.
  /// - Parameter capacity: most events that one wait tells.
  /// - Throws: EMFILE, ENOMEM.
  public init(capacity: Int = 256) throws(Errno) {
    descriptor = try checked(call(Call.epollCreate1, SocketABI.closeOnExec))
    self.capacity = capacity
    // SAFETY: freed by `deinit`; the kernel writes at most `capacity` events of that size.
    events = .allocate(byteCount: capacity &* Self.eventByteCount, alignment: 8)
  }

  deinit {
    _ = call(Call.close, descriptor)
    events.deallocate()
  }

  /// Waits for a listener, too.
  /// - Parameter token: a number that its events have.
  public borrowing func add(_ listener: borrowing Listener, token: Int) throws(Errno) {
    try control(1, listener.descriptor, .reading, token)
  }

  /// Waits for something else of a listener from now on: for nothing (`[]`), while nobody can be taken.
  public borrowing func change(_ listener: borrowing Listener, to interest: Interest, token: Int) throws(Errno) {
    try control(3, listener.descriptor, interest, token)
  }

  /// Waits for a connection, too, until it is closed.
  public borrowing func add(
    _ connection: borrowing Connection, for interest: Interest = .reading, token: Int
  ) throws(Errno) { try control(1, connection.descriptor, interest, token) }

  /// Waits for something else of a connection from now on.
  public borrowing func change(
    _ connection: borrowing Connection, to interest: Interest, token: Int
  ) throws(Errno) { try control(3, connection.descriptor, interest, token) }

  private borrowing func control(_ operation: Int, _ subject: Int, _ interest: Interest, _ token: Int) throws(Errno) {
    // SAFETY: an event fits, and nobody else uses the memory meanwhile: the poller is one thread's.
    events.storeBytes(of: interest.rawValue, as: UInt32.self)
    events.storeBytes(of: token, toByteOffset: 4, as: Int.self)
    _ = try checked(call(Call.epollControl, descriptor, operation, subject, argument(events)))
  }

  /// Waits until something is ready, and tells what, one by one.
  /// - Parameter milliseconds: how long at most; nil: for ever.
  public borrowing func wait(milliseconds: Int? = nil, _ body: (Event) -> Void) throws(Errno) {
    let result = call(Call.epollWait, descriptor, argument(events), capacity, milliseconds ?? -1)
    let count: Int
    do throws(Errno) { count = try checked(result) } catch {
      guard error == .EINTR else { throw error }
      return
    }
    // `body` may use the poller, whose memory that overwrites: what has come is taken out first.
    withUnsafeTemporaryAllocation(of: Event.self, capacity: max(1, count)) { taken in
      for index in 0..<count {
        // SAFETY: the kernel has written `count` events.
        let event = events + index &* Self.eventByteCount
        let bits = event.loadUnaligned(as: UInt32.self)
        let ready = bits & Self.isGone != 0 ? bits | 5 : bits
        taken.initializeElement(
          at: index,
          to: Event(token: (event + 4).loadUnaligned(as: Int.self), ready: Interest(rawValue: ready & 5)))
      }
      for index in 0..<count { body(taken[index]) }
    }
  }
}
