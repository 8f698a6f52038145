// The kernel's start under another monitor, on a model of a PC.
import Base
import Foundation
import Testing
import VirtioABI

@testable import Bootstrap

/// The sentence with which a start is refused; nil if it is not.
func refusal(_ body: () throws -> Void) -> String? {
  do { try body() } catch let failure as BootstrapFailure { return "\(failure.reason)" } catch { return "\(error)" }
  return nil
}

@Suite struct BootstrapTests {
  @Test func aProgramAsTheModule() throws {
    let machine = ModelMachine()
    let program = [UInt8]("\u{7f}ELF and so on".utf8) + [UInt8](repeating: 7, count: 5000)
    machine.putStartInfo(
      commandLine: "--env A='b c' --hostname box --workdir /tmp --log=syscalls,signals /usr/bin/tool one \"two three\"",
      module: program)
    let result = try machine.run()
    let told = Told(machine, result)
    #expect(told.head.magic == BootInformation.magicValue && told.head.version == BootInformation.currentVersion)
    #expect(told.arguments == ["/usr/bin/tool", "one", "two three"])
    #expect(told.text(told.head.programOffset) == "/tool")
    #expect(told.environment.suffix(1) == ["A=b c"] && told.environment.count == 3)
    #expect(told.environment.contains("HOME=/") && told.environment.contains { $0.hasPrefix("PATH=/usr") })
    #expect(told.text(told.head.hostNameOffset) == "box" && told.text(told.head.workingDirectoryOffset) == "/tmp")
    #expect(told.head.log == BootLog.systemCalls | BootLog.signals)
    #expect(told.head.flags == BootFlags.foreignMonitor | BootFlags.memoryIsUsed)
    let file = try #require(told.file("/tool"))
    #expect(told.content(file) == program && file.mode == 0o100755 && file.physical % 4096 == 0)
    #expect(told.file("/etc/passwd") != nil)
    #expect(told.head.byteCount <= 3 * 4096)
    // All that was laid down is behind the image and before what is free; the module is behind that.
    let free = told.head.freeMemoryStart..<told.head.memoryByteCount
    for address in [result.information, told.head.clockPhysical, told.head.pageTableRoot, file.physical] {
      #expect(address >= ModelMachine.image.place.end && address < free.lowerBound)
    }
    #expect(told.head.memoryByteCount % (2 << 20) == 0 && free.count > 40 << 20)
    #expect(told.head.memoryByteCount <= machine.load(0x4000, as: UInt64.self)!)
    #expect(told.head.interruptControllerPhysical == ModelMachine.controller)
    #expect(told.head.extendedStateMask == 7 && told.head.extendedStateByteCount == 832)
    #expect(told.head.cpuFeatures & BootCPUFeatures.fsgsbase != 0 && result.features.control4 == 0x5_0620)
  }

  @Test func timesAreMeasured() throws {
    let machine = ModelMachine()
    machine.putStartInfo(commandLine: "x")
    // The first measurement is spoilt: half of its time is over before it is known to have begun.
    machine.delay = 5_000_000
    let told = Told(machine, try machine.run())
    let clock = (machine.ram + Int(told.head.clockPhysical)).load(as: ClockPage.self)
    #expect(abs(Double(clock.frequency) / 2_100_000_000 - 1) < 0.001)
    #expect(abs(Double(told.head.timerFrequency) / 62_500_000 - 1) < 0.001)
    #expect(abs(Double(clock.multiplier) / 4_294_967_296 * 2.1 - 1) < 0.001)
    #expect(clock.realtimeOffset == 1_795_869_296 * 1_000_000_000, "2026-11-28 12:34:56 UTC")
    #expect(clock.memoryByteCount == told.head.memoryByteCount)
    // Nothing interrupts: both old controllers are masked, and the local one's pins.
    #expect(machine.ports[0x21] == 0xff && machine.ports[0xa1] == 0xff)
    #expect(machine.registers[Calibration.Register.linePin0] == 1 << 16)
    #expect(machine.registers[Calibration.Register.initialCount] == 0)
  }

  @Test func aHypervisorsFrequenciesAreBelieved() throws {
    let machine = ModelMachine()
    machine.putStartInfo(commandLine: "x")
    machine.hasTimer = false
    #expect(refusal { _ = try machine.run() }?.contains("8254") == true)
    machine.cpuid[1]!.c |= 1 << 31 | 1 << 21 | 1 << 24
    machine.cpuid[0x4000_0000] = (0x4000_0010, 0, 0, 0)
    machine.cpuid[0x4000_0010] = (2_400_000, 1_000_000, 0, 0)
    let result = try machine.run()
    let told = Told(machine, result)
    #expect((machine.ram + Int(told.head.clockPhysical)).load(as: ClockPage.self).frequency == 2_400_000_000)
    // With deadlines and the newer controller the kernel does as under osv-run.
    #expect(told.head.timerFrequency == 0 && told.head.interruptControllerPhysical == 0)
    #expect(result.features.hasX2APIC && told.head.cpuFeatures & BootCPUFeatures.tscDeadline != 0)
  }

  @Test func theKernelsTablesAreAsOsvRunMakesThem() throws {
    let machine = ModelMachine()
    machine.putStartInfo(commandLine: "x")
    let result = try machine.run()
    let layout = result.layout
    func walk(_ virtual: UInt64) -> (entry: UInt64, physical: UInt64)? {
      var table = layout.pageTableRoot
      for level in [39, 30, 21, 12] as [UInt64] {
        let entry = layout.tables.memory.words(table)[Int(virtual >> level & 511)]
        guard entry & 1 != 0 else { return nil }
        let target = entry & 0x000f_ffff_ffff_f000
        if level == 12 || entry & 0x80 != 0 {
          return (entry, (target & ~(1 << level - 1)) + virtual & (1 << level - 1))
        }
        table = target
      }
      return nil
    }
    let image = ModelMachine.image
    for offset in stride(from: UInt64(0), to: image.place.byteCount, by: 4096) {
      let found = walk(layout.kernelVirtual + offset)
      let isGap = offset == 0x1a_f000
      #expect((found == nil) == isGap, "\(offset)")
      guard let found else { continue }
      #expect(found.physical == image.place.start + offset)
      #expect(found.entry >> 63 == (offset < 0x10_0000 ? 0 : 1) && found.entry & 2 == (offset < 0x12_0000 ? 0 : 2))
      let linear = try #require(walk(layout.linear(image.place.start + offset)))
      #expect(linear.entry & 2 == (offset < 0x12_0000 ? 0 : 2) && linear.entry >> 63 == 1)
    }
    let controller = try #require(walk(layout.linear(ModelMachine.controller)))
    #expect(controller.physical == ModelMachine.controller && controller.entry & 0x1a == 0x1a)
    #expect(walk(layout.linear(Told(machine, result).head.memoryByteCount)) == nil)
    for guardPage in [0x1000, 0x4000, 0x8000] as [UInt64] {
      #expect(walk(layout.linear(layout.perCPU + guardPage)) == nil)
    }
    // What has been given out is zero but for what was written: memory was not.
    let area = machine.ram + Int(layout.perCPU)
    #expect((0..<0xc000).allSatisfy { area.load(fromByteOffset: $0, as: UInt8.self) == 0 })
  }

  @Test func aProgramInTheImageNeedsNoPath() throws {
    let machine = ModelMachine()
    machine.putStartInfo(commandLine: "-m 64 -p 11211")
    var image = ModelMachine.image
    image.hasProgram = true
    let told = Told(machine, try machine.run(image: image))
    #expect(told.arguments == ["image", "-m", "64", "-p", "11211"] && told.head.programOffset == 0)
    machine.putStartInfo(commandLine: "")
    #expect(Told(machine, try machine.run(image: image)).arguments == ["image"])
    machine.putStartInfo(commandLine: "--env X=y -- --one")
    #expect(Told(machine, try machine.run(image: image)).arguments == ["image", "--one"])
    machine.putStartInfo(commandLine: "--self-test")
    let test = Told(machine, try machine.run())
    #expect(test.head.flags & BootFlags.selfTest != 0 && test.arguments == ["image"])
  }

  @Test func whatCannotBeStartedIsTold() throws {
    let machine = ModelMachine()
    func refusal(_ line: String, module: [UInt8] = []) -> String {
      machine.putStartInfo(commandLine: line, module: module)
      return sentence { _ = try machine.run() } ?? "accepted"
    }
    #expect(refusal("").contains("names no program"))
    #expect(refusal("--frob x").contains("unknown option"))
    #expect(refusal("x --frob") == "accepted", "behind the program's path all is the program's")
    #expect(refusal("--env").contains("wants a value"))
    #expect(refusal("--env x y").contains("NAME=VALUE"))
    #expect(refusal("--root nothing x").contains("no virtio-fs device"))
    #expect(refusal("--volume tag x").contains("TAG:PATH"))
    #expect(refusal("--volume tag:/x:rw x").contains(":ro"))
    #expect(refusal("--tmpfs tmp x").contains("absolute path"))
    #expect(refusal("--tmpfs /tmp:0 x").contains("MEBIBYTES"))
    #expect(refusal("--workdir tmp x").contains("absolute path"))
    #expect(refusal("--log all x").contains("--log knows"))
    #expect(refusal("--net dhcp x").contains("more of --net"))
    #expect(refusal("///").contains("no name"))
    #expect(refusal("x", module: [UInt8](repeating: 0, count: 61 << 20)).contains("too little memory"))
    machine.cpuid[7]!.b = 0
    #expect(refusal("x").contains("FSGSBASE"))
    machine.cpuid[7]!.b = 1
    machine.putStartInfo(commandLine: "x")
    machine.put(0 as UInt32, at: 0x1000)
    #expect(sentence { _ = try machine.run() }?.contains("no start information") == true)
  }

  @Test func mountsAreInOrder() throws {
    let machine = ModelMachine()
    machine.putStartInfo(commandLine: "--tmpfs /a/b/c:3 --tmpfs /a x")
    let told = Told(machine, try machine.run())
    #expect(told.mounts.map { told.text($0.pathOffset) } == ["/a", "/a/b/c"])
    #expect(told.mounts.map(\.mebibyteLimit) == [0, 3] && told.mounts.allSatisfy { $0.flags == BootMount.Flag.memory })
  }
}

/// The same under a name that a test's own function does not hide.
private func sentence(_ body: () throws -> Void) -> String? { refusal(body) }
