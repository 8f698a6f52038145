// The rewriter's decisions and stubs on whole libraries, with objdump as the judge, and on small made-up functions.
import Foundation
import Testing

@testable import Linux

/// What becomes of every pair of bytes 0f 05 in a file's code.
struct Survey {
  var windows: [SiteWindow] = []
  var left: [(address: UInt64, reason: LeftReason)] = []
  var file: CodeFile<Bytes>

  init(_ path: String) throws {
    let source = Bytes(storage: [UInt8](try Data(contentsOf: URL(fileURLWithPath: path))))
    try self.init(source)
  }

  init(_ source: Bytes) throws {
    let scratch = UnsafeMutableRawBufferPointer.allocate(
      byteCount: SiteAnalysis<Bytes>.scratchByteCount, alignment: 16)
    defer { scratch.deallocate() }
    file = try #require(CodeFile(source, scratch: scratch))
    var analysis = SiteAnalysis(file, scratch: scratch)
    for segment in file.segments where segment.isExecutable {
      var hits: [Int] = []
      source.storage.withUnsafeBytes {
        let code = UnsafeRawBufferPointer(
          rebasing: $0[Int(segment.fileOffset)..<Int(segment.fileOffset + segment.fileByteCount)])
        CodeScan.forEachHit(code) { hits.append($0) }
        // The plain search finds the same.
        var plain: [Int] = []
        for index in 0..<(code.count - 1) where code[index] == 0x0f && code[index + 1] == 0x05 { plain.append(index) }
        #expect(hits == plain)
      }
      for hit in hits {
        let address = segment.address + UInt64(hit)
        switch analysis.decide(address, limit: segment.address + segment.fileByteCount) {
        case .window(let window): windows.append(window)
        case .left(let reason): left.append((address, reason))
        }
      }
    }
  }

  func bytes(_ address: UInt64, _ count: UInt64) -> [UInt8] {
    let offset = Int(file.fileOffset(of: address)!)
    return Array(file.source.storage[offset..<offset + Int(count)])
  }

  func count(_ reason: LeftReason) -> Int { left.count { $0.reason == reason } }
}

struct RewritingTests {
  @Test(arguments: sampleBinaries) func everySiteIsRewrittenOrExplained(_ path: String) throws {
    let survey = try Survey(path)
    var real: Set<UInt64> = []
    try disassemble(path) { if $0.text.hasPrefix("syscall") { real.insert($0.address) } }
    let windows = Set(survey.windows.map(\.site))
    // No false hit is ever touched, and no real one is taken for a false one.
    #expect(windows.subtracting(real) == [])
    for (address, reason) in survey.left where reason == .notAnInstruction {
      #expect(!real.contains(address), "\(String(address, radix: 16))")
    }
    #expect(survey.count(.signalReturn) == 1)
    let before = survey.windows.count { $0.shape == .before }
    let explained = survey.left.filter { real.contains($0.address) }
    let summary =
      "\(path): \(real.count) sites, \(before) before (\(survey.windows.count { $0.isPartial }) partial), "
      + "\(windows.count - before) after, not proven \(survey.count(.notProven)), no window \(survey.count(.noWindow)), "
      + "false \(survey.count(.notAnInstruction))"
    print(summary)
    for item in explained { print("  ", String(item.address, radix: 16), item.reason) }
    // At most one site in twenty-five stays a trap.
    #expect(explained.count * 25 <= real.count + 25, "\(summary)")
    #expect(windows.count + explained.count == real.count)
  }

  /// Walks a stub as the CPU would and checks that it does what the site did.
  @Test(arguments: sampleBinaries) func everyStubDoesWhatItsSiteDid(_ path: String) throws {
    let survey = try Survey(path)
    let bias: UInt64 = 0x7f12_3456_7000
    let stubs = bias &- 0x10_0000
    for window in survey.windows {
      // Where the third byte of the jump is `int3`, as the patcher would choose for the shape `after`.
      var stub = stubs
      if window.shape == .after {
        let behind = window.start &+ bias &+ 5
        stub = (behind &- 0x20_0000) & ~0xffff
        stub |= (behind &+ 0xcc00) & 0xff00
        while (stub &- behind) >> 8 & 0xff != 0xcc || stub & 63 != 0 { stub &+= 1 }
      }
      var buffer = [UInt8](repeating: 0xcc, count: Stub.byteCount)
      let displaced = survey.bytes(window.displacedStart, window.displacedByteCount)
      let site = try #require(
        buffer.withUnsafeMutableBytes { buffer in
          displaced.withUnsafeBytes {
            Stub.write(window, bias: bias, displaced: $0, at: stub, gateOffset: 0x858, into: buffer)
          }
        })
      let jump = try #require(Stub.jump(from: site.start, to: stub))
      #expect(jump & 0xff == 0xe9)
      if window.shape == .after { #expect(jump >> 16 & 0xff == 0xcc) }
      // The stub, instruction by instruction.
      var at = 0
      var original = window.shape == .before ? window.start &+ bias : window.site &+ bias
      var sawGate = false
      var sawCounter = false
      var end = false
      while at < Int(site.byteCount), !end {
        let instruction = try #require(
          buffer.withUnsafeBytes { Instruction(UnsafeRawBufferPointer(rebasing: $0[at...])) })
        let place = stub &+ UInt64(at)
        if at == Int(site.gate) {
          // lea resume(%rip), %rcx; jmp *%gs:0x858
          #expect(
            buffer[at..<at + 15].elementsEqual(
              [0x48, 0x8d, 0x0d, 8, 0, 0, 0, 0x65, 0xff, 0x24, 0x25, 0x58, 0x08, 0, 0]))
          #expect(site.original(of: place) == window.site &+ bias)
          #expect(site.original(of: place &+ 7) == window.site &+ bias)
          #expect(original == window.site &+ bias)
          sawGate = true
          original = window.site &+ bias &+ 2
          at += 15
          continue
        }
        #expect(site.original(of: place) == original, "\(window) at \(at)")
        if at == Int(site.resume) {
          #expect(buffer[at] == 0x48 && buffer[at + 1] == 0x8d && buffer[at + 2] == 0x0d)
          let distance = buffer.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: at + 3, as: Int32.self) }
          #expect(place &+ 7 &+ UInt64(bitPattern: Int64(distance)) == window.site &+ bias &+ 2)
          sawCounter = true
          at += 7
          continue
        }
        if sawCounter, buffer[at] == 0xe9, at + 5 == Int(site.byteCount),
          original == window.site &+ bias &+ 2
            &+ (window.shape == .after ? window.displacedByteCount : 0)
        {
          #expect(place &+ 5 &+ UInt64(bitPattern: instruction.displacement) == original)
          end = true
          break
        }
        // A displaced instruction: the same but for what is relative to it.
        let bytes = survey.bytes(original &- bias, UInt64(instruction.byteCount))
        let twin = try #require(bytes.withUnsafeBytes { Instruction($0) })
        #expect(twin.byteCount == instruction.byteCount && twin.flow == instruction.flow)
        var field: Int?
        if twin.relativeOffset > 0 { field = twin.relativeOffset }
        if twin.isDirectBranch { field = twin.byteCount - 4 }
        for index in 0..<twin.byteCount where field == nil || index < field! || index >= field! + 4 {
          #expect(bytes[index] == buffer[at + index])
        }
        if let field {
          let old = bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: field, as: Int32.self) }
          let new = buffer.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: at + field, as: Int32.self) }
          #expect(original &+ UInt64(bitPattern: Int64(old)) == place &+ UInt64(bitPattern: Int64(new)))
        }
        if twin.flow == .return || twin.flow == .jump { end = true }
        original &+= UInt64(twin.byteCount)
        at += twin.byteCount
      }
      #expect(sawGate && sawCounter && end, "\(window)")
      // Going back.
      #expect(site.replacement(for: site.site) == stub &+ UInt64(site.gate))
      #expect(site.original(of: stub &- 1) == nil && site.original(of: stub &+ UInt64(site.byteCount)) == nil)
    }
  }

  /// Patches do not overlap, and each lies in one page.
  @Test(arguments: sampleBinaries) func jumpsDoNotOverlap(_ path: String) throws {
    let survey = try Survey(path)
    var end: UInt64 = 0
    for window in survey.windows.sorted(by: { $0.start < $1.start }) {
      #expect(window.start >= end, "\(window)")
      #expect(window.start >> 12 == (window.start + 4) >> 12)
      end = window.start + (window.shape == .after ? 2 + window.displacedByteCount : 5)
    }
  }

  /// The C library's stubs in assembly, which call and return, and nothing that looks like them.
  @Test func leafStubsAreRecognised() throws {
    let stub: [UInt8] = [
      0xb8, 0x18, 0, 0, 0,  // mov $24, %eax
      0x0f, 0x05, 0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff,  // syscall; cmp $-4095, %rax
      0x73, 0x01, 0xc3,  // jae; ret
      0x48, 0xc7, 0xc1, 0xb8, 0xff, 0xff, 0xff,  // mov $errno, %rcx
      0xf7, 0xd8, 0x64, 0x89, 0x01, 0x48, 0x83, 0xc8, 0xff, 0xc3,  // neg; mov to %fs:(%rcx); or $-1; ret
    ]
    func isLeaf(_ code: [UInt8]) throws -> Bool {
      var sample = Sample()
      sample.header.sectionsOffset = 0x2800
      sample.header.sectionByteCount = 64
      sample.header.sectionCount = 3
      sample.header.sectionNames = 0
      var storage = sample.bytes().storage
      func put<T>(_ value: T, at offset: Int) {
        withUnsafeBytes(of: value) { storage.replaceSubrange(offset..<offset + $0.count, with: $0) }
      }
      for index in 0x1000..<0x1100 { storage[index] = 0xcc }
      storage.replaceSubrange(0x1020..<0x1020 + code.count, with: code)
      var table = ELFSectionHeader()
      table.type = ELFSectionHeader.symbols
      table.fileOffset = 0x2000
      table.byteCount = 48
      table.entryByteCount = 24
      put(table, at: 0x2840)
      var symbol = ELFSymbol()
      symbol.information = 0x12
      symbol.section = 1
      symbol.value = 0x40_1020
      symbol.byteCount = UInt64(code.count)
      put(symbol, at: 0x2018)
      let windows = try Survey(Bytes(storage: storage)).windows
      try #require(windows.count == 1)
      return windows[0].isLeaf
    }
    #expect(try isLeaf(stub))
    // With the mark for indirect branches, and with arguments moved first (as in syscall(3)).
    #expect(try isLeaf([0xf3, 0x0f, 0x1e, 0xfa] + stub))
    #expect(try isLeaf([0x49, 0x89, 0xca] + stub))
    // Through the table of offsets, as in a shared library.
    var shared = stub
    shared.replaceSubrange(16..<19, with: [0x48, 0x8b, 0x0d])
    #expect(try isLeaf(shared))
    // As a compiler compares; another way out; something between the call and the return.
    var compiled = stub
    compiled.replaceSubrange(9..<13, with: [0x00, 0xf0, 0xff, 0xff])
    #expect(try !isLeaf(compiled))
    var jumping = stub
    jumping[14] = 0x08
    #expect(try !isLeaf(jumping))
    for index in [7, 13, 15, 16, 23, 24, 28, 32] {
      var other = stub
      other[index] = 0x90
      #expect(try !isLeaf(other), "byte \(index)")
    }
    // A branch before the call; a call at the end of a longer function.
    #expect(try !isLeaf([0x74, 0x00] + stub))
    #expect(try !isLeaf(Array(repeating: 0x90, count: 48) + stub))
  }

  /// In real C libraries: sched_yield and syscall are leaf stubs, and about as many others as are in assembly.
  @Test func realLeafStubs() throws {
    let survey = try Survey("/lib/x86_64-linux-gnu/libc.so.6")
    let leaves = survey.windows.filter(\.isLeaf)
    #expect(leaves.count > 80 && leaves.count < 160)
    #expect(leaves.count < survey.windows.count / 2)
    // What is compiled, as musl is, is not proven.
    #expect(try Survey("/lib/ld-musl-x86_64.so.1").windows.allSatisfy { !$0.isLeaf })
  }

  /// A Go program's table, as its linker writes it: three functions, the second with a call.
  @Test func functionsOfGoProgramsAreFound() throws {
    var sample = Sample()
    sample.header.sectionsOffset = 0x2800
    sample.header.sectionByteCount = 64
    sample.header.sectionCount = 3
    sample.header.sectionNames = 2
    var storage = sample.bytes().storage
    func put<T>(_ value: T, at offset: Int) {
      withUnsafeBytes(of: value) { storage.replaceSubrange(offset..<offset + $0.count, with: $0) }
    }
    // The code: functions at 0x401000, 0x401020 and 0x401060, the last one empty.
    for index in 0x1000..<0x1100 { storage[index] = 0xcc }
    // mov %rax, %rdx; syscall; cmp $-4095, %rax; jbe; ret. And the bytes of a call inside `mov $0x050f1234, %eax`.
    let body: [UInt8] = [
      0xb8, 0x34, 0x12, 0x0f, 0x05, 0x48, 0x89, 0xc2, 0x0f, 0x05, 0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, 0x76, 0x00, 0xc3,
    ]
    for (index, byte) in body.enumerated() { storage[0x1020 + index] = byte }
    var table = ELFSectionHeader()
    table.type = 1
    table.name = 1
    table.fileOffset = 0x2000
    table.byteCount = 0x200
    var names = ELFSectionHeader()
    names.type = 3
    names.fileOffset = 0x2700
    names.byteCount = 16
    put(table, at: 0x2840)
    put(names, at: 0x2880)
    for (index, byte) in ("\0.gopclntab\0".utf8).enumerated() { storage[0x2700 + index] = byte }
    put(UInt32(0xffff_fff1), at: 0x2000)
    put(UInt32(0x0801_0000), at: 0x2004)
    put(UInt64(3), at: 0x2008)
    put(UInt64(0x40_1000), at: 0x2018)
    put(UInt64(0x100), at: 0x2040)
    for (number, start) in [0, 0x20, 0x60, 0x80].enumerated() { put(UInt32(start), at: 0x2100 + number * 8) }
    let survey = try Survey(Bytes(storage: storage))
    #expect(survey.windows == [SiteWindow(shape: .before, site: 0x40_1028, start: 0x40_1020, displacedByteCount: 8)])
    #expect(survey.left.map(\.address) == [0x40_1023] && survey.count(.notAnInstruction) == 1)
    #expect(
      survey.file.goBound(around: 0x40_1030, limit: 0x40_2000)
        == CodeBound(
          start: 0x40_1020, end: 0x40_1060, next: 0x40_1060))
    #expect(survey.file.goBound(around: 0x40_1080, limit: 0x40_2000) == nil)
    #expect(survey.file.goBound(around: 0x40_0fff, limit: 0x40_2000) == nil)
    // Another version is not read.
    put(UInt32(0xffff_fffb), at: 0x2000)
    #expect(try Survey(Bytes(storage: storage)).windows.isEmpty)
  }
}
