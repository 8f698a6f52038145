// AnonymousFileSystem: home of files that have no name: pipes, event counters, epolls.
import Base
import Memory

/// A file without a name.
open class AnonymousVnode: Vnode {
  private let mode: UInt32
  private let time = FileTime.now

  private static let lastInode = Atomic<UInt64>(0)

  /// A file of a type.
  public init(type: FileType, mode: UInt32) {
    self.mode = mode
    super.init(
      fileSystem: AnonymousFileSystem.shared,
      inode: AnonymousVnode.lastInode.wrappingAdd(1, ordering: .relaxed).newValue, type: type)
  }

  open override var isSeekable: Bool { false }

  open override func getAttributes() throws(Errno) -> StatInformation {
    var result = StatInformation()
    result.device = fileSystem.device
    result.inode = inode
    result.mode = type.modeBits | mode
    result.accessTime = time
    result.modificationTime = time
    result.changeTime = time
    return result
  }

  /// Files of this kind move their data, if they have any, in their `OpenFile`.
  open override func read(at offset: UInt64, into transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    throw .EINVAL
  }
  /// See `read`.
  open override func write(at offset: UInt64, from transfer: inout Transfer, flags: OpenFlags) throws(Errno) -> Int {
    throw .EINVAL
  }

  /// Changes mean nothing to a file that nobody can find.
  open override func setAttributes(_ change: AttributeChange) throws(Errno) {}
}

/// The file system of files without names. Never seen in the tree.
public final class AnonymousFileSystem: FileSystem {
  /// The only one; `initialise` makes it, on the host its first use.
  public static var shared: FileSystem {
    #if HOSTED
      return hosted.fileSystem
    #else
      return instance.unsafelyUnwrapped.fileSystem
    #endif
  }

  private static var mount: Mount {
    #if HOSTED
      return hosted
    #else
      return instance.unsafelyUnwrapped
    #endif
  }

  #if HOSTED
    // SAFETY: made once, by the first use; a mount is made to be shared.
    nonisolated(unsafe) private static let hosted = makeMount()
  #else
    // SAFETY: set once at boot, before the first pipe, and so before all who look.
    nonisolated(unsafe) private static var instance: Mount? = nil
  #endif

  /// Makes it. Once, at boot, before the first pipe.
  public static func initialise() {
    #if !HOSTED
      instance = makeMount()
    #endif
  }

  private static func makeMount() -> Mount {
    let fileSystem = AnonymousFileSystem(kind: "anon_inodefs", magic: 0x0904_1934)
    fileSystem.setRoot(Vnode(fileSystem: fileSystem, inode: 0, type: .directory))
    return Mount(
      identifier: 0, fileSystem: fileSystem, root: fileSystem.root, point: nil, flags: [], source: [])
  }

  /// A place for an open file of such a vnode, which shows as `prefix` (then, if that ends in "[", the number and "]").
  public static func location(of vnode: Vnode, prefix: StaticString) -> Location {
    var name = PathBytes(prefix).copy
    if name.last == 0x5b {
      name.append(decimal: vnode.inode)
      name.append(0x5d)
    }
    return location(of: vnode, name: name)
  }

  /// A place for an open file of such a vnode, which shows under this name.
  public static func location(of vnode: Vnode, name: [UInt8]) -> Location {
    let dentry = name.withPath { Dentry(root: vnode, name: $0) }
    return Location(mount: mount, dentry: dentry)
  }
}

extension Array where Element == UInt8 {
  /// Appends a number in decimal.
  public mutating func append(decimal number: UInt64) {
    var divisor: UInt64 = 1
    while number / divisor >= 10 { divisor &*= 10 }
    while divisor > 0 {
      append(0x30 &+ (number / divisor % 10).u8)
      divisor /= 10
    }
  }
}
