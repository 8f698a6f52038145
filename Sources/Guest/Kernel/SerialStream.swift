// Standard output and error of a machine that has a serial line and no console: written byte by byte, at once. There is no input.
#if GUEST
  import Base
  import Files
  import Locks
  import Memory
  import Platform

  /// The serial line as a stream.
  final class SerialStream: ConsoleEndpoint {
    let pollSource = PollSource()
    // Two threads' lines do not mix within a piece.
    private static let lock = Mutex()

    func read(into transfer: inout Transfer, nonBlocking: Bool, until deadline: Deadline) throws(Errno) -> Int { 0 }

    func write(from transfer: inout Transfer, nonBlocking: Bool) throws(Errno) -> Int {
      try withUnsafeTemporaryAllocation(byteCount: 256, alignment: 8) { (piece) throws(Errno) in
        var written = 0
        while transfer.remaining > 0 {
          // What was written before a fault counts.
          var count = 0
          do throws(Errno) { count = try transfer.copyIn(into: piece) } catch {
            if written > 0 { return written }
            throw error
          }
          Self.lock.withLock { ForeignMonitor.write(UnsafeRawBufferPointer(rebasing: piece[0..<count])) }
          written &+= count
        }
        return written
      }
    }

    func finishWriting() throws(Errno) {}
    var readyMask: ReadyMask { [.readable, .writable] }
    var isTerminal: Bool { false }
    func terminal(_ request: TerminalRequest, isForced: Bool) throws(Errno) -> TerminalState { throw .ENOTTY }
    var readableByteCount: Int { 0 }
  }
#endif
