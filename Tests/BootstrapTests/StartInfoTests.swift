// Where memory is free around what a monitor has laid into it, and what is refused.
import Testing

@testable import Bootstrap

@Suite struct StartInfoTests {
  private let image = ModelMachine.image.place

  private func free(_ machine: ModelMachine) throws -> StartInfo.Piece {
    try StartInfo(machine, at: 0x1000, image: image).free(behind: image)
  }

  @Test func everythingBehindTheImage() throws {
    let machine = ModelMachine()
    machine.putStartInfo(commandLine: "line")
    let start = try StartInfo(machine, at: 0x1000, image: image)
    #expect(start.commandLine.byteCount == 4 && start.module.byteCount == 0)
    let free = try start.free(behind: image)
    #expect(free.start == image.end && free.end == 62 << 20)
  }

  @Test func whatLiesThereIsAvoided() throws {
    let machine = ModelMachine()
    // A monitor that puts everything right behind the image.
    machine.putStartInfo(commandLine: "")
    machine.put(Array("a line\0".utf8), at: 0x40_0ff0)
    machine.put(0x40_0ff0 as UInt64, at: 0x1018)
    #expect(try free(machine).start == 0x40_1000)
    // And a module in the upper half.
    machine.put(1 as UInt32, at: 0x100c)
    machine.put(0x4000 as UInt64, at: 0x1010)
    machine.put(50 << 20 + 12345 as UInt64, at: 0x4000)
    machine.put(1 << 20 as UInt64, at: 0x4008)
    #expect(try free(machine).end == 50 << 20)
  }

  /// Where the kernel's address map has its hole, RAM that goes on is not counted: the kernel would look for it at 4 GiB.
  @Test func memoryBehindTheHole() throws {
    let machine = ModelMachine()
    machine.putStartInfo(commandLine: "x")
    machine.put(0xd000_0000 - 0x10_0000 as UInt64, at: 0x3000 + 2 * 24 + 8)
    #expect(try free(machine).end == 0xc000_0000)
  }

  @Test func lies() throws {
    let machine = ModelMachine()
    machine.putStartInfo(commandLine: "x")
    machine.put(1 as UInt32, at: 0x100c)
    for (table, start, count) in [
      (0x4000, 1 << 40, 1), (0x4000, 1 << 20, 1 << 40), (0x4000, 1 << 20, UInt64.max), (1 << 50, 0, 0),
    ] as [(UInt64, UInt64, UInt64)] {
      machine.put(table, at: 0x1010)
      if table == 0x4000 {
        machine.put(start, at: 0x4000)
        machine.put(count, at: 0x4008)
        #expect(refusal { _ = try free(machine) }?.contains("module") == true)
      } else {
        #expect(refusal { _ = try free(machine) } == nil, "a list that is nowhere has no module")
      }
    }
    machine.putStartInfo(commandLine: "x")
    machine.put(UInt64.max - 10, at: 0x1028)
    #expect(refusal { _ = try free(machine) }?.contains("image does not lie") == true)
    machine.put(0x3000 as UInt64, at: 0x1028)
    machine.put(0 as UInt32, at: 0x1030)
    #expect(refusal { _ = try free(machine) }?.contains("where memory is") == true)
    machine.put(3 as UInt32, at: 0x1030)
    machine.put(0xffff_ffff_0000 as UInt64, at: 0x1018)
    #expect(refusal { _ = try free(machine) }?.contains("command line") == true)
    machine.put([UInt8](repeating: 0x78, count: 5000), at: 0x10_0000)
    machine.put(0x10_0000 as UInt64, at: 0x1018)
    #expect(refusal { _ = try free(machine) }?.contains("4,095") == true)
    machine.put(0 as UInt64, at: 0x1018)
    machine.put(UInt32.max, at: 0x1030)
    #expect(try free(machine).start == image.end)
  }
}
