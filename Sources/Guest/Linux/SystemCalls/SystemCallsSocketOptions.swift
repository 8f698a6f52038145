// getsockopt and setsockopt: the values on their way; what they mean is the socket's business.
import Base
import Files
import Memory
import Network

extension SystemCall {
  /// What an option's value lies in meanwhile, on the kernel stack.
  private typealias Buffer = [64 of UInt64]

  func setsockopt() throws(Errno) -> Int {
    let socket = try socketFile()
    guard argument4.i32 >= 0 else { throw .EINVAL }
    let count = min(argument4.i32.int, OptionValue.maximumByteCount)
    var buffer = Buffer(repeating: 0)
    try withUnsafeMutableBytes(of: &buffer) { (bytes) throws(Errno) in
      try UserSpan(address3, count: count).read(into: bytes)
      try socket.setOption(
        argument1.i32, argument2.i32, OptionValue(UnsafeRawBufferPointer(rebasing: bytes[..<count])), socketCaller)
    }
    return 0
  }

  func getsockopt() throws(Errno) -> Int {
    let socket = try socketFile()
    let room = try UserSpan.read(Int32.self, at: address4)
    guard room >= 0 else { throw .EINVAL }
    var buffer = Buffer(repeating: 0)
    try withUnsafeMutableBytes(of: &buffer) { (bytes) throws(Errno) in
      // A few options ask by what lies there; who only wants an answer may have nothing readable there.
      var asked = min(room.int, bytes.count)
      do throws(Errno) { try UserSpan(address3, count: asked).read(into: bytes) } catch { asked = 0 }
      var result = OptionResult(room: room.int, buffer: bytes, asked: asked)
      try socket.getOption(argument1.i32, argument2.i32, &result)
      let answer = result.bytes
      try UserSpan(address3, count: answer.count).write(from: answer)
      try UserSpan.write(answer.count.i32, at: address4)
    }
    return 0
  }
}
