// What a WRITE carries: ranges of the guest's memory that only the host's kernel reads, once, on their way to the file.
import CSystemCalls
import Glibc

/// The data of a request.
public struct FUSEPayload {
  let vectors: UnsafeBufferPointer<iovec>
  /// Bytes of the ranges that come before the data.
  let skip: Int
  /// Bytes of the data.
  let count: Int

  /// The bytes of `vectors` from `skip` on, `count` of them. Every range must be readable for its whole length and stay so.
  public init(_ vectors: UnsafeBufferPointer<iovec>, skip: Int, count: Int) {
    self.vectors = vectors
    self.skip = skip
    self.count = count
  }

  /// No data.
  static var none: FUSEPayload { FUSEPayload(UnsafeBufferPointer(start: nil, count: 0), skip: 0, count: 0) }

  /// Writes the first `limit` bytes (at most `count`) to a file.
  /// - Returns: Bytes written: fewer only after an error (which the next write will meet) or where the ranges end.
  func write(to file: OpenDescriptor, limit: Int, position: UInt64) throws(HostError) -> Int {
    var done = 0
    var range = 0
    var start = skip
    while done < limit {
      let result = withUnsafeTemporaryAllocation(of: iovec.self, capacity: 512) { list -> Int in
        var used = 0
        var total = 0
        var index = range
        var from = start
        while index < vectors.count, used < list.count, total < limit - done {
          let length = Int(vectors[index].iov_len)
          let count = min(length - from, limit - done - total)
          if count > 0 {
            list[used] = iovec(iov_base: vectors[index].iov_base + from, iov_len: count)
            used += 1
            total += count
          }
          from = max(0, from - length)
          index += 1
        }
        guard total > 0 else { return 0 }
        let place = Int64(bitPattern: position &+ UInt64(done))
        var result = osv_pwritev(file.raw, list.baseAddress, Int32(used), place)
        while result == -Int(EINTR) { result = osv_pwritev(file.raw, list.baseAddress, Int32(used), place) }
        return result
      }
      if result <= 0 {
        if done > 0 || result == 0 { return done }
        throw HostError(code: Int32(truncatingIfNeeded: 0 &- result))
      }
      done += result
      // On in the ranges by what went.
      start += result
      while range < vectors.count, start >= Int(vectors[range].iov_len) {
        start -= Int(vectors[range].iov_len)
        range += 1
      }
    }
    return done
  }
}
