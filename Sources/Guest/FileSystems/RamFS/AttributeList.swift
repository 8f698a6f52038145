// AttributeList: the extended attributes of a file in memory, a chain of blocks of the kernel heap. Not synchronised.
import Base
import Files
import Pages

/// Names with values. A file may have 128 KiB of them.
struct AttributeList: ~Copyable {
  /// The head of a block; the name and the value follow.
  private struct Block {
    var next: UnsafeMutablePointer<Block>?
    let nameByteCount: Int
    let valueByteCount: Int
  }

  private static let maximumByteCount = 128 << 10
  private var first: UnsafeMutablePointer<Block>?
  private var byteCount = 0

  init() {}

  deinit {
    var next = first
    while let block = next {
      next = block.pointee.next
      KernelHeap.free(UnsafeMutableRawPointer(block))
    }
  }

  private static func name(of block: UnsafeMutablePointer<Block>) -> PathBytes {
    // SAFETY: the block has these bytes behind its head.
    PathBytes(UnsafeRawBufferPointer(start: UnsafeRawPointer(block + 1), count: block.pointee.nameByteCount))
  }

  private static func value(of block: UnsafeMutablePointer<Block>) -> UnsafeRawBufferPointer {
    // SAFETY: likewise, behind the name.
    UnsafeRawBufferPointer(
      start: UnsafeRawPointer(block + 1) + block.pointee.nameByteCount, count: block.pointee.valueByteCount)
  }

  /// The value of a name, valid until the list changes; nil if it is not there.
  func value(_ name: PathBytes) -> UnsafeRawBufferPointer? {
    var next = first
    while let block = next {
      if Self.name(of: block) == name { return Self.value(of: block) }
      next = block.pointee.next
    }
    return nil
  }

  /// All names, each with a NUL behind.
  var names: [UInt8] {
    var result: [UInt8] = []
    var next = first
    while let block = next {
      result.append(contentsOf: Self.name(of: block).copy)
      result.append(0)
      next = block.pointee.next
    }
    return result
  }

  /// Gives a name a value.
  /// - Throws: ENOSPC: too much, or memory is out.
  mutating func set(_ name: PathBytes, _ value: UnsafeRawBufferPointer) throws(Errno) {
    let size = MemoryLayout<Block>.size &+ name.count &+ value.count
    let old = self.value(name).map { MemoryLayout<Block>.size &+ name.count &+ $0.count } ?? 0
    guard byteCount &- old &+ size <= Self.maximumByteCount, let memory = KernelHeap.allocate(byteCount: size) else {
      throw .ENOSPC
    }
    _ = remove(name)
    let block = memory.bindMemory(to: Block.self, capacity: 1)
    block.initialize(to: Block(next: first, nameByteCount: name.count, valueByteCount: value.count))
    let bytes = UnsafeMutableRawPointer(block + 1)
    // SAFETY: room for both.
    if let start = name.bytes.baseAddress { bytes.copyMemory(from: start, byteCount: name.count) }
    if let start = value.baseAddress { (bytes + name.count).copyMemory(from: start, byteCount: value.count) }
    first = block
    byteCount &+= size
  }

  /// Takes a name out; false if it is not there.
  mutating func remove(_ name: PathBytes) -> Bool {
    var before: UnsafeMutablePointer<Block>?
    var next = first
    while let block = next {
      if Self.name(of: block) == name {
        if let before { before.pointee.next = block.pointee.next } else { first = block.pointee.next }
        byteCount &-= MemoryLayout<Block>.size &+ block.pointee.nameByteCount &+ block.pointee.valueByteCount
        KernelHeap.free(UnsafeMutableRawPointer(block))
        return true
      }
      before = block
      next = block.pointee.next
    }
    return false
  }
}
