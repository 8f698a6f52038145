// Nodes of a server that works by handles only: each is opened when it is first read, and keeps what that gave for as long as it is in the
// table. Nobody reads by a node that has left it, so that a handle is never used when it has been given back.
import Base
import Files
import Locks

extension VirtioNode {
  /// Whether the server reads this node by a handle only.
  var opensToRead: Bool { tree.client.opens(directory: isDirectory) }

  /// What to read by; 0 where the node will do, but that is as good a handle as any.
  func readingHandle() throws(Errno) -> UInt64 {
    guard opensToRead else { return usableHandle(writing: false) }
    if let known = tree.lock.withLock({ readingHandleKept }) { return known }
    guard let fresh = try tree.client.openToRead(node, directory: isDirectory) else { return 0 }
    let earlier = tree.lock.withLock { () -> UInt64? in
      if let readingHandleKept { return readingHandleKept }
      readingHandleKept = fresh
      return nil
    }
    guard let earlier else { return fresh }
    // Another thread has opened it meanwhile.
    tree.client.release(OwedHandle(node: node, handle: fresh, isDirectory: isDirectory))
    return earlier
  }
}
