// Writing the boot information: the head, tables of a size that is known beforehand, and strings behind them.
import Base
import VirtioABI

/// The boot information while it is written.
struct Information {
  /// Where it lies.
  let physical: UInt64
  // SAFETY: `byteCount` bytes from the arena; offsets are compared with it before anything is written.
  private let base: UnsafeMutableRawPointer
  private let byteCount: Int
  private var next: Int
  /// What stands at its start in the end.
  var head: BootInformation

  /// Bytes that tables and strings take at most.
  struct Room {
    var files = 0
    var mounts = 0
    var devices = 0
    var networks = 0
    var strings = 0

    fileprivate var byteCount: Int {
      (MemoryLayout<BootInformation>.stride &+ files &* MemoryLayout<BootFile>.stride
        &+ mounts &* MemoryLayout<BootMount>.stride &+ devices &* MemoryLayout<BootDevice>.stride
        &+ networks &* MemoryLayout<BootNetwork>.stride).alignedUp(to: 8) &+ strings
    }
  }

  /// Takes memory, and places the tables.
  init(_ arena: inout Arena, _ room: Room, head: BootInformation) throws(BootstrapFailure) {
    self.head = head
    byteCount = room.byteCount
    physical = try arena.allocate(byteCount: byteCount.u64)
    base = arena.pointer(physical)
    next = MemoryLayout<BootInformation>.stride
    self.head.filesOffset = place(room.files &* MemoryLayout<BootFile>.stride)
    self.head.mountsOffset = place(room.mounts &* MemoryLayout<BootMount>.stride)
    self.head.devicesOffset = place(room.devices &* MemoryLayout<BootDevice>.stride)
    self.head.networksOffset = place(room.networks &* MemoryLayout<BootNetwork>.stride)
    next = next.alignedUp(to: 8)
  }

  private mutating func place(_ count: Int) -> UInt32 {
    defer { next &+= count }
    return next.u32
  }

  /// Where the next string will be: a list of strings begins with its first one.
  var nextOffset: UInt32 { next.u32 }

  /// Adds a string, "prefix" and then the word, and its NUL.
  /// - Returns: its offset.
  mutating func add(_ word: Word, prefix: StaticString = "") throws(BootstrapFailure) -> UInt32 {
    let offset = next
    guard next &+ prefix.utf8CodeUnitCount &+ word.count &+ 1 <= byteCount else {
      throw BootstrapFailure("the command line is too long")
    }
    for index in 0..<prefix.utf8CodeUnitCount { put(prefix.utf8Start[index]) }
    for index in 0..<word.count { put(word[index]) }
    put(0)
    return offset.u32
  }

  /// Adds a string.
  mutating func add(_ text: StaticString) throws(BootstrapFailure) -> UInt32 {
    try add(Word(text))
  }

  private mutating func put(_ byte: UInt8) {
    base.storeBytes(of: byte, toByteOffset: next, as: UInt8.self)
    next &+= 1
  }

  /// Adds an entry to a table; the room that was asked for must be enough.
  private func set<Entry>(_ table: UInt32, _ index: UInt32, _ entry: Entry) {
    let offset = table.int &+ index.int &* MemoryLayout<Entry>.stride
    precondition(offset &+ MemoryLayout<Entry>.stride <= byteCount)
    base.storeBytes(of: entry, toByteOffset: offset, as: Entry.self)
  }

  /// Adds a file.
  mutating func add(_ file: BootFile) {
    set(head.filesOffset, head.fileCount, file)
    head.fileCount &+= 1
  }
  /// Adds a file system.
  mutating func add(_ mount: BootMount) {
    set(head.mountsOffset, head.mountCount, mount)
    head.mountCount &+= 1
  }
  /// Adds a device.
  mutating func add(_ device: BootDevice) {
    set(head.devicesOffset, head.deviceCount, device)
    head.deviceCount &+= 1
  }
  /// Adds a network interface.
  mutating func add(_ network: BootNetwork) {
    set(head.networksOffset, head.networkCount, network)
    head.networkCount &+= 1
  }
  /// A device that was added.
  func device(_ index: UInt32) -> BootDevice {
    base.load(
      fromByteOffset: head.devicesOffset.int &+ index.int &* MemoryLayout<BootDevice>.stride, as: BootDevice.self)
  }

  /// Writes the head.
  mutating func finish() {
    head.byteCount = next.u32
    base.storeBytes(of: head, as: BootInformation.self)
  }
}
