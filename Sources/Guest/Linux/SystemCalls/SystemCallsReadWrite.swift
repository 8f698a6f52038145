// System calls that move bytes: read and write in all their forms, sendfile.
import Base
import Files
import Memory
import Pages

extension SystemCall {
  /// The open file of the first argument.
  func file() throws(Errno) -> OpenFile { try process.descriptors.file(descriptor) }

  func read() throws(Errno) -> Int {
    let file = try file()
    var transfer = Transfer(program: address1, count: Self.byteCount(argument2))
    return try file.read(into: &transfer)
  }

  func write() throws(Errno) -> Int {
    let file = try file()
    var transfer = Transfer(program: address1, count: Self.byteCount(argument2))
    return try written { () throws(Errno) in try file.write(from: &transfer) }
  }

  func pread64() throws(Errno) -> Int {
    guard argument3.i64 >= 0 else { throw .EINVAL }
    let file = try file()
    var transfer = Transfer(program: address1, count: Self.byteCount(argument2))
    return try file.read(at: argument3, into: &transfer)
  }

  func pwrite64() throws(Errno) -> Int {
    guard argument3.i64 >= 0 else { throw .EINVAL }
    let file = try file()
    var transfer = Transfer(program: address1, count: Self.byteCount(argument2))
    return try written { () throws(Errno) in try file.write(at: argument3, from: &transfer) }
  }

  func readv() throws(Errno) -> Int {
    let file = try file()
    var transfer = try vectors()
    return try file.read(into: &transfer)
  }

  func writev() throws(Errno) -> Int {
    let file = try file()
    var transfer = try vectors()
    return try written { () throws(Errno) in try file.write(from: &transfer) }
  }

  func preadv() throws(Errno) -> Int {
    guard argument3.i64 >= 0 else { throw .EINVAL }
    let file = try file()
    var transfer = try vectors()
    return try file.read(at: argument3, into: &transfer)
  }

  func pwritev() throws(Errno) -> Int {
    guard argument3.i64 >= 0 else { throw .EINVAL }
    let file = try file()
    var transfer = try vectors()
    return try written { () throws(Errno) in try file.write(at: argument3, from: &transfer) }
  }

  private func vectors() throws(Errno) -> Transfer {
    guard argument2 <= 1024 else { throw .EINVAL }
    return try Transfer(programVectors: address1, count: argument2.int)
  }

  /// Runs a write; where nobody reads any more, the thread gets SIGPIPE besides the error.
  private func written(_ body: () throws(Errno) -> Int) throws(Errno) -> Int {
    do throws(Errno) { return try body() } catch {
      if error == .EPIPE {
        try? process.send(.pipe, SignalInformation(.pipe, code: SignalInformation.Code.user), to: task)
      }
      throw error
    }
  }

  func lseek() throws(Errno) -> Int {
    guard argument2.i32 >= 0, let origin = SeekOrigin(rawValue: argument2.u32) else { throw .EINVAL }
    return try file().seek(argument1.i64, from: origin).int
  }

  // MARK: From file to file

  /// sendfile(out, in, offset, count): through a buffer of the kernel.
  func sendfile() throws(Errno) -> Int {
    let output = try file()
    let input = try process.descriptors.file(argument1.i32.int)
    var offset: UInt64?
    if !address2.isNull {
      let start = try UserSpan.read(Int64.self, at: address2)
      guard start >= 0 else { throw .EINVAL }
      offset = start.u64
    }
    let count = try copy(from: input, at: &offset, to: output, count: Self.byteCount(argument3))
    if let offset { try UserSpan.write(offset, at: address2) }
    return count
  }

  func copy_file_range() throws(Errno) -> Int { throw .EXDEV }

  private func copy(
    from input: OpenFile, at offset: inout UInt64?, to output: OpenFile, count: Int
  ) throws(Errno) -> Int {
    guard let buffer = CopyBuffer(byteCount: count) else { throw .ENOMEM }
    var done = 0
    while done < count {
      let wanted = min(count &- done, buffer.bytes.count)
      var source = Transfer(kernel: UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<wanted]))
      let got: Int
      do throws(Errno) {
        got = try offset == nil ? input.read(into: &source) : input.read(at: offset.unsafelyUnwrapped, into: &source)
      } catch {
        guard done > 0 else { throw error }
        return done
      }
      if got == 0 { return done }
      var put = 0
      while put < got {
        var target = Transfer(kernel: UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[put..<got]))
        do throws(Errno) {
          put &+= try written { () throws(Errno) in try output.write(from: &target) }
        } catch {
          // What was read and not written goes back to where it came from.
          if offset == nil { _ = try? input.seek((put &- got).i64, from: .current) }
          guard done &+ put > 0 else { throw error }
          if offset != nil { offset = offset.unsafelyUnwrapped &+ put.u64 }
          return done &+ put
        }
      }
      done &+= got
      if offset != nil { offset = offset.unsafelyUnwrapped &+ got.u64 }
      // A pipe or terminal that had less than wanted may have nothing more for now.
      if got < wanted { return done }
    }
    return done
  }
}

/// A kernel buffer for copies between files.
struct CopyBuffer: ~Copyable {
  let bytes: UnsafeMutableRawBufferPointer

  /// What is wanted, up to 64 KiB; nil if memory is out.
  init?(byteCount: Int) {
    let count = max(1, min(byteCount, 65_536))
    guard let memory = KernelHeap.allocate(byteCount: count) else { return nil }
    bytes = UnsafeMutableRawBufferPointer(start: memory, count: count)
  }

  deinit { KernelHeap.free(bytes.baseAddress.unsafelyUnwrapped) }
}
