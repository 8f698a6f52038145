// A memory object: the pages of a file, of shared memory or of a device, cached once for all readers, writers and mappings.
import Base
import Pages

/// Where the pages of a memory object come from, and where they go.
public protocol Pager: AnyObject {
  /// Reads consecutive pages of the object. What lies behind the end of the file stays as it is (the frames are zero).
  /// - Parameters:
  ///   - page: number of the first page (offset / 4096).
  ///   - frames: one for each page, 1 to `maximumPages`, zeroed and the caller's until the call returns.
  /// - Throws: EIO or what the source says.
  func fill(page: UInt64, frames: UnsafeBufferPointer<PhysicalAddress>) throws(Errno)

  /// Writes consecutive dirty pages.
  /// - Parameters:
  ///   - page: number of the first page.
  ///   - frames: one for each page.
  ///   - byteCount: bytes to write from the first one's start; less than all of them only at the end of the file.
  func writeBack(page: UInt64, frames: UnsafeBufferPointer<PhysicalAddress>, byteCount: Int) throws(Errno)

  /// Pages worth reading at once, 1 to 64: how far readahead goes.
  var maximumPages: Int { get }
}

/// Pages of one file or of shared memory.
///
/// Without a pager, absent pages are zero. With `direct` memory (a file that lies in guest memory), absent pages
/// are those frames, never copied until somebody writes.
public final class MemoryObject {
  /// A new object of `byteCount` bytes. `pager` is not kept alive: it must outlive the object (it usually owns it).
  public init(byteCount: UInt64 = 0, pager: (any Pager)? = nil) { fatalError() }

  /// An object whose pages lie at `direct`, contiguous and never written.
  public init(direct: PhysicalAddress, byteCount: UInt64) { fatalError() }

  /// Size in bytes: reads end and mappings give bus errors behind it.
  public var byteCount: UInt64 { fatalError() }

  /// Copies bytes out, from `offset` on, up to the end of the object or of the transfer.
  /// - Returns: bytes copied (0 at the end of the object). A fault after some bytes is no error.
  /// - Throws: EFAULT, EIO, ENOMEM, what the pager throws.
  public func read(at offset: UInt64, into transfer: inout Transfer) throws(Errno) -> Int { fatalError() }

  /// Copies bytes in, growing the object.
  /// - Returns: bytes copied.
  /// - Throws: EFAULT, EIO, ENOSPC (memory is out), what the pager throws.
  public func write(at offset: UInt64, from transfer: inout Transfer) throws(Errno) -> Int { fatalError() }

  /// Sets the size. Pages behind it are dropped from the cache and from all mappings, and the rest of the last page is cleared.
  public func truncate(to byteCount: UInt64) throws(Errno) { fatalError() }

  /// Tells the object that its source has grown or shrunk; pages behind the new end are dropped.
  public func sourceChanged(byteCount: UInt64) { fatalError() }

  /// Makes a range zero, giving its whole pages back (FALLOC_FL_PUNCH_HOLE).
  public func discard(offset: UInt64, byteCount: UInt64) throws(Errno) { fatalError() }

  /// Forgets all clean pages that nobody maps: the next read asks the pager.
  public func invalidate() { fatalError() }

  /// Writes dirty pages of a range to the pager (fsync: everything).
  public func writeBack(offset: UInt64 = 0, byteCount: UInt64 = .max) throws(Errno) { fatalError() }

  /// Pages in the cache.
  public var residentPages: Int { fatalError() }
}
