import CSystemCalls
import Testing

@testable import Jail

/// What a filter sees of a call, and an interpreter of the BPF that the assembler uses.
private struct Call {
  var number: UInt32
  var architecture = FilterProgram.x86_64
  var arguments: [UInt64] = [0, 0, 0, 0, 0, 0]

  func word(at offset: UInt32) -> UInt32 {
    switch offset {
    case 0: return number
    case 4: return architecture
    default:
      let argument = arguments[Int(offset - 16) / 8]
      return UInt32(truncatingIfNeeded: offset % 8 == 0 ? argument : argument >> 32)
    }
  }

  /// The filter's verdict; nil if the program runs off its end.
  func verdict(of program: FilterProgram) -> UInt32? {
    var accumulator: UInt32 = 0
    var position = 0
    while position < program.instructions.count {
      let instruction = program.instructions[position]
      position += 1
      func jump(_ condition: Bool) { position += Int(condition ? instruction.jump_true : instruction.jump_false) }
      switch instruction.code {
      case FilterProgram.loadWord: accumulator = word(at: instruction.constant)
      case FilterProgram.jumpEqual: jump(accumulator == instruction.constant)
      case FilterProgram.jumpGreaterEqual: jump(accumulator >= instruction.constant)
      case FilterProgram.jumpAnyBit: jump(accumulator & instruction.constant != 0)
      case FilterProgram.andConstant: accumulator &= instruction.constant
      case FilterProgram.giveBack: return instruction.constant
      default: return nil
      }
    }
    return nil
  }
}

@Suite struct FilterTests {
  private let program = FilterProgram([
    FilterRule(0), FilterRule(16, .isOne(of: [10, 20, 30], argument: 1)), FilterRule(9, .hasNone(of: 4, argument: 2)),
    FilterRule(56, .hasAll(of: 0x30, argument: 0)), FilterRule(435, .absent), FilterRule(1),
  ])

  private func verdict(_ number: UInt32, _ arguments: [UInt64] = []) -> UInt32? {
    Call(number: number, arguments: arguments + [UInt64](repeating: 0, count: 6 - arguments.count)).verdict(of: program)
  }

  @Test func allowsWhatIsListedAndRefusesTheRest() {
    #expect(verdict(0) == FilterProgram.allow)
    #expect(verdict(1) == FilterProgram.allow)
    #expect(verdict(2) == FilterProgram.refuse)
    #expect(verdict(425) == FilterProgram.refuse)
    #expect(verdict(435) == FilterProgram.absent)
  }

  @Test func conditionsLookAtTheirArgument() {
    for request: UInt64 in [10, 20, 30] { #expect(verdict(16, [0, request]) == FilterProgram.allow) }
    for request: UInt64 in [0, 11, 31] { #expect(verdict(16, [10, request]) == FilterProgram.refuse) }
    #expect(verdict(9, [0, 0, 3]) == FilterProgram.allow)
    #expect(verdict(9, [0, 0, 7]) == FilterProgram.refuse)
    #expect(verdict(56, [0x30]) == FilterProgram.allow)
    #expect(verdict(56, [0x70]) == FilterProgram.allow)
    #expect(verdict(56, [0x10]) == FilterProgram.refuse)
  }

  @Test func otherArchitecturesDie() {
    #expect(Call(number: 0, architecture: 0x4000_0003).verdict(of: program) == FilterProgram.killProcess)
    #expect(Call(number: FilterProgram.x32Bit).verdict(of: program) == FilterProgram.killProcess)
  }

  @Test(arguments: ThreadKind.allCases) func everyKindIsClosed(_ kind: ThreadKind) {
    let program = FilterProgram(FilterRule.rules(for: kind, requests: [1, 2]))
    #expect(program.instructions.count < 4096)
    for number: UInt32 in 0..<600 { #expect(Call(number: number).verdict(of: program) != nil) }
    // execve, execveat, fork, vfork, ptrace, socket, connect, io_uring (3), open_by_handle_at, bpf, process_vm_writev
    for number: UInt32 in [59, 322, 57, 58, 101, 41, 42, 425, 426, 427, 304, 321, 311] {
      #expect(Call(number: number).verdict(of: program) == FilterProgram.refuse)
    }
    // mmap and mprotect never make memory executable; exit works.
    #expect(Call(number: 9, arguments: [0, 4096, 7, 0, 0, 0]).verdict(of: program) == FilterProgram.refuse)
    #expect(Call(number: 10, arguments: [0, 4096, 5, 0, 0, 0]).verdict(of: program) == FilterProgram.refuse)
    #expect(Call(number: 231).verdict(of: program) == FilterProgram.allow)
  }

  /// accept4 is for the control socket alone, and for nobody where there is none.
  @Test func connectionsAreAcceptedOnOneSocket() {
    for kind in ThreadKind.allCases {
      let without = FilterProgram(FilterRule.rules(for: kind, requests: []))
      #expect(Call(number: 288, arguments: [5, 0, 0, 0, 0, 0]).verdict(of: without) == FilterProgram.refuse)
      let with = FilterProgram(FilterRule.rules(for: kind, requests: [], listener: 5))
      let allowed = kind == .process || kind == .control ? FilterProgram.allow : FilterProgram.refuse
      #expect(Call(number: 288, arguments: [5, 0, 0, 0, 0, 0]).verdict(of: with) == allowed)
      #expect(Call(number: 288, arguments: [6, 0, 0, 0, 0, 0]).verdict(of: with) == FilterProgram.refuse)
      // Neither bind, listen, accept nor sendto.
      for number: UInt32 in [49, 50, 43, 44] { #expect(Call(number: number).verdict(of: with) == FilterProgram.refuse) }
    }
  }

  /// Frames pass on the sockets of the network alone, and nowhere where there is none.
  @Test func framesPassOnTheirSocketsAlone() {
    for kind in ThreadKind.allCases {
      let without = FilterProgram(FilterRule.rules(for: kind, requests: []))
      let with = FilterProgram(FilterRule.rules(for: kind, requests: [], sockets: [5, 9]))
      let isPacketKind = kind == .process || kind == .network
      for number: UInt32 in [45, 46, 48] {
        for socket: UInt64 in [5, 9] {
          let call = Call(number: number, arguments: [socket, 0, 0, 0, 0, 0])
          #expect(call.verdict(of: without) == FilterProgram.refuse)
          #expect(call.verdict(of: with) == (isPacketKind ? FilterProgram.allow : FilterProgram.refuse))
        }
        #expect(Call(number: number, arguments: [6, 0, 0, 0, 0, 0]).verdict(of: with) == FilterProgram.refuse)
      }
      // Neither socket, connect, sendto nor sendmmsg.
      for number: UInt32 in [41, 42, 44, 307] {
        #expect(Call(number: number).verdict(of: with) == FilterProgram.refuse)
      }
    }
    // A network's thread opens nothing and makes no thread.
    let network = FilterProgram(FilterRule.rules(for: .network, requests: [], sockets: [5]))
    for number: UInt32 in [257, 437, 56, 290, 317, 288] {
      #expect(Call(number: number).verdict(of: network) == FilterProgram.refuse)
    }
    for number: UInt32 in [19, 20, 271, 24] {
      #expect(Call(number: number).verdict(of: network) == FilterProgram.allow)
    }
  }

  @Test func processesCannotBeMade() {
    let program = FilterProgram(FilterRule.rules(for: .process, requests: []))
    // What pthread_create passes, and what fork passes.
    #expect(Call(number: 56, arguments: [0x3d_0f00, 0, 0, 0, 0, 0]).verdict(of: program) == FilterProgram.allow)
    #expect(Call(number: 56, arguments: [0x0120_0011, 0, 0, 0, 0, 0]).verdict(of: program) == FilterProgram.refuse)
  }

  /// Files are changed only where a directory is shared for writing, by the threads that serve it, and devices are never made.
  @Test func filesAreChangedOnlyWhereTheyMayBe() {
    let changes: [UInt32] = [
      296, 77, 285, 326, 74, 75, 306, 258, 259, 266, 265, 263, 316, 268, 260, 280, 190, 199,
    ]
    for kind in ThreadKind.allCases {
      let reading = FilterProgram(FilterRule.rules(for: kind, requests: []))
      let writing = FilterProgram(FilterRule.rules(for: kind, requests: [], writesFiles: true))
      let allowed = kind == .process || kind == .device ? FilterProgram.allow : FilterProgram.refuse
      for number in changes {
        #expect(Call(number: number).verdict(of: reading) == FilterProgram.refuse, "\(number)")
        #expect(Call(number: number).verdict(of: writing) == allowed, "\(number)")
      }
      // mknodat of FIFO, socket and file; of devices; renameat2 with a whiteout. Neither rename, link, unlink by path alone, nor chroot,
      // mount, open_by_handle_at, setxattr by path.
      for mode: UInt64 in [0o010644, 0o140644, 0o100644] {
        #expect(Call(number: 259, arguments: [3, 0, mode, 0, 0, 0]).verdict(of: writing) == allowed)
      }
      for mode: UInt64 in [0o020644, 0o060644] {
        #expect(Call(number: 259, arguments: [3, 0, mode, 0, 0, 0]).verdict(of: writing) == FilterProgram.refuse)
      }
      #expect(Call(number: 316, arguments: [3, 0, 3, 0, 4, 0]).verdict(of: writing) == FilterProgram.refuse)
      for number: UInt32 in [82, 86, 87, 161, 165, 304, 188, 90, 92, 133] {
        #expect(Call(number: number).verdict(of: writing) == FilterProgram.refuse)
      }
    }
  }
}
