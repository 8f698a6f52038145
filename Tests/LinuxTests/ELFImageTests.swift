// The ELF parser against files made here: good ones, each field made hostile, and random mutations.
import Testing

@testable import Linux

/// A file in memory.
struct Bytes: ByteSource {
  var storage: [UInt8]
  var byteCount: UInt64 { UInt64(storage.count) }
  func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) -> Bool {
    guard offset <= byteCount, UInt64(buffer.count) <= byteCount - offset else { return false }
    storage.withUnsafeBytes {
      buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[Int(offset)..<Int(offset) + buffer.count]))
    }
    return true
  }
}

/// An executable with a code and a data segment, as a linker would write it.
struct Sample {
  var header = ELFHeader()
  var programHeaders: [ELFProgramHeader] = []
  var byteCount = 0x3000

  init() {
    header.magic = ELFHeader.magicValue
    header.fileClass = 2
    header.byteOrder = 1
    header.type = ELFHeader.typeExecutable
    header.machine = ELFHeader.machineX86_64
    header.entry = 0x401000
    header.headersOffset = 64
    header.headerByteCount = 56
    var code = ELFProgramHeader()
    code.type = ELFProgramHeader.load
    code.flags = 5
    code.address = 0x400000
    code.fileByteCount = 0x2000
    code.memoryByteCount = 0x2000
    code.alignment = 0x1000
    var data = ELFProgramHeader()
    data.type = ELFProgramHeader.load
    data.flags = 6
    data.fileOffset = 0x2f00
    data.address = 0x403f00
    data.fileByteCount = 0x100
    data.memoryByteCount = 0x5000
    data.alignment = 0x1000
    programHeaders = [code, data]
  }

  func bytes() -> Bytes {
    var header = header
    if header.headerCount == 0 { header.headerCount = UInt16(programHeaders.count) }
    var storage = [UInt8](repeating: 0, count: byteCount)
    withUnsafeBytes(of: header) { storage.replaceSubrange(0..<64, with: $0) }
    for (index, programHeader) in programHeaders.enumerated() {
      withUnsafeBytes(of: programHeader) { storage.replaceSubrange(64 + index * 56..<120 + index * 56, with: $0) }
    }
    return Bytes(storage: storage)
  }
}

/// What the parser says of a sample after `change`.
private func failure(_ change: (inout Sample) -> Void) -> ELFError? {
  var sample = Sample()
  change(&sample)
  do throws(ELFError) {
    _ = try ELFImage(sample.bytes())
    return nil
  } catch { return error }
}

@Suite struct ELFImageTests {
  @Test func layoutsMatchTheFileFormat() {
    #expect(MemoryLayout<ELFHeader>.size == 64)
    #expect(MemoryLayout<ELFProgramHeader>.size == 56)
  }

  @Test func acceptsAnOrdinaryExecutable() throws {
    let image = try ELFImage(Sample().bytes())
    #expect(!image.isPositionIndependent)
    #expect(image.entry == 0x401000)
    #expect(image.segmentCount == 2)
    #expect(image.segments[0].isExecutable && !image.segments[0].isWritable)
    #expect(image.segments[1].isWritable && !image.segments[1].isExecutable)
    #expect(image.lowestAddress == 0x400000)
    #expect(image.highestAddress == 0x409000)
    #expect(image.headersAddress == 0x400040)
    #expect(image.headerCount == 2)
  }

  @Test func refusesWhatIsNotForThisMachine() {
    #expect(failure { $0.header.magic = 0x2f2123 } == .notELF)
    #expect(failure { $0.header.fileClass = 1 } == .wrongMachine)
    #expect(failure { $0.header.byteOrder = 2 } == .wrongMachine)
    #expect(failure { $0.header.machine = 183 } == .wrongMachine)
    #expect(failure { $0.header.type = 1 } == .wrongMachine)
  }

  @Test func refusesTruncatedFiles() {
    #expect(failure { $0.header.headersOffset = 0x2ff0 } == .truncated)
    #expect(failure { $0.programHeaders[1].fileOffset = 0x3f00 } == .truncated)
    for count in 0..<64 {
      #expect(throws: ELFError.self) { try ELFImage(Bytes(storage: Array(Sample().bytes().storage[0..<count]))) }
    }
  }

  @Test func refusesNumbersThatOverflowOrContradict() {
    #expect(failure { $0.header.headersOffset = .max - 8 } != nil)
    #expect(failure { $0.header.headerByteCount = 57 } == .malformed)
    #expect(failure { $0.header.headerCount = 65 } == .malformed)
    #expect(failure { $0.header.entry = .max } == .malformed)
    #expect(failure { $0.programHeaders[0].fileByteCount = .max } == .malformed)
    #expect(failure { $0.programHeaders[0].memoryByteCount = .max } == .malformed)
    #expect(failure { $0.programHeaders[0].memoryByteCount = 0x1000 } == .malformed)
    #expect(failure { $0.programHeaders[1].address = 0x403e00 } == .malformed)
    #expect(failure { $0.programHeaders[1].address = 0x400f00 } == .malformed)
    #expect(failure { $0.programHeaders[1].address = ELFImage.addressLimit - 0x100 } == .malformed)
    #expect(failure { $0.programHeaders[0].alignment = 0x3000 } == .malformed)
    #expect(failure { $0.programHeaders[0].alignment = 1 << 40 } == .malformed)
    #expect(failure { $0.programHeaders = Array(repeating: $0.programHeaders[0], count: 3) } == .malformed)
    #expect(failure { sample in for index in 0..<2 { sample.programHeaders[index].type = 4 } } == .malformed)
  }

  @Test func findsTheInterpreterAndTheStackFlag() throws {
    var sample = Sample()
    var interpreter = ELFProgramHeader()
    interpreter.type = ELFProgramHeader.interpreter
    interpreter.fileOffset = 0x200
    interpreter.fileByteCount = 28
    var stack = ELFProgramHeader()
    stack.type = ELFProgramHeader.gnuStack
    stack.flags = 7
    sample.programHeaders += [interpreter, stack]
    let image = try ELFImage(sample.bytes())
    #expect(image.interpreterOffset == 0x200)
    #expect(image.interpreterByteCount == 28)
    #expect(image.wantsExecutableStack)
    #expect(
      failure {
        $0.programHeaders.append(interpreter); $0.programHeaders.append(interpreter)
      } == .malformed)
  }

  /// Whatever the bytes are, the parser neither traps nor promises a segment that breaks its rules.
  @Test func survivesMutations() {
    var state: UInt64 = 0x9e37_79b9_7f4a_7c15
    func random() -> UInt64 {
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      return state
    }
    let original = Sample().bytes()
    for _ in 0..<20_000 {
      var file = original
      for _ in 0...(random() % 6) {
        let value: UInt8 = random() % 3 == 0 ? 0xff : UInt8(truncatingIfNeeded: random())
        file.storage[Int(random() % 176)] = value
      }
      guard let image = try? ELFImage(file) else { continue }
      var previous: UInt64 = 0
      for index in 0..<image.segmentCount {
        let segment = image.segments[index]
        #expect(segment.address >= previous)
        previous = segment.address + segment.memoryByteCount
        #expect(previous <= ELFImage.addressLimit)
        #expect(segment.fileOffset + segment.fileByteCount <= file.byteCount)
        #expect(segment.fileByteCount <= segment.memoryByteCount)
      }
    }
  }
}
