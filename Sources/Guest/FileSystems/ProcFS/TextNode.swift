// TextNode: a file whose text is made when it is read; some take what is written to them, a write at a time.
import Base
import Files
import Locks
import Memory

/// A file with a function that writes its text.
final class TextNode: PseudoNode {
  private let produce: TextTree.Produce
  private let consume: TextTree.Consume?
  private let fileOwner: (userID: UInt32, groupID: UInt32)

  init(
    _ fileSystem: FileSystem, inode: UInt64, mode: UInt32, owner: (userID: UInt32, groupID: UInt32) = (0, 0),
    consume: TextTree.Consume? = nil, produce: @escaping TextTree.Produce
  ) {
    self.produce = produce
    self.consume = consume
    fileOwner = owner
    super.init(fileSystem, inode: inode, type: .regular, mode: mode)
  }

  override var owner: (userID: UInt32, groupID: UInt32) { fileOwner }

  /// What may be written may be cut before: `echo name > comm`.
  override func setAttributes(_ change: AttributeChange) throws(Errno) {
    guard consume != nil, change.byteCount != nil else { throw .EPERM }
  }

  override func open(_ flags: OpenFlags, at location: Location) throws(Errno) -> OpenFile {
    if flags.allowsWriting && consume == nil { throw .EACCES }
    return TextFile(self, at: location, flags, produce, consume)
  }
}

/// An open one: keeps the text from the first read, or the last from the start, on.
private final class TextFile: OpenFile {
  private let produce: TextTree.Produce
  private let consume: TextTree.Consume?
  private let lock = Mutex()
  private var text: [UInt8]?

  init(
    _ vnode: Vnode, at location: Location, _ flags: OpenFlags, _ produce: @escaping TextTree.Produce,
    _ consume: TextTree.Consume?
  ) {
    self.produce = produce
    self.consume = consume
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

  /// The most that one write tells.
  private static let mostWritten = 256

  override func writeData(at offset: UInt64, from transfer: inout Transfer) throws(Errno) -> Int {
    guard let consume else { throw .EACCES }
    let count = min(transfer.remaining, Self.mostWritten)
    var storage: [256 of UInt8] = .init(repeating: 0)
    try withUnsafeMutableBytes(of: &storage) { (all) throws(Errno) in
      let bytes = UnsafeMutableRawBufferPointer(rebasing: all[..<count])
      try transfer.copyIn(into: bytes)
      try consume(UnsafeRawBufferPointer(bytes))
    }
    lock.withLock { text = nil }
    return count
  }
}
