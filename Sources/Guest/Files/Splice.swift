// Splice: bytes from file to file without the program's memory between: splice, tee, vmsplice, sendfile, copy_file_range.
//
// Bytes are copied once: between a pipe's ring and the other file directly, between two files through a buffer. Whoever moves bytes into
// or out of a ring is its writer or reader meanwhile, as in a write or read (see Pipe.swift), also while the other file keeps it
// waiting. Between two pipes neither is held while the other is waited for.
import Base
import Locks
import Memory
import Pages

/// Moving bytes between open files.
public enum Splice {
  /// Whether the file is an end of a pipe.
  public static func isPipe(_ file: OpenFile) -> Bool { file is PipeEnd }

  // MARK: Size of a pipe

  /// Bytes that fit into a pipe (F_GETPIPE_SZ).
  /// - Throws: EBADF: it is none.
  public static func capacity(of file: OpenFile) throws(Errno) -> Int {
    guard let end = file as? PipeEnd else { throw .EBADF }
    return end.pipe.byteCapacity
  }

  /// Makes room for at least so many bytes in a pipe, and for a page at least (F_SETPIPE_SZ).
  /// - Returns: how many fit now.
  /// - Throws: EBADF, EINVAL, EPERM, EBUSY, EINTR, ENOMEM.
  public static func resize(_ file: OpenFile, to wanted: Int, isPrivileged: Bool) throws(Errno) -> Int {
    guard let end = file as? PipeEnd else { throw .EBADF }
    guard wanted <= 1 << 31 else { throw .EINVAL }
    if !isPrivileged, wanted > max(Pipe.maximumUserCapacity, end.pipe.byteCapacity) { throw .EPERM }
    return try end.pipe.resize(to: wanted)
  }

  // MARK: Pipes

  /// Moves bytes between two files one of which is a pipe (splice).
  /// - Parameters:
  ///   - input: from where.
  ///   - inputOffset: at which offset, moved on; nil: its position.
  ///   - output: to where.
  ///   - outputOffset: likewise.
  ///   - count: how many at most.
  ///   - nonBlocking: do not wait for a pipe.
  /// - Returns: how many; 0 at the end.
  /// - Throws: EBADF, EINVAL, ESPIPE, EAGAIN, EPIPE, EINTR, what the files throw.
  public static func move(
    from input: OpenFile, at inputOffset: inout UInt64?, to output: OpenFile, at outputOffset: inout UInt64?,
    count: Int, nonBlocking: Bool
  ) throws(Errno) -> Int {
    guard input.isReadable, output.isWritable else { throw .EBADF }
    let (source, target) = (input as? PipeEnd, output as? PipeEnd)
    if source != nil, inputOffset != nil { throw .ESPIPE }
    if target != nil, outputOffset != nil { throw .ESPIPE }
    if let source {
      let waits = !(nonBlocking || source.isNonBlocking)
      if let target {
        return try betweenPipes(
          source.pipe, target.pipe, count: count, keeps: false, waits: waits && !target.isNonBlocking)
      }
      guard outputOffset == nil || output.vnode.isSeekable, !output.flags.contains(.append) else { throw .EINVAL }
      return try fromPipe(source.pipe, to: output, at: &outputOffset, count: count, waits: waits)
    }
    guard let target else { throw .EINVAL }
    guard inputOffset == nil || input.vnode.isSeekable else { throw .EINVAL }
    guard !input.vnode.isDirectory else { throw .EINVAL }
    return try toPipe(
      target.pipe, from: input, at: &inputOffset, count: count, waits: !(nonBlocking || target.isNonBlocking))
  }

  /// Copies bytes from pipe to pipe and leaves them where they were (tee).
  /// - Throws: EBADF, EINVAL (no pipes, or the same one), EAGAIN, EPIPE, EINTR.
  public static func tee(from input: OpenFile, to output: OpenFile, count: Int, nonBlocking: Bool) throws(Errno) -> Int
  {
    guard input.isReadable, output.isWritable else { throw .EBADF }
    guard let source = input as? PipeEnd, let target = output as? PipeEnd else { throw .EINVAL }
    let waits = !(nonBlocking || source.isNonBlocking || target.isNonBlocking)
    return try betweenPipes(source.pipe, target.pipe, count: count, keeps: true, waits: waits)
  }

  /// Moves bytes between the program's memory and a pipe, as many as fit or are there (vmsplice).
  /// - Throws: EBADF, EAGAIN, EPIPE, EINTR, EFAULT.
  public static func transfer(_ transfer: inout Transfer, _ file: OpenFile, nonBlocking: Bool) throws(Errno) -> Int {
    guard let end = file as? PipeEnd else { throw .EBADF }
    guard end.isWritable else {
      return try end.pipe.read(into: &transfer, nonBlocking: nonBlocking || end.isNonBlocking)
    }
    let wanted = min(transfer.remaining, Pipe.atomicByteCount)
    let space = try end.pipe.beginWriting(wanted, nonBlocking: nonBlocking || end.isNonBlocking)
    return try end.pipe.fill(min(space, transfer.remaining)) { (bytes) in
      copyIn(&transfer, bytes)
    }
  }

  /// Fills free bytes of a ring: how many were copied, and what ended it.
  private static func copyIn(_ transfer: inout Transfer, _ bytes: UnsafeMutableRawBufferPointer) -> (Int, Errno?) {
    let before = transfer.copied
    var failure: Errno?
    do throws(Errno) { _ = try transfer.copyIn(into: bytes) } catch { failure = error }
    return (transfer.copied &- before, failure)
  }

  private static func fromPipe(
    _ pipe: Pipe, to output: OpenFile, at offset: inout UInt64?, count: Int, waits: Bool
  ) throws(Errno) -> Int {
    let present = try pipe.beginReading(nonBlocking: !waits)
    guard present > 0 else { return 0 }
    var place = offset
    let done = try pipe.drain(min(present, count)) { (bytes) in
      var transfer = Transfer(kernelSource: bytes)
      do throws(Errno) {
        let written = try put(&transfer, output, &place)
        return (written, nil)
      } catch { return (0, error) }
    }
    offset = place
    return done
  }

  private static func toPipe(
    _ pipe: Pipe, from input: OpenFile, at offset: inout UInt64?, count: Int, waits: Bool
  ) throws(Errno) -> Int {
    let space = try pipe.beginWriting(min(count, Pipe.atomicByteCount), nonBlocking: !waits)
    var place = offset
    var isFirst = true
    let done = try pipe.fill(min(space, count)) { (bytes) in
      // A file without positions may have nothing more for now.
      guard isFirst || input.vnode.isSeekable else { return (0, nil) }
      isFirst = false
      var transfer = Transfer(kernel: bytes)
      do throws(Errno) {
        let got = try get(&transfer, input, &place)
        return (got, nil)
      } catch { return (0, error) }
    }
    offset = place
    return done
  }

  private static func betweenPipes(_ source: Pipe, _ target: Pipe, count: Int, keeps: Bool, waits: Bool) throws(Errno)
    -> Int
  {
    guard source !== target else { throw .EINVAL }
    while true {
      var present = 0
      do throws(Errno) {
        present = try source.beginReading(nonBlocking: true)
        guard present > 0 else {
          if target.isBroken { throw .EPIPE }
          return 0
        }
      } catch {
        guard error == .EAGAIN, waits else { throw error }
        try source.waitForBytes()
        continue
      }
      var failure: Errno?
      let wanted = min(present, count)
      let done = try source.drain(wanted, keeps: keeps) { (bytes) in
        do throws(Errno) {
          let space = try target.beginWriting(min(bytes.count, Pipe.atomicByteCount), nonBlocking: true)
          var transfer = Transfer(kernelSource: bytes)
          let moved = try target.fill(min(space, bytes.count)) { (free) in
            copyIn(&transfer, free)
          }
          return (moved, nil)
        } catch {
          failure = error
          return (0, nil)
        }
      }
      if done > 0 { return done }
      guard failure == .EAGAIN, waits else { throw failure ?? .EAGAIN }
      try target.waitForRoom(isFull: target.isFull)
    }
  }

  // MARK: Files

  /// Copies bytes from a file to another through a buffer (sendfile, copy_file_range).
  /// - Parameters:
  ///   - input: from where; open for reading.
  ///   - inputOffset: at which offset, moved on; nil: its position.
  ///   - output: to where; open for writing.
  ///   - outputOffset: likewise.
  ///   - count: how many at most.
  /// - Returns: how many; 0 at the end.
  /// - Throws: what the files throw before a byte has been copied.
  public static func copy(
    from input: OpenFile, at inputOffset: inout UInt64?, to output: OpenFile, at outputOffset: inout UInt64?, count: Int
  ) throws(Errno) -> Int {
    guard count > 0 else { return 0 }
    let size = min(count, 65_536)
    guard let memory = KernelHeap.allocate(byteCount: size) else { throw .ENOMEM }
    defer { KernelHeap.free(memory) }
    let buffer = UnsafeMutableRawBufferPointer(start: memory, count: size)
    var done = 0
    while done < count {
      let wanted = min(count &- done, size)
      let got: Int
      do throws(Errno) {
        var transfer = Transfer(kernel: UnsafeMutableRawBufferPointer(rebasing: buffer[..<wanted]))
        got = try get(&transfer, input, &inputOffset)
      } catch {
        guard done > 0 else { throw error }
        return done
      }
      if got == 0 { return done }
      var placed = 0
      while placed < got {
        var transfer = Transfer(kernel: UnsafeMutableRawBufferPointer(rebasing: buffer[placed..<got]))
        do throws(Errno) {
          let count = try put(&transfer, output, &outputOffset)
          placed &+= count
          if count == 0 { throw .EIO }
        } catch {
          // What was read and not written goes back to where it came from.
          if let offset = inputOffset {
            inputOffset = offset &- (got &- placed).u64
          } else {
            _ = try? input.seek((placed &- got).i64, from: .current)
          }
          guard done &+ placed > 0 else { throw error }
          return done &+ placed
        }
      }
      done &+= got
      // A pipe or terminal that had less than wanted may have nothing more for now.
      if got < wanted { return done }
    }
    return done
  }

  /// Reads at an offset, which moves on, or at the position.
  private static func get(_ transfer: inout Transfer, _ file: OpenFile, _ offset: inout UInt64?) throws(Errno) -> Int {
    guard let place = offset else { return try file.read(into: &transfer) }
    let count = try file.read(at: place, into: &transfer)
    offset = place &+ count.u64
    return count
  }

  /// Writes likewise.
  private static func put(_ transfer: inout Transfer, _ file: OpenFile, _ offset: inout UInt64?) throws(Errno) -> Int {
    guard let place = offset else { return try file.write(from: &transfer) }
    let count = try file.write(at: place, from: &transfer)
    offset = place &+ count.u64
    return count
  }
}
