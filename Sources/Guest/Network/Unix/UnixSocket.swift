// UnixSocket: AF_UNIX: sockets between the threads and processes of one machine.
//
// What is sent becomes a message in the receiver's queue; the sender pays for it until it has been received (`SendAccount`). A connection
// is two sockets that know each other. One that connects to a listening socket makes the other end itself and puts it into that
// one's backlog.
//
// Locks: `lock` of a socket guards its state and its queue; that of the table of names is taken before it. Of two sockets' locks only that of
// a listening socket is taken under another one, of a socket that connects. Nothing else is taken under them, and no message, socket or file
// that could be the last of its kind is let go under them.
//
// Connected sockets keep each other until one is closed. Sockets that lie in each other's queues and that nobody has a descriptor
// of stay for ever.
import Base
import Files
import Locks
import Memory

/// A socket of the family AF_UNIX.
public final class UnixSocket: Socket {
  /// fs.unix.max_dgram_qlen, and net.core.somaxconn.
  static let maximumDatagrams = 10
  static let maximumBacklog = 4096

  /// What shutdown, and the other end, have ended.
  struct Ended {
    var receiving = false
    var sending = false
    /// A connection that the other end has closed.
    var isAbandoned = false
  }

  let lock = Mutex()
  /// Keeps receivers of a stream apart while they copy; taken before `lock`, and like the position of a file held over program memory.
  let receiving = Mutex()
  private(set) lazy var account = SendAccount(source)
  // Guarded by the table of names.
  var nextNamed: UnixSocket?
  // Guarded by `lock`.
  private(set) var name: SocketAddress?
  private(set) var place: Location?
  var peer: UnixSocket?
  var queue = UnixMessageQueue()
  var ended = Ended()
  var error: Errno?
  private var backlog: [UnixSocket] = []
  private var backlogLimit: Int?
  private var credentialsOfPeer = SocketCredentials(process: 0, user: .max, group: .max)
  private var credentialsOfListener: SocketCredentials?
  private(set) var isClosed = false

  /// A socket.
  public init(kind: SocketKind, flags: OpenFlags) {
    super.init(family: 1, kind: kind, flags: flags)
    _ = account
  }

  /// Two that are connected.
  public static func pair(kind: SocketKind, flags: OpenFlags, _ caller: SocketCaller) -> (UnixSocket, UnixSocket) {
    let (one, two) = (UnixSocket(kind: kind, flags: flags), UnixSocket(kind: kind, flags: flags))
    (one.peer, two.peer) = (two, one)
    (one.credentialsOfPeer, two.credentialsOfPeer) = (caller.credentials, caller.credentials)
    return (one, two)
  }

  /// What /proc/net/unix tells of it. Abstract names are written with "@" for each NUL.
  public var status: (isListening: Bool, isConnected: Bool, name: [UInt8]) {
    lock.lock()
    let (isListening, isConnected, address) = (backlogLimit != nil, peer != nil, name)
    lock.unlock()
    var text: [UInt8] = []
    if let bytes = address?.bytes, bytes.count > 2 {
      let isAbstract = bytes[2] == 0
      for index in 2..<bytes.count where isAbstract || bytes[index] != 0 {
        text.append(bytes[index] == 0 ? 0x40 : bytes[index])
      }
    }
    return (isListening, isConnected, text)
  }

  private var isConnectionBased: Bool { kind != .datagram }

  public override var hasPeekOffset: Bool { true }

  // MARK: Names

  /// Called by the table of names.
  func named(_ address: SocketAddress, _ place: Location?) {
    lock.withLock { (name, self.place) = (address, place) }
  }

  public override func bind(_ address: SocketAddress, _ caller: SocketCaller) throws(Errno) {
    let wanted = try UnixNames.name(address)
    if case .none = wanted {
      if lock.withLock({ name }) == nil { UnixNames.enterAutomatically(self) }
      return
    }
    guard lock.withLock({ name }) == nil else {
      // A name that is taken is said first.
      if case .path(let path) = wanted {
        let isTaken = path.withPath { path in
          (try? caller.context.find(path, from: caller.context.workingDirectory, caller.rights)) != nil
        }
        if isTaken { throw .EADDRINUSE }
      }
      throw .EINVAL
    }
    guard case .path(let path) = wanted else {
      guard UnixNames.enter(self, abstract: address) else { throw .EADDRINUSE }
      return
    }
    let place = try path.withPath { (path) throws(Errno) -> Location in
      do throws(Errno) {
        try caller.context.makeNode(
          path, from: caller.context.workingDirectory, type: .socket, mode: 0o777, caller.rights)
      } catch {
        throw error == .EEXIST ? .EADDRINUSE : error
      }
      return try caller.context.find(path, from: caller.context.workingDirectory, flags: .noFollow, caller.rights)
    }
    UnixNames.enter(self, UnixNames.address(path), at: place)
  }

  public override func address() throws(Errno) -> SocketAddress { lock.withLock { name } ?? UnixNames.unnamed }

  public override func peerAddress() throws(Errno) -> SocketAddress {
    guard let peer = lock.withLock({ peer }) else { throw .ENOTCONN }
    return try peer.address()
  }

  // MARK: Connections

  public override func listen(backlog: Int, _ caller: SocketCaller) throws(Errno) {
    guard isConnectionBased else { throw .EOPNOTSUPP }
    try lock.withLock { () throws(Errno) in
      guard name != nil, peer == nil else { throw .EINVAL }
      backlogLimit = min(max(backlog, 0), Self.maximumBacklog)
      credentialsOfListener = caller.credentials
    }
    source.notify(.writable)  // Whoever waits to connect may find more room.
  }

  public override var isListening: Bool { lock.withLock { backlogLimit != nil } }

  public override func connect(_ address: SocketAddress, _ caller: SocketCaller) throws(Errno) {
    if address.family == 0, address.bytes.count >= 2, !isConnectionBased { return disconnect() }
    let target = try UnixNames.find(address, kind, caller)
    guard isConnectionBased else {
      let old = lock.withLock { () -> UnixSocket? in
        let old = peer
        peer = target
        return old
      }
      withExtendedLifetime(old) {}
      source.notify(.writable)
      return
    }
    let other = UnixSocket(kind: kind, flags: [])
    let deadline = deadline(sendTimeout, [])
    while true {
      lock.lock()
      guard backlogLimit == nil, peer == nil else {
        let isConnected = peer != nil
        lock.unlock()
        throw isConnected ? .EISCONN : .EINVAL
      }
      let result = target.enter(other, from: self, caller)
      if result == .entered {
        peer = other
        credentialsOfPeer = target.lock.withLock { target.credentialsOfListener } ?? credentialsOfPeer
      }
      lock.unlock()
      switch result {
      case .entered:
        target.source.notify(.readable)
        source.notify(.writable)
        return
      case .refused: throw .ECONNREFUSED
      case .full:
        if deadline == .now { throw .EAGAIN }
        switch target.source.wait(until: deadline, while: { target.isFull }) {
        case .woken: continue
        case .timedOut: throw .EAGAIN
        case .interrupted: throw .EINTR
        }
      }
    }
  }

  private enum Entering { case entered, refused, full }

  /// Puts the other end of a connection into the backlog.
  private func enter(_ other: UnixSocket, from client: UnixSocket, _ caller: SocketCaller) -> Entering {
    lock.withLock {
      guard let backlogLimit, !isClosed, !ended.receiving else { return .refused }
      guard backlog.count <= backlogLimit else { return .full }
      (other.name, other.peer) = (name, client)
      other.credentialsOfPeer = caller.credentials
      backlog.append(other)
      return .entered
    }
  }

  private var isFull: Bool {
    lock.withLock { backlogLimit.map { backlog.count > $0 && !isClosed } ?? false }
  }

  private func disconnect() {
    let old = lock.withLock { () -> UnixSocket? in
      let old = peer
      peer = nil
      return old
    }
    withExtendedLifetime(old) {}
  }

  public override func accept(flags: OpenFlags) throws(Errno) -> Socket {
    guard isConnectionBased else { throw .EOPNOTSUPP }
    let deadline = deadline(receiveTimeout, [])
    while true {
      let (isListening, next, isOver) = lock.withLock { () -> (Bool, UnixSocket?, Bool) in
        (backlogLimit != nil, backlog.isEmpty ? nil : backlog.removeFirst(), ended.receiving)
      }
      if let next {
        next.setFlags(flags.intersection(.nonBlocking))
        source.notify(.writable)
        return next
      }
      guard isListening, !isOver else { throw .EINVAL }
      if deadline == .now { throw .EAGAIN }
      let result = source.wait(until: deadline) {
        lock.withLock { backlog.isEmpty && backlogLimit != nil && !ended.receiving }
      }
      switch result {
      case .woken: continue
      case .timedOut: throw .EAGAIN
      case .interrupted: throw .EINTR
      }
    }
  }

  public override var peerCredentials: SocketCredentials { lock.withLock { credentialsOfPeer } }

  // MARK: Data

  public override func send(_ transfer: inout Transfer, _ message: OutgoingMessage, _ caller: SocketCaller?)
    throws(Errno)
    -> Int
  {
    guard !message.flags.contains(.outOfBand) else { throw .EOPNOTSUPP }
    return kind == .stream
      ? try sendStream(&transfer, message) : try sendMessage(&transfer, message, caller)
  }

  public override func receive(_ transfer: inout Transfer, _ flags: MessageFlags) throws(Errno) -> IncomingMessage {
    guard !flags.contains(.outOfBand) else { throw kind == .stream ? .EINVAL : .EOPNOTSUPP }
    let deadline = deadline(receiveTimeout, flags)
    return kind == .stream
      ? try receiveStream(&transfer, flags, deadline) : try receiveMessage(&transfer, flags, deadline)
  }

  // MARK: Ends

  public override func shutdown(receiving: Bool, sending: Bool) throws(Errno) {
    let other = lock.withLock { () -> UnixSocket? in
      if receiving { ended.receiving = true }
      if sending { ended.sending = true }
      return isConnectionBased ? peer : nil
    }
    if let other {
      other.lock.withLock {
        if sending { other.ended.receiving = true }
        if receiving { other.ended.sending = true }
      }
      other.source.notify([.readable, .writable, .readHangUp, .hangUp])
    }
    source.notify([.readable, .writable, .readHangUp, .hangUp])
  }

  public override func closed() { close(isUnaccepted: false) }

  /// Ends the socket; `isUnaccepted`: it still lay in a backlog.
  private func close(isUnaccepted: Bool) {
    let isNamed = lock.withLock { () -> Bool in
      let isNamed = name != nil
      isClosed = true
      return isNamed
    }
    if isNamed { UnixNames.remove(self) }
    let (other, waiting, hadMessages) = lock.withLock { () -> (UnixSocket?, [UnixSocket], Bool) in
      let result = (peer, backlog, queue.first != nil)
      peer = nil
      backlog = []
      return result
    }
    while true {
      // Messages go one by one and without the lock: files in them may be the last of their kind, and this socket's like.
      let entry = lock.withLock { () -> UnixMessage? in
        let entry = queue.first
        queue.removeFirst()
        return entry
      }
      if entry == nil { break }
    }
    for socket in waiting { socket.close(isUnaccepted: true) }
    if let other, isConnectionBased { other.abandoned(withError: hadMessages || isUnaccepted) }
    source.notify([.readable, .writable, .hangUp, .readHangUp, .error])
  }

  /// The other end of the connection has been closed.
  private func abandoned(withError: Bool) {
    lock.withLock {
      ended = Ended(receiving: true, sending: true, isAbandoned: true)
      if withError { error = .ECONNRESET }
    }
    source.notify([.readable, .writable, .hangUp, .readHangUp, .error])
  }

  public override func takeError() -> Errno? {
    lock.withLock {
      let taken = error
      error = nil
      return taken
    }
  }

  // MARK: Buffers and readiness

  public override var sendBufferByteCount: Int { account.limit.load(ordering: .relaxed) }

  public override func setSendBuffer(_ byteCount: Int32) { account.limit.store(byteCount.int, ordering: .relaxed) }

  public override func control(_ request: UInt32, _ argument: UInt64) throws(Errno) -> Int {
    let count: Int
    switch request {
    case ControlRequest.readableByteCount:
      count = try lock.withLock { () throws(Errno) -> Int in
        guard backlogLimit == nil else { throw .EINVAL }
        guard kind == .stream else { return queue.first?.left ?? 0 }
        return queue.byteCount &- (queue.first?.taken ?? 0)
      }
    case 0x5411: count = account.used.load(ordering: .relaxed)  // SIOCOUTQ
    default:
      // Programs that ask about interfaces use any socket.
      guard request &>> 8 == 0x89, let result = try InterfaceControl(.main).run(request, argument) else {
        throw .ENOTTY
      }
      return result
    }
    try UserSpan.write(count.i32, at: VirtualAddress(argument))
    return 0
  }

  /// Whether it takes no more messages for now; from its own peer it always does.
  func isFullOfDatagrams(from sender: UnixSocket) -> Bool {
    lock.withLock { peer !== sender && queue.count > Self.maximumDatagrams && !isClosed }
  }

  public override var readyMask: ReadyMask {
    let other = kind == .datagram ? lock.withLock { peer } : nil
    let hasRoom = other?.isFullOfDatagrams(from: self) != true
    lock.lock()
    defer { lock.unlock() }
    var result: ReadyMask = []
    if error != nil { result.insert(.error) }
    if ended.receiving && ended.sending { result.insert(.hangUp) }
    if ended.receiving { result.formUnion([.readable, .readHangUp]) }
    if queue.first != nil || !backlog.isEmpty { result.insert(.readable) }
    if backlogLimit == nil, isConnectionBased, peer == nil, !ended.isAbandoned { result.insert(.hangUp) }
    if backlogLimit == nil, account.isWritable, hasRoom { result.insert(.writable) }
    return result
  }
}
