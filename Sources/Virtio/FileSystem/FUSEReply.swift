// Where a reply goes: the guest's buffers, as a list of ranges of its memory.
//
// Rules: the ranges were checked by the queue and stay mapped; they are only written, never read, and every write is bounded by their total.
// The out-header's place (16 bytes) is skipped and filled in last.
import CSystemCalls
import Glibc
import VirtioABI

/// Writes one reply, front to back.
struct FUSEReply {
  /// Bytes of the out-header.
  static let headerByteCount = MemoryLayout<FUSEOutHeader>.size

  private let vectors: UnsafeBufferPointer<iovec>
  /// Bytes of all ranges.
  let capacity: Int
  /// Bytes written so far; starts behind the header.
  private(set) var count = FUSEReply.headerByteCount
  private var vector = 0
  private var offset = 0

  /// A reply into these ranges.
  init(_ vectors: UnsafeBufferPointer<iovec>) {
    self.vectors = vectors
    var total = 0
    for vector in vectors { total = total.addingReportingOverflow(Int(vector.iov_len)).partialValue }
    capacity = total
    skip(Self.headerByteCount)
  }

  /// Bytes that may still be written; 0 where not even the header fits.
  var room: Int { capacity > count ? capacity - count : 0 }

  /// Appends bytes; they must fit.
  mutating func append(_ bytes: UnsafeRawBufferPointer) {
    precondition(bytes.count <= room)
    count += bytes.count
    var source = bytes
    while source.count > 0 {
      let range = vectors[vector]
      let chunk = min(Int(range.iov_len) - offset, source.count)
      if chunk > 0 {
        // SAFETY: within the range, whose bounds the queue has checked, and within the source.
        (range.iov_base + offset).copyMemory(from: source.baseAddress!, byteCount: chunk)
        source = UnsafeRawBufferPointer(rebasing: source[chunk...])
      }
      advance(chunk)
    }
  }

  /// Appends a structure, or throws EINVAL where the guest gave too little room for it.
  mutating func append<Value: BitwiseCopyable>(_ value: Value) throws(HostError) {
    guard MemoryLayout<Value>.size <= room else { throw .invalid }
    withUnsafeBytes(of: value) { append($0) }
  }

  /// Appends up to 7 zero bytes; they must fit.
  mutating func pad(by byteCount: Int) {
    withUnsafeBytes(of: UInt64(0)) { append(UnsafeRawBufferPointer(rebasing: $0[..<byteCount])) }
  }

  /// Reads up to `limit` bytes at `position` of a file straight into the guest's memory; gives how many came before the file's end.
  mutating func read(_ file: OpenDescriptor, limit: Int, position: UInt64) throws(HostError) {
    guard limit <= room else { throw .invalid }
    guard position <= UInt64(Int64.max) - UInt64(limit) else { throw .invalid }
    var left = limit
    var position = Int64(position)
    while left > 0 {
      let wanted = left
      let got = try withUnsafeTemporaryAllocation(of: iovec.self, capacity: 512) { (list) throws(HostError) -> Int in
        var used = 0
        var total = 0
        var index = vector
        var start = offset
        while index < vectors.count, used < list.count, total < wanted {
          let length = min(Int(vectors[index].iov_len) - start, wanted - total)
          if length > 0 {
            list[used] = iovec(iov_base: vectors[index].iov_base + start, iov_len: length)
            used += 1
            total += length
          }
          index += 1
          start = 0
        }
        var result = osv_preadv(file.raw, list.baseAddress, Int32(used), position)
        while result == -Int(EINTR) { result = osv_preadv(file.raw, list.baseAddress, Int32(used), position) }
        return try HostError.check(result)
      }
      if got == 0 { return }
      skip(got)
      count += got
      left -= got
      position += Int64(got)
    }
  }

  /// Ends the reply: fills the header in and gives the reply's length, 0 where not even the header fits.
  /// An error's reply is the header alone.
  mutating func finish(unique: UInt64, error: Int32) -> Int {
    guard capacity >= Self.headerByteCount else { return 0 }
    if error != 0 { count = Self.headerByteCount }
    var header = FUSEOutHeader()
    header.length = UInt32(truncatingIfNeeded: count)
    header.error = 0 - error
    header.unique = unique
    let total = count
    vector = 0
    offset = 0
    count = 0
    withUnsafeBytes(of: header) { append($0) }
    count = total
    return total
  }

  private mutating func skip(_ byteCount: Int) {
    var left = byteCount
    while left > 0, vector < vectors.count {
      let chunk = min(Int(vectors[vector].iov_len) - offset, left)
      left -= chunk
      advance(chunk)
    }
  }

  private mutating func advance(_ byteCount: Int) {
    offset += byteCount
    while vector < vectors.count, offset >= Int(vectors[vector].iov_len) {
      vector += 1
      offset = 0
    }
  }
}

/// Reads one request, front to back. The bytes are the server's own copy: the guest cannot change them any more. What a WRITE carries
/// stays where the guest has it.
struct FUSERequest {
  /// The in-header.
  let header: FUSEInHeader
  /// What follows the bytes, as far as the request's length goes.
  let payload: FUSEPayload
  private var rest: UnsafeRawBufferPointer

  /// Takes the header off; nil where the bytes are too few for it or for the length it names.
  init?(_ bytes: UnsafeRawBufferPointer, _ payload: FUSEPayload) {
    guard bytes.count >= MemoryLayout<FUSEInHeader>.size else { return nil }
    header = bytes.loadUnaligned(as: FUSEInHeader.self)
    let length = Int(header.length)
    let extensions = Int(header.extensionLength) * 8
    guard length <= bytes.count + payload.count, length >= MemoryLayout<FUSEInHeader>.size + extensions else {
      return nil
    }
    let end = length - extensions
    rest = UnsafeRawBufferPointer(rebasing: bytes[MemoryLayout<FUSEInHeader>.size..<min(end, bytes.count)])
    self.payload = FUSEPayload(payload.vectors, skip: payload.skip, count: max(0, end - bytes.count))
  }

  /// Bytes left.
  var count: Int { rest.count }

  /// The next structure, or EINVAL where the request is too short for it.
  mutating func take<Value: BitwiseCopyable>(_ type: Value.Type) throws(HostError) -> Value {
    guard rest.count >= MemoryLayout<Value>.size else { throw .invalid }
    let value = rest.loadUnaligned(as: type)
    rest = UnsafeRawBufferPointer(rebasing: rest[MemoryLayout<Value>.size...])
    return value
  }

  /// The next bytes, or EINVAL where there are not so many.
  mutating func takeBytes(_ count: Int) throws(HostError) -> UnsafeRawBufferPointer {
    guard rest.count >= count else { throw .invalid }
    defer { rest = UnsafeRawBufferPointer(rebasing: rest[count...]) }
    return UnsafeRawBufferPointer(rebasing: rest[..<count])
  }

  /// The next string up to its NUL (not included), or EINVAL where there is none.
  mutating func takeString() throws(HostError) -> UnsafeRawBufferPointer {
    guard let end = rest.firstIndex(of: 0) else { throw .invalid }
    let string = UnsafeRawBufferPointer(rebasing: rest[..<end])
    rest = UnsafeRawBufferPointer(rebasing: rest[(end + 1)...])
    return string
  }
}
