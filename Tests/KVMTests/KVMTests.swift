import CKVM
import Glibc
import Testing

@testable import KVM

/// A processor with 64 leaves of all ones, or with nothing.
private func allOnes(_ leaf: UInt32, _ subleaf: UInt32) -> (eax: UInt32, ebx: UInt32, ecx: UInt32, edx: UInt32) {
  switch (leaf, subleaf) {
  case (0, _): (0x20, 0, 0, 0)
  case (0x8000_0000, _): (0x8000_0022, 0, 0, 0)
  case (0xd, 2): (256, 576, 0, 0)
  case (0xd, 5): (64, 832, 0, 0)
  case (0xd, 6): (512, 896, 0, 0)
  case (0xd, 7): (1024, 1408, 0, 0)
  default: (.max, .max, .max, .max)
  }
}

@Suite struct CPUIDTests {
  private func answer(_ table: CPUIDTable, _ leaf: UInt32, _ subleaf: UInt32 = 0) -> CPUIDAnswer? {
    table.answers.first { $0.leaf == leaf && $0.subleaf == subleaf }
  }

  @Test func hostsBusinessIsTakenOut() throws {
    let table = CPUIDTable(cpuCount: 2, supportedState: .max, host: allOnes)
    let one = try #require(answer(table, 1))
    #expect(one.ecx & (1 << 3 | 1 << 5) == 0, "MONITOR and VMX")
    #expect(one.ecx & (1 << 21) != 0 && one.ecx & (1 << 24) != 0 && one.ecx & (1 << 31) != 0)
    #expect(one.ecx & (1 << 27) == 0, "OSXSAVE follows CR4")
    let seven = try #require(answer(table, 7))
    #expect(seven.ebx & 1 != 0 && seven.ebx & (1 << 10) == 0 && seven.edx & (1 << 24) == 0)
    #expect(try #require(answer(table, 0x8000_0001)).ecx & (1 << 2) == 0, "SVM")
    #expect(try #require(answer(table, 0)).eax == 0xd)
    #expect(table.hasFSGSBase && table.hasXSAVEOPT && table.hasRDRAND)
  }

  @Test func extendedStateIsAVXAndAVX512() throws {
    let table = CPUIDTable(cpuCount: 1, supportedState: .max, host: allOnes)
    #expect(table.extendedStateMask == 0xe7)
    #expect(table.extendedStateByteCount == 1408 + 1024)
    let narrow = CPUIDTable(cpuCount: 1, supportedState: 0x27, host: allOnes)
    #expect(narrow.extendedStateMask == 0x7)
    #expect(narrow.extendedStateByteCount == 832)
    #expect(try #require(answer(narrow, 0xd)).eax == 7)
  }

  @Test func oldProcessorsHaveNone() {
    let table = CPUIDTable(cpuCount: 1, supportedState: 0) { leaf, _ in leaf == 0 ? (1, 0, 0, 0) : (0, 0, 0, 0) }
    #expect(table.extendedStateMask == 0 && table.extendedStateByteCount == 0 && !table.hasFSGSBase)
  }

  /// C libraries choose by them how to copy; without, glibc writes past the caches from 16 KiB on.
  @Test func cachesAreTheHosts() throws {
    // Two caches and a mark behind them, on Intel.
    func intel(_ leaf: UInt32, _ subleaf: UInt32) -> (eax: UInt32, ebx: UInt32, ecx: UInt32, edx: UInt32) {
      switch leaf {
      case 0: (0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69)
      case 2: (0x00fe_ff01, 0xf0, 0, 0)
      case 4: subleaf < 2 ? (0x121 &+ subleaf, 0x2c0_003f, 0x3f, 0) : (0, 0, 0, 0)
      default: (0, 0, 0, 0)
      }
    }
    let table = CPUIDTable(cpuCount: 1, supportedState: 0, host: intel)
    let caches = table.answers.filter { $0.leaf == 4 }
    #expect(answer(table, 2)?.eax == 0x00fe_ff01)
    #expect(caches.map { $0.eax } == [0x121, 0x122, 0])
    #expect(caches.count { $0.isIndexed } == 3)
    // AMD's leaves; 2 and 4 are not AMD's.
    let other = CPUIDTable(cpuCount: 1, supportedState: 0, host: allOnes)
    #expect(answer(other, 0x8000_0005)?.ecx == .max && answer(other, 0x8000_0006)?.ecx == .max)
    #expect(answer(other, 4) == nil)
  }

  @Test func everyCPUHasItsNumber() throws {
    let table = CPUIDTable(cpuCount: 4, supportedState: 7, host: allOnes)
    for cpu in 0..<4 {
      let entry = try #require(table.entries(cpu: cpu).first { $0.function == 1 })
      #expect(entry.ebx >> 24 == UInt32(cpu))
      #expect(entry.ebx >> 16 & 0xff == 4)
    }
  }
}

@Suite struct InterruptMessageTests {
  @Test func destinationIsSplit() {
    let near = InterruptMessage(vector: 0x30, cpu: 3)
    #expect(near.addressLow == 0xfee0_3000 && near.addressHigh == 0 && near.data == 0x30)
    let far = InterruptMessage(vector: 0x31, cpu: 0x123)
    #expect(far.addressLow == 0xfee2_3000 && far.addressHigh == 0x100)
  }
}

@Suite struct SystemTests {
  @Test func missingDeviceIsTold() {
    func failure(_ path: String) -> KVMError? {
      do throws(KVMError) {
        _ = try System(path: path)
        return nil
      } catch { return error }
    }
    #expect(failure("/nonexistent/kvm") == KVMError(.open, code: ENOENT))
    #expect(failure("/dev/null") == KVMError(.version, code: 0))
  }

  /// Sixteen bytes of real-mode code write a port and halt the test: the typed path from memory to exit.
  @Test(.enabled(if: access("/dev/kvm", R_OK | W_OK) == 0)) func portWriteArrives() throws {
    let vm = try System().createVirtualMachine()
    let memory = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
    defer { munmap(memory, 4096) }
    // mov $0x4f0,%dx; mov $42,%al; out %al,(%dx); in (%dx),%al; out %al,(%dx)
    memory.copyMemory(from: [0xba, 0xf0, 0x04, 0xb0, 0x2a, 0xee, 0xec, 0xee] as [UInt8], byteCount: 8)
    try vm.setMemory(slot: 0, physical: 0x1000, host: memory, byteCount: 4096)
    let vcpu = try vm.createVCPU(index: 0)
    var system = try vcpu.systemRegisters
    system.cs.base = 0
    system.cs.selector = 0
    try vcpu.set(systemRegisters: system)
    var registers = kvm_regs()
    registers.rip = 0x1000
    registers.rflags = 2
    try vcpu.set(registers: registers)
    #expect(try vcpu.run() == .portWrite(port: 0x4f0, value: 42, byteCount: 1))
    #expect(try vcpu.run() == .portRead(port: 0x4f0, byteCount: 1))
    vcpu.complete(read: 0x77)
    #expect(try vcpu.run() == .portWrite(port: 0x4f0, value: 0x77, byteCount: 1))
    vcpu.requestExit()
    #expect(try vcpu.run() == .interrupted)
  }
}
