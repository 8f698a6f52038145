// An audit of page tables: what no tree may ever show, however it came about. The self-tests run it on the live tables.
//
// Rights are the CPU's: a store needs the bit at every level, a fetch must be forbidden at none. Found guilty are
//   * a page that can be written and executed, in the kernel's part always, in a program's unless it is asked to be let off
//     (a program may map memory with both rights, and gets what it asks for);
//   * anything below the first address of programs, or above the kernel's last;
//   * code in the kernel's part outside its image;
//   * a second, writable view of the image's code and constants, anywhere;
//   * a page where the kernel's stacks have their guards.
// The linear map shows all other memory writable, programs' code and the page tables themselves among it: that alias is how
// code is loaded and changed (`CodePatcher` prepares a copy there before anybody can execute it), so it is counted and not found guilty.
import Base
import Platform

/// A page as the CPU sees it.
public struct MappedPage: Equatable {
  /// Its first byte.
  public var address: VirtualAddress
  /// Its size: 4 KiB, 2 MiB or 1 GiB.
  public var byteCount: UInt64
  /// Where it lies in physical memory.
  public var frame: PhysicalAddress
  /// Whether stores are allowed.
  public var isWritable: Bool
  /// Whether fetches are allowed.
  public var isExecutable: Bool
}

extension PageTable {
  /// Calls `body` with each page of the whole tree, in the order of addresses.
  public func forEachMapped(_ body: (MappedPage) -> Void) {
    visit(root, level: 4, base: 0, isWritable: true, isExecutable: true, body)
  }

  private func visit(
    _ table: PhysicalAddress, level: Int, base: UInt64, isWritable: Bool, isExecutable: Bool,
    _ body: (MappedPage) -> Void
  ) {
    let size = PageSize.small << (9 &* (level &- 1).u64)
    for index in 0..<512 {
      let entry = PageTableSlot(table: table, index: index).entry
      guard entry.isPresent else { continue }
      var start = base &+ index.u64 &* size
      // The upper half is above a gap.
      if level == 4 && index >= 256 { start |= 0xffff_0000_0000_0000 }
      let writable = isWritable && entry.isWritable
      let executable = isExecutable && entry.isExecutable
      if level == 1 || (level <= 3 && entry.isLarge) {
        body(
          MappedPage(
            address: VirtualAddress(start), byteCount: size,
            frame: PhysicalAddress(entry.frame.rawValue & ~(size &- 1)), isWritable: writable, isExecutable: executable)
        )
      } else {
        visit(
          entry.frame, level: level &- 1, base: start, isWritable: writable, isExecutable: executable, body)
      }
    }
  }
}

/// What an audit found.
public struct PageTableAudit {
  /// What can be wrong.
  public enum Defect {
    /// Nothing is.
    case none
    /// A page can be written and executed.
    case writableCode
    /// A page lies below the first address of programs.
    case nullPage
    /// A page lies above the kernel's addresses.
    case strayPage
    /// Code of the kernel's part lies outside its image.
    case strayCode
    /// Code or constants of the image can be written through another page.
    case writableAlias
    /// A page is where a guard should be.
    case unguardedStack

    /// A headline.
    public var text: StaticString {
      switch self {
      case .none: "nothing"
      case .writableCode: "a page is writable and executable"
      case .nullPage: "the null page is mapped"
      case .strayPage: "a page lies above the kernel's addresses"
      case .strayCode: "kernel code lies outside the image"
      case .writableAlias: "the image's code can be written through another page"
      case .unguardedStack: "a stack has no guard page"
      }
    }
  }

  /// The first defect, and where.
  public private(set) var defect: Defect = .none
  /// The page with the first defect.
  public private(set) var address = VirtualAddress(0)
  /// How many there are.
  public private(set) var defectCount = 0
  /// Pages looked at, of whatever size.
  public private(set) var pageCount = 0
  /// Those with code.
  public private(set) var codePageCount = 0
  /// Pages with code of programs that the linear map shows writable: by design, see above.
  public private(set) var writableThroughLinearMap = 0
  /// Stacks of the kernel that have memory.
  public private(set) var stackCount = 0

  /// Looks at a whole tree.
  /// - Parameters:
  ///   - table: the tree.
  ///   - linearMap: where it shows physical address 0.
  ///   - stacks: where kernel stacks have been given out: each behind as many bytes of guard.
  ///   - allowsWritableCode: whether programs may have memory with both rights.
  public init(
    _ table: PageTable, linearMap: VirtualAddress, stacks: VirtualRange, allowsWritableCode: Bool = false
  ) {
    var audit = PageTableAudit()
    // The image's code and constants lie one behind the other in physical memory.
    var first = UInt64.max
    var end: UInt64 = 0
    table.forEachMapped { page in
      guard AddressMap.kernelImage.contains(page.address), !page.isWritable else { return }
      first = min(first, page.frame.rawValue)
      end = max(end, page.frame.rawValue &+ page.byteCount)
    }
    table.forEachMapped { page in
      audit.look(at: page, stacks, allowsWritableCode)
      if page.isWritable && page.frame.rawValue < end && page.frame.rawValue &+ page.byteCount > first {
        audit.found(.writableAlias, page.address)
      }
      if page.isExecutable && AddressMap.program.contains(page.address) {
        let alias = table.slot(linearMap + page.frame.rawValue).slot.entry
        if alias.isPresent && alias.isWritable { audit.writableThroughLinearMap &+= 1 }
      }
    }
    self = audit
  }

  private init() {}

  private mutating func look(at page: MappedPage, _ stacks: VirtualRange, _ allowsWritableCode: Bool) {
    pageCount &+= 1
    let isKernel = page.address >= AddressMap.programEnd
    if page.isExecutable { codePageCount &+= 1 }
    if page.isWritable && page.isExecutable && (isKernel || !allowsWritableCode) { found(.writableCode, page.address) }
    if page.address < AddressMap.programStart { found(.nullPage, page.address) }
    if page.address >= VirtualAddress(AddressMap.kernelSlotEnd.u64 << 39) { found(.strayPage, page.address) }
    if isKernel && page.isExecutable && !AddressMap.kernelImage.contains(page.address) {
      found(.strayCode, page.address)
    }
    if stacks.contains(page.address) {
      let offset = (page.address - stacks.start) % (2 &* KernelStack.byteCount)
      if offset < KernelStack.byteCount { found(.unguardedStack, page.address) }
      if offset == KernelStack.byteCount { stackCount &+= 1 }
    }
  }

  /// Notes a defect unless the page at `guardPage` is missing, as it must be below a stack.
  public mutating func requireGuard(_ guardPage: VirtualAddress, in table: PageTable) {
    if table.translate(guardPage) != nil { found(.unguardedStack, guardPage) }
  }

  private mutating func found(_ defect: Defect, _ address: VirtualAddress) {
    defectCount &+= 1
    guard self.defect == .none else { return }
    self.defect = defect
    self.address = address
  }
}
