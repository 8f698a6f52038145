// System calls that move bytes between files and the program: read and write in all their forms.
import Base
import Files
import Memory
import Network
import Pages

extension SystemCall {
  /// The open file of the first argument, unless it is only a place (O_PATH).
  func file() throws(Errno) -> OpenFile { try file(argument0) }

  /// The open file of an argument, unless it is only a place.
  func file(_ argument: UInt64) throws(Errno) -> OpenFile {
    let file = try process.descriptors.file(argument.i32.int)
    guard !file.isPathOnly else { throw .EBADF }
    return file
  }

  /// The open file of the first argument, or the place that it is.
  func fileOrPlace() throws(Errno) -> OpenFile { try process.descriptors.file(descriptor) }

  func read() throws(Errno) -> Int {
    try withFile { (file) throws(Errno) in
      var transfer = Transfer(program: address1, count: Self.byteCount(argument2))
      return try file.read(into: &transfer)
    }
  }

  func write() throws(Errno) -> Int {
    try withFile { (file) throws(Errno) in
      var transfer = Transfer(program: address1, count: Self.byteCount(argument2))
      return try written(file) { () throws(Errno) in try file.write(from: &transfer) }
    }
  }

  func pread64() throws(Errno) -> Int {
    guard argument3.i64 >= 0 else { throw .EINVAL }
    return try withFile { (file) throws(Errno) in
      var transfer = Transfer(program: address1, count: Self.byteCount(argument2))
      return try file.read(at: argument3, into: &transfer)
    }
  }

  func pwrite64() throws(Errno) -> Int {
    guard argument3.i64 >= 0 else { throw .EINVAL }
    return try withFile { (file) throws(Errno) in
      var transfer = Transfer(program: address1, count: Self.byteCount(argument2))
      return try written(file) { () throws(Errno) in try file.write(at: argument3, from: &transfer) }
    }
  }

  func readv() throws(Errno) -> Int {
    try withFile { (file) throws(Errno) in
      var transfer = try vectors()
      return try file.read(into: &transfer)
    }
  }

  func writev() throws(Errno) -> Int {
    try withFile { (file) throws(Errno) in
      var transfer = try vectors()
      return try written(file) { () throws(Errno) in try file.write(from: &transfer) }
    }
  }

  func preadv() throws(Errno) -> Int {
    guard argument3.i64 >= 0 else { throw .EINVAL }
    return try withFile { (file) throws(Errno) in
      var transfer = try vectors()
      return try file.read(at: argument3, into: &transfer)
    }
  }

  func pwritev() throws(Errno) -> Int {
    guard argument3.i64 >= 0 else { throw .EINVAL }
    return try withFile { (file) throws(Errno) in
      var transfer = try vectors()
      return try written(file) { () throws(Errno) in try file.write(at: argument3, from: &transfer) }
    }
  }

  func vectors() throws(Errno) -> Transfer {
    guard argument2 <= 1024 else { throw .EINVAL }
    return try Transfer(programVectors: address1, count: argument2.int)
  }

  /// Runs a write to a file; where nobody reads any more, the thread gets SIGPIPE besides the error, but for sockets of single messages.
  @inline(__always) func written(_ file: OpenFile, _ body: () throws(Errno) -> Int) throws(Errno) -> Int {
    do throws(Errno) { return try body() } catch {
      if error == .EPIPE { tellOfBrokenPipe(file) }
      throw error
    }
  }

  @inline(never) private func tellOfBrokenPipe(_ file: OpenFile) {
    if (file as? Socket)?.tellsBrokenPipes == false { return }
    try? process.send(.pipe, SignalInformation(.pipe, code: SignalInformation.Code.user), to: task)
  }

  func lseek() throws(Errno) -> Int {
    guard argument2.i32 >= 0, let origin = SeekOrigin(rawValue: argument2.u32) else { throw .EINVAL }
    return try withFile { (file) throws(Errno) in try file.seek(argument1.i64, from: origin).int }
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
