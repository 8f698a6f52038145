// PacketFilter: programs that choose packets (SO_ATTACH_FILTER): the BSD packet filter (McCanne and Jacobson, 1993) as Linux has it.
//
// A program is checked when it comes: every jump goes forward to an instruction of it, the last one returns, no constant divides
// by zero. So it ends after as many steps as it has instructions at most, and what it reads is looked up in the packet with bounds.
import Base
import Devices
import Memory
import Pages
import Platform

/// struct sock_filter.
private struct FilterInstruction: BitwiseCopyable {
  var code: UInt16
  var ifTrue: UInt8
  var ifFalse: UInt8
  var constant: UInt32
}

/// A checked program.
public final class PacketFilter {
  /// BPF_MAXINSNS.
  private static let maximumCount = 4096

  // SAFETY: memory for `count` instructions, all initialised and checked before the object is given out.
  private let instructions: UnsafeMutablePointer<FilterInstruction>
  private let count: Int

  /// The program that a `struct sock_fprog` names.
  /// - Throws: EINVAL: it is not one that ends; EFAULT, ENOMEM.
  public init(program value: OptionValue) throws(Errno) {
    let count = try value.load(as: UInt16.self).int
    let address = VirtualAddress(try value.load(from: 8, as: UInt64.self))
    guard count > 0, count <= Self.maximumCount else { throw .EINVAL }
    let byteCount = count &* MemoryLayout<FilterInstruction>.stride
    guard let memory = KernelHeap.allocate(byteCount: byteCount) else { throw .ENOMEM }
    instructions = memory.bindMemory(to: FilterInstruction.self, capacity: count)
    self.count = count
    try UserSpan(address, count: byteCount).read(into: UnsafeMutableRawBufferPointer(start: memory, count: byteCount))
    try check()
  }

  deinit { KernelHeap.free(instructions) }

  // MARK: Checking

  private func check() throws(Errno) {
    for index in 0..<count {
      let instruction = instructions[index]
      let left = (count &- index &- 1).u32
      guard Self.isKnown(instruction.code) else { throw .EINVAL }
      switch instruction.code & 7 {
      case 5:  // Jumps.
        if instruction.code & 0xf0 == 0 {
          guard instruction.constant < left else { throw .EINVAL }
        } else {
          guard instruction.ifTrue.u32 < left, instruction.ifFalse.u32 < left else { throw .EINVAL }
        }
      case 4:  // Arithmetic.
        let operation = instruction.code & 0xf0
        guard instruction.code & 8 == 0 else { break }
        if operation == 0x30 || operation == 0x90 { guard instruction.constant != 0 else { throw .EINVAL } }
        if operation == 0x60 || operation == 0x70 { guard instruction.constant < 32 else { throw .EINVAL } }
      case 2, 3: guard instruction.constant < 16 else { throw .EINVAL }
      case 0, 1: if instruction.code & 0xe0 == 0x60 { guard instruction.constant < 16 else { throw .EINVAL } }
      default: break
      }
    }
    guard instructions[count &- 1].code & 7 == 6 else { throw .EINVAL }
  }

  private static func isKnown(_ code: UInt16) -> Bool {
    switch code {
    // LD: W, H, B absolute and indirect; length, constant, memory. LDX: length, constant, memory, 4 * (byte & 15).
    case 0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x80, 0x00, 0x60, 0x81, 0x01, 0x61, 0xb1: true
    // ST, STX; RET by constant and accumulator; TAX, TXA.
    case 0x02, 0x03, 0x06, 0x16, 0x07, 0x87: true
    // Arithmetic with a constant, or with X (8); negation.
    case 0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54, 0x5c, 0x64, 0x6c, 0x74, 0x7c, 0x84, 0x94,
      0x9c,
      0xa4, 0xac:
      true
    // JA; JEQ, JGT, JGE, JSET with a constant or X.
    case 0x05, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d: true
    default: false
    }
  }

  // MARK: Running

  /// How many bytes of a packet are wanted; 0: it is not.
  public func run(_ packet: borrowing Packet) -> Int {
    var (accumulator, index): (UInt32, UInt32) = (0, 0)
    var memory: [16 of UInt32] = .init(repeating: 0)
    var at = 0
    while at < count {
      let instruction = instructions[at]
      let constant = instruction.constant
      at &+= 1
      switch instruction.code {
      case 0x20, 0x28, 0x30, 0x40, 0x48, 0x50:
        let place = instruction.code & 0xe0 == 0x40 ? constant &+ index : constant
        let size = instruction.code & 0x18 == 0 ? 4 : instruction.code & 0x18 == 8 ? 2 : 1
        guard let value = load(packet, place, size) else { return 0 }
        accumulator = value
      case 0x80: accumulator = packet.byteCount.u32
      case 0x00: accumulator = constant
      case 0x60: accumulator = memory[constant.int]
      case 0x81: index = packet.byteCount.u32
      case 0x01: index = constant
      case 0x61: index = memory[constant.int]
      case 0xb1:
        guard let value = load(packet, constant, 1) else { return 0 }
        index = (value & 15) &* 4
      case 0x02: memory[constant.int] = accumulator
      case 0x03: memory[constant.int] = index
      case 0x06: return constant.int
      case 0x16: return accumulator.int
      case 0x07: index = accumulator
      case 0x87: accumulator = index
      case 0x05: at &+= constant.int
      default:
        let operand = instruction.code & 8 == 0 ? constant : index
        if instruction.code & 7 == 5 {
          let holds = Self.compare(instruction.code, accumulator, operand)
          at &+= (holds ? instruction.ifTrue : instruction.ifFalse).int
        } else {
          guard let value = Self.calculate(instruction.code, accumulator, operand) else { return 0 }
          accumulator = value
        }
      }
    }
    return 0
  }

  private static func compare(_ code: UInt16, _ left: UInt32, _ right: UInt32) -> Bool {
    switch code & 0xf0 {
    case 0x10: left == right
    case 0x20: left > right
    case 0x30: left >= right
    default: left & right != 0
    }
  }

  /// Nil: division by zero.
  private static func calculate(_ code: UInt16, _ left: UInt32, _ right: UInt32) -> UInt32? {
    switch code & 0xf0 {
    case 0x00: left &+ right
    case 0x10: left &- right
    case 0x20: left &* right
    case 0x30: right == 0 ? nil : left / right
    case 0x40: left | right
    case 0x50: left & right
    case 0x60: right < 32 ? left &<< right : 0
    case 0x70: right < 32 ? left &>> right : 0
    case 0x80: 0 &- left
    case 0x90: right == 0 ? nil : left % right
    default: left ^ right
    }
  }

  /// A number of 1, 2 or 4 bytes at a place; nil: it is outside the packet. Places below 0 are what is known of it (SKF_AD_*), and its headers.
  private func load(_ packet: borrowing Packet, _ place: UInt32, _ size: Int) -> UInt32? {
    if place.i32 < 0 { return loadSpecial(packet, place.i32, size) }
    guard place.int &+ size <= packet.byteCount else { return nil }
    var bytes: UInt32 = 0
    let isCopied = withUnsafeMutableBytes(of: &bytes) {
      packet.copy(from: place.int, into: UnsafeMutableRawBufferPointer(rebasing: $0[..<size]))
    }
    guard isCopied else { return nil }
    return size == 4 ? bytes.byteSwapped : size == 2 ? bytes.u16.byteSwapped.u32 : bytes
  }

  private func loadSpecial(_ packet: borrowing Packet, _ place: Int32, _ size: Int) -> UInt32? {
    switch place &+ 0x1000 {
    case 0: return packet.protocolNumber.u32
    case 4: return packet.destination.rawValue.u32
    case 8: return packet.interfaceIndex
    case 16, 20, 24, 44, 48: return 0  // Netlink attributes, mark, queue, VLAN.
    case 28: return 1  // Ethernet.
    case 32: return packet.flowHash
    case 36: return CPU.current.u32
    case 56: return Clock.cycles().u32
    default: break
    }
    // The network's header, or the link's.
    let base = place >= -0x10_0000 ? (packet.networkOffset, -0x10_0000 as Int32) : (packet.linkOffset, -0x20_0000)
    guard place >= -0x20_0000 else { return nil }
    let offset = base.0 &+ (place &- base.1).int
    guard offset >= 0 else { return nil }
    return load(packet, offset.u32 & 0x7fff_ffff, size)
  }
}
