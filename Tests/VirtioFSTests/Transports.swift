// Transports for the tests: the real server in the same process, and a server that lies.
import Base
import Devices
import Glibc
import Testing
import VirtioABI
import VirtioFileSystem

@testable import VirtioFS

/// The real server. Counts what passes.
final class ServerTransport: FUSETransport {
  let server: FUSEServer
  var maximumSegments = 256
  var maximumCalls = 16
  var queueSize = 64
  /// Opcodes in the order they came.
  var log: [UInt32] = []
  var notifications = 0

  init(_ server: FUSEServer) { self.server = server }

  func perform(_ calls: UnsafeMutableBufferPointer<DeviceCall>) throws(Errno) {
    notifications += 1
    #expect(calls.count <= maximumCalls)
    for index in calls.indices { calls[index].replyCount = pass(calls[index]) }
  }

  func post(_ request: DeviceSegment) {
    notifications += 1
    var segment = request
    withUnsafeMutablePointer(to: &segment) { _ = pass(DeviceCall(segments: $0, readable: 1, writable: 0)) }
  }

  private func pass(_ call: DeviceCall) -> Int {
    #expect(call.readable + call.writable <= maximumSegments)
    var request: [UInt8] = []
    for index in 0..<call.readable {
      let segment = call.segments[index]
      request += UnsafeRawBufferPointer(start: segment.address, count: segment.count)
    }
    log.append(request.withUnsafeBytes { $0.loadUnaligned(as: FUSEInHeader.self) }.opcode)
    let reply = (call.readable..<call.readable + call.writable).map {
      iovec(iov_base: call.segments[$0].address, iov_len: call.segments[$0].count)
    }
    return request.withUnsafeBytes { request in
      reply.withUnsafeBufferPointer { server.handle(request: request, reply: $0) }
    }
  }

  func count(_ opcode: UInt32) -> Int { log.filter { $0 == opcode }.count }
}

/// A server that answers with whatever the test makes of the right answer.
final class LyingTransport: FUSETransport {
  let honest: ServerTransport
  /// Opcodes to lie about; everything if nil.
  var about: UInt32?
  /// Changes a reply: its bytes (as many as there is room), and the length it claims.
  var lie: ((_ opcode: UInt32, _ reply: UnsafeMutableRawBufferPointer, _ count: inout Int) -> Void)?

  init(_ honest: ServerTransport) { self.honest = honest }
  var maximumSegments: Int { honest.maximumSegments }
  var maximumCalls: Int { honest.maximumCalls }
  var queueSize: Int { honest.queueSize }
  func post(_ request: DeviceSegment) { honest.post(request) }

  func perform(_ calls: UnsafeMutableBufferPointer<DeviceCall>) throws(Errno) {
    try honest.perform(calls)
    guard let lie else { return }
    for index in calls.indices {
      let call = calls[index]
      let opcode = call.segments[0].address.loadUnaligned(fromByteOffset: 4, as: UInt32.self)
      if let about, about != opcode { continue }
      // The reply as one piece, and back again.
      let pieces = (call.readable..<call.readable + call.writable).map { call.segments[$0] }
      var whole: [UInt8] = []
      for piece in pieces { whole += UnsafeRawBufferPointer(start: piece.address, count: piece.count) }
      whole.withUnsafeMutableBytes { lie(opcode, $0, &calls[index].replyCount) }
      var offset = 0
      for piece in pieces {
        whole.withUnsafeBytes {
          piece.address.copyMemory(from: $0.baseAddress! + offset, byteCount: piece.count)
        }
        offset += piece.count
      }
    }
  }
}

/// Tests work on "/tmp"-like trees made by a shell.
@discardableResult func shell(_ command: String) -> Int32 {
  var child = pid_t()
  let arguments: [UnsafeMutablePointer<CChar>?] = [strdup("/bin/sh"), strdup("-c"), strdup(command), nil]
  defer { for argument in arguments { free(argument) } }
  guard posix_spawn(&child, "/bin/sh", nil, nil, arguments, environ) == 0 else { return -1 }
  var status: Int32 = 0
  waitpid(child, &status, 0)
  return status
}

/// A directory of the host, made by shell commands run in it, gone with the test.
final class HostTree {
  let path: String

  init(_ commands: String = "true") {
    var template = Array("/tmp/osv-virtiofs-test-XXXXXX".utf8CString)
    path = String(cString: mkdtemp(&template)!)
    precondition(shell("cd '\(path)' && \(commands)") == 0)
  }

  deinit { shell("rm -rf '\(path)'") }
}

/// The bytes of a name.
func withName<R>(_ name: String, _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
  try Array(name.utf8).withUnsafeBytes(body)
}
