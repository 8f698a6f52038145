// TextNode: a file whose text is made when it is read.
import Base
import Files
import Locks
import Memory

/// A file with a function that writes its text.
final class TextNode: PseudoNode {
  private let produce: ProcessFileSystem.Produce
  private let fileOwner: (userID: UInt32, groupID: UInt32)

  init(
    _ fileSystem: FileSystem, inode: UInt64, mode: UInt32, owner: (userID: UInt32, groupID: UInt32) = (0, 0),
    produce: @escaping ProcessFileSystem.Produce
  ) {
    self.produce = produce
    fileOwner = owner
    super.init(fileSystem, inode: inode, type: .regular, mode: mode)
  }

  override var owner: (userID: UInt32, groupID: UInt32) { fileOwner }

  override func open(_ flags: OpenFlags, at location: Location) throws(Errno) -> OpenFile {
    if flags.allowsWriting { throw .EACCES }
    return TextFile(self, at: location, flags, produce)
  }
}

/// An open one: keeps the text from the first read, or the last from the start, on.
private final class TextFile: OpenFile {
  private let produce: ProcessFileSystem.Produce
  private let lock = Mutex()
  private var text: [UInt8]?

  init(_ vnode: Vnode, at location: Location, _ flags: OpenFlags, _ produce: @escaping ProcessFileSystem.Produce) {
    self.produce = produce
    super.init(vnode: vnode, location: location, flags: flags)
  }

  override func readData(at offset: UInt64, into transfer: inout Transfer) throws(Errno) -> Int {
    var current = lock.withLock { text }
    if current == nil || offset == 0 {
      var buffer = TextBuffer()
      try produce(&buffer)
      current = buffer.bytes
      lock.withLock { text = current }
    }
    guard let current, offset < current.count.u64 else { return 0 }
    return try current.withUnsafeBufferPointer { (bytes) throws(Errno) in
      try transfer.copyOut(from: UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(bytes)[offset.int...]))
    }
  }
}
