// A connection: what has come is carried out command by command, the answers are sent together.
//
// While answers wait for room nothing more is read, so a client that does not read holds no more than `outputLimit` and a value. What all clients hold
// together is bounded: who would take more is told so and closed.
import GuestAPI

final class Client {
  let connection: Connection
  /// What the poller waits for.
  var interest = Poller.Interest.reading
  let cache: Cache
  let counters: Counters
  let own: UnsafeMutablePointer<Counters.One>
  private let buffers: Buffers
  private var accounted = 0
  var input = ByteQueue()
  var output = ByteQueue()
  /// Bytes of a value that was too large, to be passed over.
  var skipped = 0
  /// Set while the rest of a line of `get` (with versions or not) is still to be answered.
  var resumed: Bool?
  var isOver = false

  /// A command line is no longer than that.
  private static let lineLimit = 16_384
  /// Answers of so many bytes are sent before the next command, or the next key of one, is carried out.
  static let outputLimit = 65_536
  /// How often one reads, or sends answers, before the others have their turn.
  private static let share = 16
  /// Whether it has had its turn and has more to do.
  var isPending = false

  init(
    _ connection: consuming Connection, cache: Cache, counters: Counters, own: UnsafeMutablePointer<Counters.One>,
    buffers: Buffers
  ) {
    self.connection = connection
    self.cache = cache
    self.counters = counters
    self.own = own
    self.buffers = buffers
    account()
  }

  deinit { buffers.used -= accounted }

  /// Does what can be done now, within its share; `isPending` says whether there is more. What is to be waited for; nil: the connection is at its end.
  func serve() -> Poller.Interest? {
    isPending = false
    do throws(Errno) {
      for _ in 0..<Self.share {
        guard try send() else { return .writing }
        if isOver { return nil }
        if carryOut() {
          if !account() {
            output.append("SERVER_ERROR out of memory for connections\r\n")
            isOver = true
          }
          continue
        }
        guard let count = try connection.read(into: buffers.incoming) else { return .reading }
        if count == 0 { return nil }
        input.append(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffers.incoming)[..<count]))
        if !account() { return nil }
      }
      isPending = true
      return .reading
    } catch { return nil }
  }

  /// Counts what its queues take; false if all connections together take too much.
  @discardableResult private func account() -> Bool {
    let now = input.capacity + output.capacity
    buffers.used += now - accounted
    accounted = now
    return buffers.used <= buffers.limit || now <= 2 * ByteQueue.usualCapacity
  }

  /// Sends the answers; false if some wait for room.
  private func send() throws(Errno) -> Bool {
    while output.count > 0 {
      guard let count = try connection.write(output.bytes) else { return false }
      output.remove(count)
    }
    return true
  }

  /// Carries out what is complete, until there are answers enough. False if nothing was.
  private func carryOut() -> Bool {
    var hasWorked = false
    while output.count < Self.outputLimit, !isOver {
      if skipped > 0 {
        let count = min(skipped, input.count)
        input.remove(count)
        skipped -= count
        if skipped > 0 { return hasWorked }
      }
      let bytes = input.bytes
      let found = bytes.prefix(Self.lineLimit).firstIndex(of: 0x0a)
      guard let end = found else {
        guard bytes.count >= Self.lineLimit else { return hasWorked }
        output.append("ERROR line too long\r\n")
        isOver = true
        return true
      }
      let length = end > 0 && bytes[end - 1] == 0x0d ? end - 1 : end
      let words = Words(UnsafeRawBufferPointer(rebasing: bytes[..<length]))
      let taken =
        resumed.map { goOn(withVersion: $0, words, following: end + 1) } ?? perform(words, following: end + 1)
      guard let used = taken else { return hasWorked }
      input.remove(used)
      hasWorked = true
    }
    return hasWorked
  }
}

/// The words of a line, between spaces.
struct Words {
  private let line: UnsafeRawBufferPointer
  private var at = 0

  init(_ line: UnsafeRawBufferPointer) { self.line = line }

  mutating func next() -> UnsafeRawBufferPointer? {
    while at < line.count, line[at] == 0x20 { at += 1 }
    guard at < line.count else { return nil }
    let start = at
    while at < line.count, line[at] != 0x20 { at += 1 }
    return UnsafeRawBufferPointer(rebasing: line[start..<at])
  }

  /// A decimal number; nil if the next word is none.
  mutating func number() -> UInt64? { next().flatMap(Words.number) }

  /// A number of seconds, which may be negative.
  mutating func seconds() -> Int? {
    guard let word = next() else { return nil }
    let isNegative = word[0] == UInt8(ascii: "-")
    let digits = isNegative ? UnsafeRawBufferPointer(rebasing: word[1...]) : word
    guard let value = Words.number(digits), value <= UInt64(Int32.max) else { return nil }
    return isNegative ? -Int(value) : Int(value)
  }

  static func number(_ word: UnsafeRawBufferPointer) -> UInt64? {
    guard word.count > 0, word.count <= 20 else { return nil }
    var value: UInt64 = 0
    for byte in word {
      guard byte >= 0x30, byte <= 0x39 else { return nil }
      let (product, isTooLarge) = value.multipliedReportingOverflow(by: 10)
      let (sum, isLarger) = product.addingReportingOverflow(UInt64(byte - 0x30))
      if isTooLarge || isLarger { return nil }
      value = sum
    }
    return value
  }
}

/// Whether a word is that text.
func == (_ word: UnsafeRawBufferPointer, _ text: StaticString) -> Bool {
  word.elementsEqual(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
}
