// The page-table walker against a dictionary, and the kernel's own mappings.
import Base
import Platform
import Testing

@testable import Pages

@Suite struct PageTableTests {
  static func makeTable() -> PageTable {
    HostedArena.prepare()
    return PageTable.create(sharing: PageTable(root: PhysicalAddress(0)))!
  }

  @Test(arguments: [1, 2, 3]) func agreesWithAModel(seed: UInt64) {
    var random = Generator(state: seed)
    let table = Self.makeTable()
    var model: [UInt64: UInt64] = [:]
    // Few addresses close together in several places, so that tables are shared and also far apart.
    func page() -> UInt64 {
      let places: [UInt64] = [0x40_0000, 0x1fff_ffe0_0000, 0x1234_5678_9000, 0x3fff_ff80_0000]
      let place = places[Int.random(in: 0..<4, using: &random)]
      return place &+ UInt64.random(in: 0..<1024, using: &random) << 12
    }
    for _ in 0..<4000 {
      let address = page()
      switch Int.random(in: 0..<4, using: &random) {
      case 0, 1:
        let frame = UInt64.random(in: 1..<1 << 30, using: &random) << 12
        table.slotMakingTables(VirtualAddress(address))!.store(
          .leaf(PhysicalAddress(frame), writable: true, executable: false))
        model[address] = frame
      case 2:
        let (slot, level) = table.slot(VirtualAddress(address))
        if level == 1 { slot.store(.absent) }
        model[address] = nil
      default:
        let found = table.translate(VirtualAddress(address &+ 123))
        #expect(found?.rawValue == model[address].map { $0 &+ 123 })
      }
    }
    var seen: [UInt64: UInt64] = [:]
    table.forEachPage(in: VirtualRange(start: VirtualAddress(0), end: AddressMap.programEnd)) { slot, level, address in
      #expect(level == 1)
      #expect(slot.entry.rawValue & 4 != 0, "U=1 everywhere")
      seen[address.rawValue] = slot.entry.frame.rawValue
      slot.store(.absent)
    }
    let agrees = seen == model
    #expect(agrees)
    table.destroy()
  }

  @Test func largePagesSplitAndTablesGo() {
    let table = Self.makeTable()
    let base = VirtualAddress(0x4000_0000)
    let frame = PhysicalAddress(0x20_0000)
    table.slotMakingTables(base, level: 2)!.store(.leaf(frame, writable: true, executable: false).asLarge)
    #expect(table.slotMakingTables(base + 0x5000) == nil, "a 2 MiB page is in the way")
    #expect(table.translate(base + 0x12345) == frame + 0x12345)
    let (slot, level) = table.slot(base + 0x3000)
    #expect(level == 2)
    #expect(table.splitLarge(slot))
    #expect(table.translate(base + 0x12345) == frame + 0x12345)
    #expect(table.slot(base + 0x3000).level == 1)
    var pages = 0
    table.forEachPage(in: VirtualRange(start: base + 0x3000, count: 0x5000)) { slot, level, _ in
      pages += level == 1 && slot.entry.isWritable && !slot.entry.isLarge ? 1 : 0
    }
    #expect(pages == 5)
    table.forEachPage(in: VirtualRange(start: base, count: 0x20_0000)) { slot, _, _ in slot.store(.absent) }
    var freed = 0
    table.removeTables(in: VirtualRange(start: base, count: 0x40_0000)) {
      Frames.free($0)
      freed += 1
    }
    #expect(freed == 1)
    #expect(table.slot(base).level == 2)
    table.destroy()
  }

  @Test func kernelStacksHaveGuardsAndComeBack() {
    HostedArena.prepare()
    #expect(KernelMappings.initialise(root: Frames.allocate(zeroed: true)!, seed: 0x1234_5678_9abc))
    let first = KernelStack.allocate()!
    let second = KernelStack.allocate()!
    #expect(AddressMap.kernelMappings.contains(first.base))
    #expect(first.top.isAligned(to: 16384))
    let table = KernelMappings.kernelTable
    for stack in [first, second] {
      #expect(table.translate(stack.base - 1) == nil)
      #expect(table.translate(stack.top) == nil)
      for offset: UInt64 in [0, 4096, 8192, 16383] { #expect(table.translate(stack.base + offset) != nil) }
      #expect(!table.slot(stack.base).slot.entry.isExecutable)
    }
    first.free()
    #expect(KernelStack.allocate()!.base == first.base)
    first.free()
    second.free()
    KernelStack.trim()
    #expect(table.translate(first.base) == nil)
    let third = KernelStack.allocate()!
    #expect(third.base == first.base || third.base == second.base, "addresses are used again")
    third.free()

    let registers = PhysicalRange(start: PhysicalAddress(0xd000_1010), count: 0x1ff8)
    let window = VirtualAddress(DeviceWindows.map(registers)!)
    #expect(AddressMap.deviceWindows.contains(window))
    #expect(table.translate(window) == registers.start)
    #expect(table.translate(window + 0x1ff7) == registers.start + 0x1ff7)
  }
}
