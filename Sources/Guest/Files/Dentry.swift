// Dentry: one name in one directory, with the file it names or the knowledge that it names none.
//
// A dentry keeps its parent alive, never the other way round: the name cache finds the children. What it names never
// changes; a name that gets or loses its file gets another dentry. Its own name and parent change only by a rename,
// which holds the cache's topology lock and the lock of the chain it is in: whoever has either may read them.
import Base

/// An entry of a directory.
public final class Dentry {
  /// The file; nil: the name is known not to be there.
  public let vnode: Vnode?
  var parent: Dentry?
  var name: [UInt8]
  /// The next in its chain of the cache.
  var next: Dentry?
  /// Whether it has been found since the cache last looked for what to forget.
  var isRecent = true
  /// Until when it may be believed (`Clock.now`); `UInt64.max`: for good.
  let validUntil: Atomic<UInt64>
  /// How many mounts have it as their point.
  let mountCount = Atomic<Int>(0)
  /// Whether the name has been removed.
  let isUnlinked = Atomic<Bool>(false)

  init(parent: Dentry?, name: PathBytes, vnode: Vnode?, validUntil: UInt64) {
    self.parent = parent
    self.name = name.copy
    self.vnode = vnode
    self.validUntil = Atomic(validUntil)
  }

  /// The root of a file system, or (with a name) a file that lies in no directory.
  public convenience init(root vnode: Vnode, name: PathBytes = PathBytes("")) {
    self.init(parent: nil, name: name, vnode: vnode, validUntil: .max)
  }

  // SAFETY: a number for the hash, never followed; entries of a chain keep their parents, whose addresses stay theirs.
  var address: UInt { UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()) }
}
