// The devices without hardware: null, zero, full, random.
import Base
import Files
import Memory

/// A character device; reads and writes have no position.
class Device: PseudoNode {
  init(_ fileSystem: FileSystem, inode: UInt64, mode: UInt32, specialDevice: UInt64) {
    super.init(fileSystem, inode: inode, type: .characterDevice, mode: mode, specialDevice: specialDevice)
  }

  /// Takes everything and forgets it.
  override func write(at offset: UInt64, from transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    transfer.remaining
  }
}

/// /dev/null: nothing to read.
final class NullDevice: Device {
  override var isSeekable: Bool { true }
  override func read(at offset: UInt64, into transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int { 0 }
}

/// /dev/zero: zeros without end.
class ZeroDevice: Device {
  override var isSeekable: Bool { true }
  override func read(at offset: UInt64, into transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    let before = transfer.copied
    do throws(Errno) { _ = try transfer.zeroOut(count: transfer.remaining) } catch {
      if transfer.copied == before { throw error }
    }
    return transfer.copied &- before
  }
  /// A mapping of it is anonymous memory; shared by those who inherit it.
  override func memoryObject() throws(Errno) -> MemoryObject { MemoryObject(byteCount: 1 &<< 46) }
}

/// /dev/full: zeros to read, no room to write.
final class FullDevice: ZeroDevice {
  override func write(at offset: UInt64, from transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    throw .ENOSPC
  }
}

/// /dev/random and /dev/urandom.
final class RandomDevice: Device {
  private let random: (UnsafeMutableRawBufferPointer) -> Void

  init(
    _ fileSystem: FileSystem, inode: UInt64, minor: UInt32, _ random: @escaping (UnsafeMutableRawBufferPointer) -> Void
  ) {
    self.random = random
    super.init(fileSystem, inode: inode, mode: 0o666, specialDevice: DeviceNumber.make(1, minor))
  }

  override func read(at offset: UInt64, into transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    let before = transfer.copied
    while transfer.remaining > 0 {
      var piece: [32 of UInt64] = .init(repeating: 0)
      do throws(Errno) {
        try withUnsafeMutableBytes(of: &piece) { (bytes) throws(Errno) in
          random(bytes)
          _ = try transfer.copyOut(from: UnsafeRawBufferPointer(bytes))
        }
      } catch {
        if transfer.copied == before { throw error }
        break
      }
    }
    return transfer.copied &- before
  }
}
