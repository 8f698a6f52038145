// TextTree: a file system of texts that the kernel writes when somebody reads them, in fixed directories: procfs and sysfs.
//
// A text is written as a whole when it is first read after opening, so that a reader in pieces gets one consistent text. Most programs ask
// for none: what there is, is entered when somebody first asks for a name, and costs nothing at boot.
import Base
import Files
import Locks

/// A tree of texts.
///
/// `add` and its kin are called at boot, or by what `addLater` was given.
open class TextTree: FileSystem {
  /// Writes a file's text.
  public typealias Produce = (inout TextBuffer) throws(Errno) -> Void
  /// Takes what was written to a file.
  typealias Consume = (UnsafeRawBufferPointer) throws(Errno) -> Void

  private let filling = Mutex()
  private let isFilled = Atomic<Bool>(false)
  private var fillers: [() -> Void] = []
  private var lastInode: UInt64 = 1

  // MARK: Registration

  /// Lets `body` add files when somebody first asks for a name. Boot only.
  public final func addLater(_ body: @escaping () -> Void) { fillers.append(body) }

  /// Somebody asks for a name.
  final func fill() {
    guard !isFilled.load(ordering: .acquiring) else { return }
    filling.lock()
    defer { filling.unlock() }
    for filler in fillers { filler() }
    fillers = []
    isFilled.store(true, ordering: .releasing)
  }

  /// Adds a file; directories on the way are made.
  /// - Parameters:
  ///   - path: its path in this tree, without a slash before it.
  ///   - mode: its permissions.
  ///   - produce: writes its text, each time it is opened and read.
  @inline(never)
  public final func add(_ path: StaticString, mode: UInt32 = 0o444, _ produce: @escaping Produce) {
    add(PathBytes(path), mode: mode, produce)
  }

  /// The same with a path that is not known before.
  @inline(never)
  public final func add(_ path: PathBytes, mode: UInt32 = 0o444, _ produce: @escaping Produce) {
    let (directory, name) = place(path)
    directory.add(name, TextNode(self, inode: newInode(), mode: mode, produce: produce))
  }

  /// Adds a file with a text that never changes.
  @inline(never)
  public final func add(_ path: StaticString, text: StaticString) {
    add(path) { (buffer) throws(Errno) in buffer.append(text) }
  }

  /// Adds a symbolic link.
  @inline(never)
  public final func addLink(_ path: StaticString, to target: StaticString) {
    let (directory, name) = place(PathBytes(path))
    directory.add(name, PseudoLink(self, inode: newInode(), target: PathBytes(target)))
  }

  /// Makes a directory, and those on the way.
  @inline(never)
  @discardableResult
  public final func addDirectory(_ path: StaticString) -> PseudoDirectory {
    let (directory, name) = place(PathBytes(path))
    return self.directory(name, in: directory)
  }

  final func newInode() -> UInt64 {
    lastInode &+= 1
    return lastInode
  }

  @inline(never)
  final func place(_ path: PathBytes) -> (PseudoDirectory, PathBytes) {
    // SAFETY: subclasses give `setRoot` a PseudoDirectory, and only those are put where directories are.
    var directory = unsafeDowncast(root.vnode.unsafelyUnwrapped, to: PseudoDirectory.self)
    var start = 0
    for index in 0..<path.count where path[index] == 0x2f {
      directory = self.directory(path.slice(start, index), in: directory)
      start = index &+ 1
    }
    return (directory, path.slice(start, path.count))
  }

  /// The directory with a name, made if it is not there.
  final func directory(_ name: PathBytes, in parent: PseudoDirectory) -> PseudoDirectory {
    if let node = parent.node(name), node.isDirectory { return unsafeDowncast(node, to: PseudoDirectory.self) }
    let made = PseudoDirectory(self, inode: newInode())
    parent.add(name, made)
    return made
  }
}

/// The root of a tree of texts.
class TextRoot: PseudoDirectory {
  init(_ fileSystem: TextTree) { super.init(fileSystem, inode: 1) }

  override func lookup(_ name: PathBytes) throws(Errno) -> LookupResult {
    unsafeDowncast(fileSystem, to: TextTree.self).fill()
    return try super.lookup(name)
  }

  override func readDirectory(from cookie: UInt64, parent: UInt64, into sink: inout DirectoryEntrySink) throws(Errno) {
    unsafeDowncast(fileSystem, to: TextTree.self).fill()
    try super.readDirectory(from: cookie, parent: parent, into: &sink)
  }
}
