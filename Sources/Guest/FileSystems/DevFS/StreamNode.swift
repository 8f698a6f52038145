// StreamNode: a standard stream whose other end is no terminal; StreamFile: any standard stream, open.
import Base
import Files
import Locks
import Memory

/// A standard stream that is no terminal: fstat calls it a pipe.
final class StreamNode: AnonymousVnode {
  private let endpoint: any ConsoleEndpoint

  init(_ endpoint: any ConsoleEndpoint) {
    self.endpoint = endpoint
    super.init(type: .fifo, mode: 0o600)
  }

  override func read(at offset: UInt64, into transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    try endpoint.read(into: &transfer, nonBlocking: flags.contains(.nonBlocking), until: .never)
  }

  override func write(at offset: UInt64, from transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    try endpoint.write(from: &transfer, nonBlocking: flags.contains(.nonBlocking))
  }

  override var readyMask: ReadyMask { endpoint.readyMask }
  override var pollSource: PollSource? { endpoint.pollSource }

  override func control(_ request: UInt32, _ argument: UInt64) throws(Errno) -> Int {
    guard request == ControlRequest.readableByteCount else { throw .ENOTTY }
    try UserSpan.write(endpoint.readableByteCount.i32, at: VirtualAddress(argument))
    return 0
  }
}

/// A standard stream as a program gets it: closing a descriptor tells of a write that failed later.
final class StreamFile: OpenFile {
  private let endpoint: any ConsoleEndpoint

  init(_ vnode: Vnode, at location: Location, flags: OpenFlags, _ endpoint: any ConsoleEndpoint) {
    self.endpoint = endpoint
    super.init(vnode: vnode, location: location, flags: flags)
  }

  override func flush() throws(Errno) { try endpoint.finishWriting() }
}
