// What is said about a guest that has died: a CPU's registers, the calls that led there, names for addresses.
//
// Everything read here belongs to the guest and may be nonsense: every step is checked, every loop bounded.

import CKVM
import KVM

extension Machine {
  /// The physical address of a virtual one in the page tables at `root`; nil where nothing is mapped.
  func translate(_ virtual: UInt64, root: UInt64) -> UInt64? {
    var table = root & 0x000f_ffff_ffff_f000
    for level: UInt64 in [39, 30, 21, 12] {
      guard let page = memory.pointer(at: table, count: GuestMemory.pageSize) else { return nil }
      let entry = page.load(fromByteOffset: Int(virtual >> level & 511) * 8, as: UInt64.self)
      guard entry & 1 != 0 else { return nil }
      let target = entry & 0x000f_ffff_ffff_f000
      if level == 12 || (entry & 0x80 != 0 && level < 39) {
        let mask = (UInt64(1) << level) - 1
        return (target & ~mask) | (virtual & mask)
      }
      table = target
    }
    return nil
  }

  /// An aligned word of the guest's virtual memory.
  private func word(_ virtual: UInt64, root: UInt64) -> UInt64? {
    guard virtual & 7 == 0, let physical = translate(virtual, root: root) else { return nil }
    return memory.pointer(at: physical, count: 8)?.load(as: UInt64.self)
  }

  /// Whether an address lies in the kernel image.
  func isInKernel(_ address: UInt64) -> Bool { address &- layout.start.kernelVirtual < layout.kernelByteCount }

  /// A CPU's registers.
  static func registers(of vcpu: VCPU) -> String {
    guard let r = try? vcpu.registers, let s = try? vcpu.systemRegisters else { return "" }
    func hex(_ value: UInt64) -> String { Hexadecimal.text(value, digits: 16) }
    return """
      cpu \(vcpu.index)  rip \(hex(r.rip))  rflags \(hex(r.rflags))
      rax \(hex(r.rax)) rbx \(hex(r.rbx)) rcx \(hex(r.rcx)) rdx \(hex(r.rdx))
      rsi \(hex(r.rsi)) rdi \(hex(r.rdi)) rbp \(hex(r.rbp)) rsp \(hex(r.rsp))
      r8  \(hex(r.r8)) r9  \(hex(r.r9)) r10 \(hex(r.r10)) r11 \(hex(r.r11))
      r12 \(hex(r.r12)) r13 \(hex(r.r13)) r14 \(hex(r.r14)) r15 \(hex(r.r15))
      cr2 \(hex(s.cr2)) cr3 \(hex(s.cr3)) fs  \(hex(s.fs.base)) gs  \(hex(s.gs.base))

      """
  }

  /// A CPU's registers and the calls that led there, a line each.
  func describe(_ vcpu: VCPU) -> String {
    guard let r = try? vcpu.registers, let s = try? vcpu.systemRegisters else { return "" }
    var text = Self.registers(of: vcpu)
    let symbols = SymbolTable(kernel.file)
    var addresses = [r.rip]
    var frame = r.rbp
    while addresses.count < 40, let caller = word(frame &+ 8, root: s.cr3), let next = word(frame, root: s.cr3) {
      // A return address lies behind the call: one less is inside it.
      addresses.append(caller &- 1)
      if next <= frame { break }
      frame = next
    }
    for address in addresses where isInKernel(address) {
      let offset = address - layout.start.kernelVirtual
      text += "  at 0x\(Hexadecimal.text(offset, digits: 6))  \(symbols.describe(offset) ?? "?")\n"
    }
    return text
  }

  /// A report of the guest's kernel with a name behind each address of its image, written in full or as "kernel+0x…".
  func symbolised(_ report: [UInt8]) -> [UInt8] {
    let symbols = SymbolTable(kernel.file)
    var result: [UInt8] = []
    var index = 0
    while index < report.count {
      result.append(report[index])
      index += 1
      guard result.count >= 2, result.suffix(2).elementsEqual("0x".utf8) else { continue }
      let isOffset = result.dropLast(2).suffix(7).elementsEqual("kernel+".utf8)
      var value: UInt64 = 0
      var digits = 0
      while index < report.count, digits < 16, let digit = Hexadecimal.digit(report[index]) {
        value = value << 4 | digit
        digits += 1
        result.append(report[index])
        index += 1
      }
      let offset = isOffset ? value : value &- layout.start.kernelVirtual
      if offset < layout.kernelByteCount, let name = symbols.describe(offset) {
        result.append(contentsOf: (isOffset ? "  \(name)" : " (\(name), kernel+0x\(String(offset, radix: 16)))").utf8)
      }
    }
    return result
  }
}
