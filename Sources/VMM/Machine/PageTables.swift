// The guest's first page tables. Every entry has the user bit (kvm_pvm runs the kernel at CPL 3), accessed and
// dirty are set beforehand so that the processor need not write them back, and nothing is writable and executable.

/// Builds a four-level table in guest memory.
struct PageTables {
  /// What may be done with a page; all may be read.
  struct Access: OptionSet {
    let rawValue: UInt64
    static let write = Access(rawValue: 1 << 1)
    static let execute = Access(rawValue: 1 << 63)
  }

  /// Physical address of the top table.
  let root: UInt64
  private var allocator: BootAllocator

  /// Starts with an empty top table.
  init(_ allocator: BootAllocator) throws(Failure) {
    self.allocator = allocator
    root = try allocator.allocate(pages: 1).physical
  }

  private static let present: UInt64 = 1 << 0
  private static let user: UInt64 = 1 << 2
  private static let accessed: UInt64 = 1 << 5
  private static let dirty: UInt64 = 1 << 6
  private static let large: UInt64 = 1 << 7
  private static let noExecute: UInt64 = 1 << 63
  private static let addressMask: UInt64 = 0x000f_ffff_ffff_f000

  /// The table that entry `index` of the table at `physical` points to, made if it is not there.
  private mutating func next(_ physical: UInt64, _ index: UInt64) throws(Failure) -> UInt64 {
    let entry = allocator.words(physical) + Int(index & 511)
    if entry.pointee & Self.present == 0 {
      let table = try allocator.allocate(pages: 1).physical
      entry.pointee = table | Self.present | Access.write.rawValue | Self.user | Self.accessed
    }
    return entry.pointee & Self.addressMask
  }

  private static func leaf(_ physical: UInt64, _ access: Access) -> UInt64 {
    var entry = physical | present | user | accessed
    if access.contains(.write) { entry |= Access.write.rawValue | dirty }
    if !access.contains(.execute) { entry |= noExecute }
    return entry
  }

  /// Maps [virtual, virtual+byteCount) to `physical` in 4 KiB pages; all three are multiples of that. A page that
  /// was already there is replaced.
  mutating func map(_ virtual: UInt64, to physical: UInt64, byteCount: UInt64, _ access: Access) throws(Failure) {
    var offset: UInt64 = 0
    while offset < byteCount {
      let address = virtual + offset
      let table = try next(next(next(root, address >> 39), address >> 30), address >> 21)
      let count = min((byteCount - offset) >> 12, 512 - (address >> 12 & 511))
      let words = allocator.words(table) + Int(address >> 12 & 511)
      for index in 0..<count {
        words[Int(index)] = Self.leaf(physical + offset + index << 12, access)
      }
      offset += count << 12
    }
  }

  /// Maps with 2 MiB pages; all three numbers are multiples of that.
  mutating func mapLarge(_ virtual: UInt64, to physical: UInt64, byteCount: UInt64, _ access: Access) throws(Failure) {
    var offset: UInt64 = 0
    while offset < byteCount {
      let address = virtual + offset
      let directory = try next(next(root, address >> 39), address >> 30)
      let count = min((byteCount - offset) >> 21, 512 - (address >> 21 & 511))
      let words = allocator.words(directory) + Int(address >> 21 & 511)
      for index in 0..<count {
        words[Int(index)] = Self.leaf(physical + offset + index << 21, access) | Self.large
      }
      offset += count << 21
    }
  }

  /// Takes the 4 KiB page at `virtual` away, where there are 4 KiB pages.
  func unmap(_ virtual: UInt64) {
    var table = root
    for shift in [39, 30, 21] as [UInt64] {
      let entry = allocator.words(table)[Int(virtual >> shift & 511)]
      guard entry & Self.present != 0, entry & Self.large == 0 else { return }
      table = entry & Self.addressMask
    }
    allocator.words(table)[Int(virtual >> 12 & 511)] = 0
  }

  /// Replaces the 2 MiB pages that touch [virtual, virtual+byteCount) by 4 KiB pages with the same access.
  mutating func split(_ virtual: UInt64, byteCount: UInt64) throws(Failure) {
    var address = virtual & ~0x1f_ffff
    while address < virtual + byteCount {
      let directory = try next(next(root, address >> 39), address >> 30)
      let entry = allocator.words(directory) + Int(address >> 21 & 511)
      let old = entry.pointee
      if old & Self.present != 0, old & Self.large != 0 {
        entry.pointee = 0
        let table = try next(directory, address >> 21)
        let words = allocator.words(table)
        for index in 0..<512 { words[index] = (old & ~Self.large) + UInt64(index) << 12 }
      }
      address += 2 << 20
    }
  }
}
