// A thread of the server: waits for its listener and its connections, and lets each have its turn.
import GuestAPI

/// What `stats` tells beside the items: each thread counts for itself.
final class Counters {
  struct One {
    var connections = 0
    var accepted = 0
    var gets = 0
    var hits = 0
    var sets = 0
  }

  let start = Int(Clock.wall / 1_000_000_000)
  let threads: Int
  private let counts: UnsafeMutableBufferPointer<One>
  private var given = 0

  init(threads: Int) {
    self.threads = threads
    counts = .allocate(capacity: threads)
    counts.initialize(repeating: One())
  }

  /// A thread's own. Called before the threads start.
  func next() -> UnsafeMutablePointer<One> {
    given += 1
    return counts.baseAddress! + (given - 1)
  }

  /// All together, which may be a little behind.
  var sum: One {
    counts.reduce(into: One()) { sum, one in
      sum.connections += one.connections
      sum.accepted += one.accepted
      sum.gets += one.gets
      sum.hits += one.hits
      sum.sets += one.sets
    }
  }
}

// SAFETY: used by one thread after `init`.
final class Server: @unchecked Sendable {
  private let listener: Listener
  private let poller: Poller
  private let cache: Cache
  private let counters: Counters
  private let own: UnsafeMutablePointer<Counters.One>
  private let buffers: Buffers
  /// Whether nobody is accepted until somebody goes: there are no descriptors, or no memory.
  private var isFull = false
  private var clients: [Client?] = []
  /// Clients that have more to do than their turn has allowed.
  private var pending: [Int] = []
  private var free: [Int] = []
  private static let listenerToken = -1
  /// Connections that are accepted in one turn.
  private static let acceptShare = 64

  init(port: UInt16, cache: Cache, counters: Counters) throws(Errno) {
    listener = try Listener(port: port)
    poller = try Poller()
    self.cache = cache
    self.counters = counters
    own = counters.next()
    buffers = Buffers(limit: max(4 << 20, cache.byteLimit / 4 / counters.threads))
    try poller.add(listener, token: Self.listenerToken)
  }

  /// Serves for ever.
  func run() {
    while true {
      do throws(Errno) {
        try poller.wait(milliseconds: pending.isEmpty ? nil : 0) { event in
          if event.token == Self.listenerToken { accept() } else { serve(event.token) }
        }
      } catch {
        printError("kvcache: waiting for connections failed: \(error.message)")
        exit(1)
      }
      let turn = pending
      pending.removeAll(keepingCapacity: true)
      for token in turn where clients[token]?.isPending == true { serve(token) }
    }
  }

  private func accept() {
    for _ in 0..<Self.acceptShare {
      do throws(Errno) {
        guard let connection = try listener.accept() else { return }
        let token = free.last ?? clients.count
        try poller.add(connection, token: token)
        if token == clients.count { clients.append(nil) } else { free.removeLast() }
        clients[token] = Client(connection, cache: cache, counters: counters, own: own, buffers: buffers)
        own.pointee.connections += 1
        own.pointee.accepted += 1
      } catch {
        // Connections wait until somebody goes.
        isFull = (try? poller.change(listener, to: [], token: Self.listenerToken)) != nil
        return
      }
    }
  }

  private func serve(_ token: Int) {
    guard let client = clients[token] else { return }
    let wanted = client.serve()
    if let wanted {
      if client.isPending { pending.append(token) }
      guard wanted != client.interest else { return }
      client.interest = wanted
      if (try? poller.change(client.connection, to: wanted, token: token)) != nil { return }
    }
    // The connection is closed with its client.
    clients[token] = nil
    free.append(token)
    own.pointee.connections -= 1
    if isFull { isFull = (try? poller.change(listener, to: .reading, token: Self.listenerToken)) == nil }
  }
}

/// What a thread's connections share.
final class Buffers {
  /// Bytes that their queues take, and may.
  var used = 0
  let limit: Int
  /// What has been read last; used until the next read.
  let incoming = UnsafeMutableRawBufferPointer.allocate(byteCount: 65_536, alignment: 16)

  init(limit: Int) { self.limit = limit }
}

/// Bytes that come in at the end and go at the beginning.
struct ByteQueue: ~Copyable {
  static let usualCapacity = 2048
  /// A queue that was larger than that becomes usual again when it is empty.
  private static let keptCapacity = 16_384

  private var memory: UnsafeMutableRawBufferPointer
  private var start = 0
  private var end = 0

  init(capacity: Int = ByteQueue.usualCapacity) { memory = .allocate(byteCount: capacity, alignment: 16) }

  deinit { memory.deallocate() }

  var capacity: Int { memory.count }
  var count: Int { end - start }
  /// What is in it. Valid until the queue is changed.
  var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: memory[start..<end]) }

  /// Room for at least so many bytes at the end.
  private mutating func room(_ byteCount: Int) -> UnsafeMutableRawBufferPointer {
    if memory.count - end < byteCount {
      if start > 0 { memory.copyMemory(from: bytes) }
      (start, end) = (0, count)
      if memory.count - end < byteCount {
        var capacity = memory.count
        while capacity - end < byteCount { capacity *= 2 }
        let larger = UnsafeMutableRawBufferPointer.allocate(byteCount: capacity, alignment: 16)
        larger.copyMemory(from: bytes)
        memory.deallocate()
        memory = larger
      }
    }
    return UnsafeMutableRawBufferPointer(rebasing: memory[end...])
  }

  mutating func remove(_ byteCount: Int) {
    start += byteCount
    guard start == end else { return }
    (start, end) = (0, 0)
    if memory.count > Self.keptCapacity {
      memory.deallocate()
      memory = .allocate(byteCount: Self.usualCapacity, alignment: 16)
    }
  }

  mutating func append(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count > 0 else { return }
    room(bytes.count).copyMemory(from: bytes)
    end += bytes.count
  }

  mutating func append(_ text: StaticString) {
    append(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }

  mutating func append(_ number: UInt64) {
    var digits: [20 of UInt8] = .init(repeating: 0)
    var at = 20
    var rest = number
    repeat {
      at -= 1
      digits[at] = UInt8(ascii: "0") + UInt8(rest % 10)
      rest /= 10
    } while rest > 0
    withUnsafeBytes(of: &digits) { append(UnsafeRawBufferPointer(rebasing: $0[at...])) }
  }
}
