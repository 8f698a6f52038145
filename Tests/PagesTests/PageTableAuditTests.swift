// The audit of page tables against made-up ones: an innocent tree, and one for each thing that must be found.
import Base
import Platform
import Testing

@testable import Pages

@Suite struct PageTableAuditTests {
  private let table: PageTable
  private let linearMap = AddressMap.linearMap.start + (7 << 30)
  private let image = AddressMap.kernelImage.start + 0x1234_5000
  private let stacks = VirtualRange(start: AddressMap.kernelMappings.start, count: 8 * KernelStack.byteCount)
  /// Where the image lies: its code, its constants, its data.
  private let code = PhysicalAddress(0x60_0000)

  /// A tree as the monitor makes it: a linear map in 2 MiB pages, in 4 KiB pages around the image, which is read-only there too.
  init() {
    HostedArena.prepare()
    table = PageTable.create(sharing: PageTable(root: PhysicalAddress(0)))!
    for index: UInt64 in 0..<8 where index != 3 {
      table.slotMakingTables(linearMap + index * PageSize.large, level: 2)!.store(
        .leaf(PhysicalAddress(index * PageSize.large), writable: true, executable: false).asLarge)
    }
    for index: UInt64 in 0..<512 {
      map(linearMap + (0x60_0000 + index * 4096), code + index * 4096, writable: index >= 2)
    }
    map(image, code, executable: true)
    map(image + 4096, code + 4096)
    map(image + 8192, code + 8192, writable: true)
    for stack: UInt64 in [0, 1, 3] {
      for page: UInt64 in 4..<8 {
        map(stacks.start + (stack * 8 + page) * 4096, PhysicalAddress(0x80_0000 + page * 4096), writable: true)
      }
    }
  }

  private func map(
    _ address: VirtualAddress, _ frame: PhysicalAddress, writable: Bool = false, executable: Bool = false
  ) {
    table.slotMakingTables(address)!.store(.leaf(frame, writable: writable, executable: executable))
  }

  private func audit(allowsWritableCode: Bool = false) -> PageTableAudit {
    PageTableAudit(table, linearMap: linearMap, stacks: stacks, allowsWritableCode: allowsWritableCode)
  }

  private func expect(_ defect: PageTableAudit.Defect, at address: VirtualAddress, count: Int = 1) {
    let audit = audit()
    #expect(audit.defect == defect)
    #expect(audit.address == address)
    #expect(audit.defectCount == count)
  }

  @Test func anInnocentTreeIs() {
    let program = VirtualAddress(0x40_0000)
    map(program, PhysicalAddress(0xa0_0000), executable: true)
    map(program + 4096, PhysicalAddress(0xa0_1000), writable: true)
    // Constants of the image are shown to programs, as the vDSO is.
    map(program + 0x10000, code + 4096, executable: true)
    let audit = audit()
    #expect(audit.defect == .none && audit.defectCount == 0)
    #expect(audit.pageCount == 7 + 512 + 3 + 12 + 3)
    #expect(audit.codePageCount == 3)
    #expect(audit.stackCount == 3)
    #expect(audit.writableThroughLinearMap == 1, "the program's own code only")
  }

  @Test func writableCodeIsFound() {
    let program = VirtualAddress(0x1000_0000_0000)
    map(program, PhysicalAddress(0xa0_0000), writable: true, executable: true)
    expect(.writableCode, at: program)
    #expect(audit(allowsWritableCode: true).defectCount == 0)
    map(image + 0x10000, PhysicalAddress(0xa0_0000), writable: true, executable: true)
    #expect(audit(allowsWritableCode: true).defect == .writableCode, "never in the kernel")
  }

  @Test func aLargePageOfWritableCodeIsFound() {
    let program = VirtualAddress(0x4000_0000)
    table.slotMakingTables(program, level: 2)!.store(
      .leaf(PhysicalAddress(0xa0_0000), writable: true, executable: true).asLarge)
    expect(.writableCode, at: program)
  }

  @Test func rightsOfUpperLevelsCount() {
    let program = VirtualAddress(0x4000_0000)
    map(program, PhysicalAddress(0xa0_0000), writable: true, executable: true)
    // The directory's entry takes the right to execute away, for all below it; then the right to write.
    let directory = table.slotMakingTables(program, level: 2)!
    let entry = directory.entry
    directory.store(PageTableEntry(entry.rawValue | 1 << 63))
    #expect(audit().defectCount == 0)
    directory.store(entry.asReadOnly)
    #expect(audit().defectCount == 0)
    directory.store(entry)
    expect(.writableCode, at: program)
  }

  @Test func theNullPageIsFound() {
    map(VirtualAddress(0), PhysicalAddress(0xa0_0000))
    expect(.nullPage, at: VirtualAddress(0))
    table.slot(VirtualAddress(0)).slot.store(.absent)
    map(AddressMap.programStart - 4096, PhysicalAddress(0xa0_0000))
    expect(.nullPage, at: AddressMap.programStart - 4096)
  }

  @Test func pagesOfTheUpperHalfAreFound() {
    map(VirtualAddress(0xffff_8000_0000_0000), PhysicalAddress(0xa0_0000))
    expect(.strayPage, at: VirtualAddress(0xffff_8000_0000_0000))
  }

  @Test func kernelCodeOutsideTheImageIsFound() {
    let window = AddressMap.deviceWindows.start + 0x5000
    map(window, PhysicalAddress(0xa0_0000), executable: true)
    expect(.strayCode, at: window)
  }

  @Test func aWritableAliasOfTheImageIsFound() {
    // In the linear map, as if it had not been split; in a program; in a large page that reaches into it.
    map(linearMap + 0x60_1000, code + 4096, writable: true)
    expect(.writableAlias, at: linearMap + 0x60_1000)
    map(linearMap + 0x60_1000, code + 4096)
    let program = VirtualAddress(0x4000_0000)
    map(program, code, writable: true)
    expect(.writableAlias, at: program)
    table.slot(program).slot.store(.absent)
    table.slotMakingTables(program + PageSize.large, level: 2)!.store(
      .leaf(code, writable: true, executable: false).asLarge)
    expect(.writableAlias, at: program + PageSize.large)
  }

  @Test func aStackWithoutGuardIsFound() {
    let guardPage = stacks.start + 11 * 4096
    map(guardPage, PhysicalAddress(0xa0_0000), writable: true)
    expect(.unguardedStack, at: guardPage)
    table.slot(guardPage).slot.store(.absent)
    var audit = audit()
    audit.requireGuard(image - 4096, in: table)
    #expect(audit.defectCount == 0)
    audit.requireGuard(image + 8192, in: table)
    #expect(audit.defect == .unguardedStack && audit.address == image + 8192)
  }
}
