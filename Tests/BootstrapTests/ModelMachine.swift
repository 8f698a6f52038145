// A machine for the bootstrap: RAM, a PCI bus with our own devices, timers that run by a counter which each look moves on.
import Base
import Testing
import VirtioABI
import VirtioPCI

@testable import Bootstrap
@testable import Machine

/// RAM from physical address 0 on, and a PC around it.
final class ModelMachine: BareMachine {
  static let controller: UInt64 = 0xfee0_0000
  let ramByteCount: UInt64
  let ram: UnsafeMutableRawPointer
  var bus = PCIHost([])
  /// Cycles of the time-stamp counter; each look at anything takes `step`.
  var cycles: UInt64 = 1_000_000
  var step: UInt64 = 1000
  var timeStampFrequency: UInt64 = 2_100_000_000
  /// Counts of the local timer a second, by 16 already.
  var timerFrequency: UInt64 = 62_500_000
  /// Whether the 8254 counts.
  var hasTimer = true
  /// The clock chip's registers.
  var clock: [UInt8: UInt8] = [:]
  var cpuid: [UInt32: (a: UInt32, b: UInt32, c: UInt32, d: UInt32)] = [:]
  var registers: [UInt64: UInt32] = [:]
  var ports: [UInt16: UInt32] = [:]
  /// What the bootstrap has said.
  var said: [String] = []
  /// Cycles by which the first of the timer's starts is delayed behind the write, as by a host that is busy.
  var delay: UInt64 = 0

  private var clockIndex: UInt8 = 0
  private var timerBytes: [UInt8] = []
  private var timerEnd: UInt64?
  private var countStart: UInt64 = 0

  init(ramByteCount: UInt64 = 64 << 20) {
    self.ramByteCount = ramByteCount
    ram = .allocate(byteCount: Int(ramByteCount), alignment: 4096)
    // What was there before is not zero.
    ram.initializeMemory(as: UInt8.self, repeating: 0xa5, count: Int(ramByteCount))
    cpuid[0] = (0xd, 0, 0, 0)
    cpuid[1] = (0, 0, 1 << 26 | 1 << 30, 0x0781_abfd)
    cpuid[7] = (0, 1, 0, 0)
    cpuid[0xd] = (7, 0, 0, 0)
    cpuid[0x8000_0001] = (0, 0, 0, 1 << 20 | 1 << 11)
    setClock(bcd: [0: 0x56, 2: 0x34, 4: 0x12, 7: 0x28, 8: 0x11, 9: 0x26])
  }

  deinit { ram.deallocate() }

  func setClock(bcd fields: [UInt8: UInt8]) {
    clock = fields
    clock[0x0b] = 2
  }

  // MARK: BareMachine

  func memory(_ physical: UInt64, count: UInt64) -> UnsafeMutableRawPointer? {
    guard physical > 0, physical <= ramByteCount, count <= ramByteCount - physical else { return nil }
    return ram + Int(physical)
  }

  func readRegister(_ physical: UInt64, count: Int) -> UInt32 {
    if physical >> 12 == Self.controller >> 12 {
      if physical & 0xfff == Calibration.Register.currentCount {
        let passed = (look() - countStart).multipliedFullWidth(by: timerFrequency)
        let counts = timeStampFrequency.dividingFullWidth(passed).quotient
        return UInt32.max - UInt32(truncatingIfNeeded: counts)
      }
      return registers[physical & 0xfff] ?? 0
    }
    return UInt32(truncatingIfNeeded: bus.readMemory(physical, count: count) ?? .max)
  }

  func writeRegister(_ physical: UInt64, count: Int, _ value: UInt32) {
    if physical >> 12 == Self.controller >> 12 {
      registers[physical & 0xfff] = value
      if physical & 0xfff == Calibration.Register.initialCount { countStart = look() }
      return
    }
    bus.writeMemory(physical, count: count, UInt64(value))
  }

  func readPort(_ port: UInt16, count: Int) -> UInt32 {
    switch port {
    case 0xcf8...0xcff: return bus.readPort(port, count: count)
    case 0x61:
      let isOver = timerEnd.map { hasTimer && look() >= $0 } ?? false
      return (ports[0x61] ?? 0) & 0xf | (isOver ? 0x20 : 0)
    case 0x71: return UInt32(clock[clockIndex] ?? 0)
    default: return ports[port] ?? .max
    }
  }

  func writePort(_ port: UInt16, count: Int, _ value: UInt32) {
    switch port {
    case 0xcf8...0xcff: bus.writePort(port, count: count, value)
    case 0x70: clockIndex = UInt8(truncatingIfNeeded: value)
    case 0x43:
      timerBytes = []
      timerEnd = nil
    case 0x42:
      timerBytes.append(UInt8(truncatingIfNeeded: value))
      guard timerBytes.count == 2 else { return }
      let counts = UInt64(timerBytes[0]) | UInt64(timerBytes[1]) << 8
      timerEnd = look() + counts * timeStampFrequency / 1_193_182
      cycles += delay
      delay = 0
    default: ports[port] = value
    }
  }

  func identify(_ leaf: UInt32, _ subleaf: UInt32) -> (a: UInt32, b: UInt32, c: UInt32, d: UInt32) {
    if leaf == 0xd && subleaf == 1 { return (1, 0, 0, 0) }
    if leaf == 0xd && subleaf == 2 { return (256, 576, 0, 0) }
    return cpuid[leaf] ?? (0, 0, 0, 0)
  }

  func timeStamp() -> UInt64 { look() }
  func tell(_ first: StaticString, _ second: StaticString) { said.append("\(first)\(second)") }
  func random() -> UInt64? { cycles &* 0x9e37_79b9_7f4a_7c15 }

  private func look() -> UInt64 {
    cycles += step
    return cycles
  }

  // MARK: What a monitor lays down

  func put(_ bytes: [UInt8], at physical: UInt64) {
    bytes.withUnsafeBytes { (ram + Int(physical)).copyMemory(from: $0.baseAddress!, byteCount: bytes.count) }
  }
  func put<Number: FixedWidthInteger>(_ number: Number, at physical: UInt64) {
    (ram + Int(physical)).storeBytes(of: number, as: Number.self)
  }

  /// The start information at 0x1000, with a map of RAM as PCs have it.
  func putStartInfo(commandLine: String, module: [UInt8] = [], rootPointer: UInt64 = 0) {
    put([UInt8](repeating: 0, count: 56), at: 0x1000)
    put(StartInfo.magic, at: 0x1000)
    put(1 as UInt32, at: 0x1004)
    put(0x2000 as UInt64, at: 0x1018)
    put(Array(commandLine.utf8) + [0], at: 0x2000)
    put(rootPointer, at: 0x1020)
    put(0x3000 as UInt64, at: 0x1028)
    put(3 as UInt32, at: 0x1030)
    let map: [(UInt64, UInt64, UInt32)] = [
      (0, 0x9_fc00, 1), (0xf_0000, 0x1_0000, 2), (0x10_0000, ramByteCount - 0x10_0000 - 0x2_0000, 1),
    ]
    for (index, piece) in map.enumerated() {
      let at = 0x3000 + UInt64(index) * 24
      put(piece.0, at: at)
      put(piece.1, at: at + 8)
      put(piece.2, at: at + 16)
    }
    if !module.isEmpty {
      // At the end of RAM, as QEMU does it.
      let start = (ramByteCount - 0x2_0000 - UInt64(module.count)) & ~4095
      put(module, at: start)
      put(1 as UInt32, at: 0x100c)
      put(0x4000 as UInt64, at: 0x1010)
      put(start, at: 0x4000)
      put(UInt64(module.count), at: 0x4008)
    }
  }

  /// An image of four segments at 2 MiB, as the linker makes it.
  static let image: ImageDescription = {
    var image = ImageDescription()
    image.place = StartInfo.Piece(start: 2 << 20, byteCount: 0x1b_4000)
    image.segments[0] = .init(offset: 0, byteCount: 0x10_0000, access: .execute)
    image.segments[1] = .init(offset: 0x10_0000, byteCount: 0x2_0000, access: .readOnly)
    image.segments[2] = .init(offset: 0x12_0000, byteCount: 0x8_f000, access: .write)
    image.segments[3] = .init(offset: 0x1b_0000, byteCount: 0x4000, access: .write)
    return image
  }()

  /// Does everything.
  func run(image: ImageDescription = ModelMachine.image) throws -> BootstrapResult {
    try Bootstrap.run(self, startInfo: 0x1000, image: image, controller: Self.controller, serialPort: 0x3f8)
  }
}

/// The boot information that a run has left, read as the kernel reads it.
struct Told {
  let machine: ModelMachine
  let base: UnsafeRawPointer
  let head: BootInformation

  init(_ machine: ModelMachine, _ result: BootstrapResult) {
    self.machine = machine
    base = UnsafeRawPointer(machine.ram + Int(result.information))
    head = base.load(as: BootInformation.self)
  }

  func text(_ offset: UInt32) -> String {
    String(cString: (base + Int(offset)).assumingMemoryBound(to: UInt8.self))
  }
  func list(_ offset: UInt32, _ count: UInt32) -> [String] {
    var at = Int(offset)
    return (0..<count).map { _ in
      let text = text(UInt32(at))
      at += text.utf8.count + 1
      return text
    }
  }
  private func table<Entry>(_ offset: UInt32, _ count: UInt32) -> [Entry] {
    Array(
      UnsafeBufferPointer(start: (base + Int(offset)).assumingMemoryBound(to: Entry.self), count: Int(count)))
  }

  var arguments: [String] { list(head.argumentsOffset, head.argumentCount) }
  var environment: [String] { list(head.environmentOffset, head.environmentCount) }
  var files: [BootFile] { table(head.filesOffset, head.fileCount) }
  var mounts: [BootMount] { table(head.mountsOffset, head.mountCount) }
  var devices: [BootDevice] { table(head.devicesOffset, head.deviceCount) }
  var networks: [BootNetwork] { table(head.networksOffset, head.networkCount) }
  func content(_ file: BootFile) -> [UInt8] {
    Array(UnsafeRawBufferPointer(start: machine.ram + Int(file.physical), count: Int(file.byteCount)))
  }
  /// The last file of a path, which is the one that counts.
  func file(_ path: String) -> BootFile? { files.last { text($0.pathOffset) == path } }
}
