import Testing
import VirtioABI

@testable import Machine

private func withFile<Result>(_ bytes: [UInt8], _ body: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
  try bytes.withUnsafeBytes(body)
}

private func kind(_ builder: ELFBuilder) throws -> ImageKind { try withFile(builder.file) { try ImageKind($0) } }

private func program() -> ELFBuilder {
  var builder = ELFBuilder()
  builder.type = 2
  builder.entry = 0x40_0000
  builder.body = [UInt8](repeating: 0xcc, count: 4096)
  builder.segments = [
    .init(type: 1, flags: 5, offset: 4096, address: 0x40_0000, fileCount: 4096, memoryCount: 4096)
  ]
  return builder
}

@Suite struct ImageKindTests {
  @Test func kindsAreToldApart() throws {
    #expect(try kind(program()) == .linuxProgram(interpreter: nil))
    #expect(try kind(.kernel()) == .osvKernel)
    #expect(try kind(.kernel(kind: 1)) == .osvImage)

    var dynamic = program()
    dynamic.body.replaceSubrange(0..<11, with: Array("/lib/ld.so\0".utf8))
    dynamic.segments.append(.init(type: 3, offset: 4096, fileCount: 11))
    #expect(try kind(dynamic) == .linuxProgram(interpreter: Array("/lib/ld.so".utf8)))

    var other = program()
    let note = ELFBuilder.note("Xen", type: 18, [0, 0, 0, 0])
    other.body.replaceSubrange(0..<note.count, with: note)
    other.segments.append(.init(type: 4, offset: 4096, fileCount: UInt64(note.count)))
    #expect(try kind(other) == .pvhKernel)

    var bzImage = [UInt8](repeating: 0, count: 1024)
    bzImage[0x1fe] = 0x55
    bzImage[0x1ff] = 0xaa
    bzImage.replaceSubrange(0x202..<0x206, with: Array("HdrS".utf8))
    #expect(try withFile(bzImage) { try ImageKind($0) } == .bzImage)
  }

  @Test func wrongFilesSayWhatTheyAre() {
    func defect(_ bytes: [UInt8]) -> ELFFile.Defect? {
      withFile(bytes) { bytes in
        do throws(ELFFile.Defect) {
          _ = try ImageKind(bytes)
          return nil
        } catch { return error }
      }
    }
    #expect(defect([]) == .notELF)
    #expect(defect(Array("#!/bin/sh\n".utf8)) == .notELF)
    var builder = program()
    builder.machine = 183
    #expect(defect(builder.file) == .wrongMachine(183))
    builder = program()
    builder.type = 1
    #expect(defect(builder.file) == .wrongType(1))
    var narrow = program().file
    narrow[4] = 1
    #expect(defect(narrow) == .wrongMachine(0))
    for count in [4, 63, 64, 100, 4096, 8191] {
      guard case .malformed = defect(Array(program().file.prefix(count))) else {
        Issue.record("truncated at \(count) bytes")
        continue
      }
    }
    builder = program()
    builder.entry = 0x50_0000
    guard case .malformed = defect(builder.file) else {
      Issue.record("entry outside the code")
      return
    }
  }

  /// Headers that the guest's loader would refuse: here there are words for them.
  @Test func headersThatCannotBeLoaded() {
    func words(_ change: (inout ELFBuilder) -> Void) -> String? {
      var builder = program()
      change(&builder)
      return withFile(builder.file) { bytes in
        do throws(ELFFile.Defect) { _ = try ImageKind(bytes) } catch {
          if case .malformed(let words) = error { return words }
        }
        return nil
      }
    }
    func second(_ segment: ELFBuilder.Segment) -> String? { words { $0.segments.append(segment) } }
    #expect(words { _ in } == nil)
    let data = ELFBuilder.Segment(type: 1, flags: 6, offset: 4096, address: 0x50_0000, fileCount: 16, memoryCount: 4096)
    #expect(second(data) == nil)
    func changed(_ change: (inout ELFBuilder.Segment) -> Void) -> String {
      var segment = data
      change(&segment)
      return second(segment) ?? "nothing"
    }
    #expect(changed { $0.offset = 4097 }.contains("misaligned"))
    #expect(changed { $0.address = 0x50_0008 }.contains("misaligned"))
    #expect(changed { $0.alignment = 1 << 63 }.contains("alignment"))
    #expect(changed { $0.alignment = 0x3000 }.contains("alignment"))
    #expect(changed { $0.alignment = 0 } == "nothing")
    #expect(changed { $0.alignment = 1 << 30 } == "nothing")
    #expect(changed { $0.address = 1 << 46 }.contains("beyond"))
    #expect(changed { $0.address = 1 << 47 }.contains("outside the address space"))
    #expect(changed { $0.address = .max - 100 }.contains("outside the address space"))
    #expect(changed { $0.memoryCount = 8 }.contains("larger in the file"))
    #expect(
      changed {
        $0.fileCount = 1 << 40; $0.memoryCount = 1 << 41
      }.contains("outside the file"))
    #expect(changed { $0.offset = 1 << 63 }.contains("outside the file"))
    #expect(changed { $0.address = 0x40_0000 }.contains("overlap"))
    #expect(
      words {
        $0.segments[0].address = 0; $0.entry = 0
      }?.contains("lowest addresses") == true)
    #expect(
      words {
        $0.segments[0].address = 0; $0.entry = 0; $0.type = 3
      } == nil)
    #expect(words { $0.entry = 0x40_1000 }?.contains("entry") == true)
    #expect(words { builder in (1...16).forEach { _ in builder.segments.append(data) } }?.contains("overlap") == true)
    let many = words { builder in
      for number in 1...16 {
        var segment = data
        segment.address += UInt64(number) << 12
        builder.segments.append(segment)
      }
    }
    #expect(many?.contains("more segments") == true)
    #expect(second(.init(type: 3, offset: 4096, fileCount: 1))?.contains("interpreter") == true)
    // The body is 0xcc throughout: a name without an end.
    #expect(second(.init(type: 3, offset: 4096, fileCount: 11))?.contains("interpreter") == true)
    #expect(second(.init(type: 3, offset: 4096, fileCount: 5000))?.contains("file") == true)
  }

  /// Bytes changed at random: never a trap, and every segment let through lies inside the file.
  @Test func damagedFilesAreRefusedOrHarmless() {
    var state: UInt64 = 7
    func next(_ limit: Int) -> Int {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int((state >> 33) % UInt64(limit))
    }
    let originals = [ELFBuilder.kernel().file, program().file]
    for round in 0..<4000 {
      var file = originals[round % 2]
      for _ in 0...next(6) {
        let values: [UInt8] = [0, 1, 0x7f, 0x80, 0xff, UInt8(next(256))]
        file[next(3) == 0 ? next(file.count) : next(64 + 4 * 56)] = values[next(values.count)]
      }
      if next(4) == 0 { file.removeLast(next(file.count)) }
      withFile(file) { bytes in
        guard let image = try? ELFFile(bytes) else { return }
        _ = image.notes
        _ = image.interpreter
        for segment in image.loads {
          #expect(segment.fileOffset + segment.fileCount <= UInt64(file.count))
        }
        guard let kernel = try? KernelImage(image) else { return }
        let destination = UnsafeMutableRawPointer.allocate(byteCount: Int(kernel.byteCount), alignment: 4096)
        defer { destination.deallocate() }
        if kernel.byteCount < 1 << 24 { try? kernel.load(to: destination, virtual: 0x5000_0000_0000) }
      }
    }
  }
}

@Suite struct KernelImageTests {
  @Test func loadsAndRelocates() throws {
    try withFile(ELFBuilder.kernel().file) { bytes in
      let kernel = try KernelImage(try ELFFile(bytes))
      #expect(kernel.kind == .kernel)
      #expect(kernel.secondaryEntry == 16 && kernel.systemCallEntry == 32)
      #expect(kernel.byteCount == 12288)
      let memory = UnsafeMutableRawPointer.allocate(byteCount: 12288, alignment: 4096)
      defer { memory.deallocate() }
      try kernel.load(to: memory, virtual: 0x5000_0000_0000)
      #expect(memory.load(as: UInt8.self) == 0x90)
      #expect(memory.load(fromByteOffset: 0x1000, as: UInt64.self) == 0x5000_0000_0123)
    }
  }

  /// DT_RELR: a place, and a word of bits for the places behind it.
  @Test func packedRelocations() throws {
    func kernel(_ words: [UInt64], byteCount: UInt64? = nil) -> ELFBuilder {
      var builder = ELFBuilder.kernel()
      func put(_ words: [UInt64], at offset: Int) {
        let bytes = words.flatMap { ELFBuilder.bytes($0) }
        builder.body.replaceSubrange(4096 + offset..<4096 + offset + bytes.count, with: bytes)
      }
      put([1, 2, 3, 4, 5], at: 0x10)
      put(words, at: 0x300)
      put([36, 0x1300, 35, byteCount ?? UInt64(8 * words.count), 0, 0], at: 0x200)
      (builder.segments[2].fileCount, builder.segments[2].memoryCount) = (96, 96)
      return builder
    }
    func load(_ builder: ELFBuilder) throws -> [UInt64] {
      try withFile(builder.file) { bytes in
        let kernel = try KernelImage(try ELFFile(bytes))
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 12288, alignment: 4096)
        defer { memory.deallocate() }
        try kernel.load(to: memory, virtual: 0x5000_0000_0000)
        return (0..<5).map { memory.load(fromByteOffset: 0x1010 + 8 * $0, as: UInt64.self) }
      }
    }
    // The word at 0x1010, and of those behind it the first and the third.
    #expect(
      try load(kernel([0x1010, 0b1011])) == [0x5000_0000_0001, 0x5000_0000_0002, 3, 0x5000_0000_0004, 5])
    #expect(throws: Failure.self) { try load(kernel([0x2ffa])) }
    #expect(throws: Failure.self) { try load(kernel([.max - 1])) }
    #expect(throws: Failure.self) { try load(kernel([0x2fe8, 0b111111])) }
    #expect(throws: Failure.self) { try load(kernel([0x1010], byteCount: 12)) }
    #expect(throws: Failure.self) { try load(kernel([0x1010], byteCount: 1 << 40)) }
  }

  @Test func refusesWhatItCannotStart() {
    func isRefused(_ change: (inout ELFBuilder) -> Void) -> Bool {
      var builder = ELFBuilder.kernel()
      change(&builder)
      return withFile(builder.file) { bytes in
        guard let file = try? ELFFile(bytes) else { return true }
        return (try? KernelImage(file)) == nil
      }
    }
    #expect(!isRefused { _ in })
    #expect(isRefused { $0 = .kernel(version: 99) })
    #expect(isRefused { $0 = .kernel(kind: 7) })
    #expect(isRefused { $0.segments[0].flags = 7 })
    #expect(isRefused { $0.segments[0].flags = 4 })
    #expect(isRefused { $0.entry = 0x1000 })
    #expect(isRefused { $0.type = 2 })
    #expect(isRefused { $0.segments[1].memoryCount = 1 << 40 })
    #expect(isRefused { $0.segments.removeLast() })
    #expect(isRefused { $0.segments[1].address = 0x800 })
    #expect(isRefused { $0.body.replaceSubrange(4096 + 0x208..<4096 + 0x210, with: ELFBuilder.bytes(UInt64(0x1fff))) })
  }
}
