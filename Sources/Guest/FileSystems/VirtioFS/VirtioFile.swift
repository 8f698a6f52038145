// An open file of the host, and what a regular file's node keeps besides its attributes: its pages, and who has it open.
import Base
import Files
import Locks
import Memory
import Synchronization

/// The contents of a regular file.
///
/// `sizeLock` is held by whoever moves data (shared) or may change the size (alone): a write that goes beyond the end, truncation,
/// allocation, and dirty pages on their way to the server. It may be held over requests and while program memory is copied; faults do
/// not take it.
final class VirtioContents {
  let object: MemoryObject
  let sizeLock = ReaderWriterLock()

  init(_ object: MemoryObject) { self.object = object }
}

/// An open regular file.
final class VirtioFile: OpenFile {
  init(_ node: VirtioNode, location: Location, flags: OpenFlags) {
    node.openFiles.wrappingAdd(1, ordering: .relaxed)
    super.init(vnode: node, location: location, flags: flags)
  }

  // Not with the last descriptor: mappings use the file longer.
  deinit { node.fileEnded() }

  private var node: VirtioNode { unsafeDowncast(vnode, to: VirtioNode.self) }

  /// What was stored through mappings is written when somebody closes the file, who hears of an error.
  override func flush() throws(Errno) { try node.writeBackDirty() }
}

extension VirtioNode {
  /// An open file has ended. What is still dirty needs the handle: it goes when that is written.
  func fileEnded() {
    guard openFiles.wrappingSubtract(1, ordering: .acquiringAndReleasing).newValue == 0 else { return }
    if knownContents?.object.isAheadOfSource != true { giveHandleBack() }
  }

  /// Gives back the handle that nobody needs.
  func giveHandleBack() {
    let handle = tree.lock.withLock { () -> UInt64 in
      defer { self.handle = 0 }
      return self.handle
    }
    if handle != 0 { tree.owe(handle: handle, of: node) }
  }

  /// The handle to read or write by, 0 where the node will do.
  func usableHandle(writing: Bool) -> UInt64 {
    tree.lock.withLock {
      guard handle != 0 else { return 0 }
      let unfit: UInt32 = writing ? 0 : 1
      return handleAccess == unfit ? 0 : handle
    }
  }

  /// Keeps a handle that CREATE or OPEN gave; one that was there is given back.
  func setHandle(_ new: UInt64, access: UInt32) {
    let old = tree.lock.withLock { () -> UInt64 in
      defer { (handle, handleAccess) = (new, access) }
      return handle
    }
    if old != 0, old != new { tree.owe(handle: old, of: node) }
  }

  /// Sees to it that open files go on working when the file's mode is about to allow less.
  func openBefore(mode: UInt32) {
    guard type == .regular, mode & 0o600 != 0o600, openFiles.load(ordering: .acquiring) > 0 else { return }
    if tree.lock.withLock({ handle != 0 }) { return }
    for access: UInt32 in [2, 1, 0] {
      do throws(Errno) {
        setHandle(try tree.client.open(node, flags: access), access: access)
        return
      } catch { if error != .EACCES { return } }
    }
  }
}
