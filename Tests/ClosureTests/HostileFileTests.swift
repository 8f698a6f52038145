// Files that mean harm: whatever a dynamic section says, reading it ends soon and stays within the file.
import Machine
import Testing

@testable import Closure

/// A file with one loaded segment that holds a dynamic section and its strings.
private func file(entries: [(UInt64, UInt64)], strings: [UInt8], stringsCount: UInt64? = nil) -> [UInt8] {
  func bytes<Value>(_ value: Value) -> [UInt8] { withUnsafeBytes(of: value) { Array($0) } }
  let dynamicOffset = 64 + 2 * 56
  let table = UInt64(dynamicOffset + (entries.count + 3) * 16)
  var dynamic: [UInt8] = []
  for (tag, value) in entries + [(5, table), (10, stringsCount ?? UInt64(strings.count)), (0, 0)] {
    dynamic += bytes(tag) + bytes(value)
  }
  let total = UInt64(dynamicOffset + dynamic.count + strings.count)
  var file: [UInt8] = [0x7f, 0x45, 0x4c, 0x46, 2, 1, 1] + [UInt8](repeating: 0, count: 9)
  file += bytes(UInt16(3)) + bytes(UInt16(62)) + bytes(UInt32(1)) + bytes(UInt64(0)) + bytes(UInt64(64))
  file += bytes(UInt64(0)) + bytes(UInt32(0)) + bytes(UInt16(64)) + bytes(UInt16(56)) + bytes(UInt16(2))
  file += [UInt8](repeating: 0, count: 6)
  for (type, offset, count) in [(UInt32(1), UInt64(0), total), (2, UInt64(dynamicOffset), UInt64(dynamic.count))] {
    file += bytes(type) + bytes(UInt32(4)) + bytes(offset) + bytes(offset) + bytes(offset) + bytes(count)
    file += bytes(count) + bytes(UInt64(4096))
  }
  return file + dynamic + strings
}

private func parse(_ file: [UInt8]) throws -> DynamicSection {
  try file.withUnsafeBytes { try DynamicSection(try ELFFile($0)) }
}

@Suite struct HostileFileTests {
  private let strings = Array("\0liba.so\0libb.so\0/path\0".utf8)

  @Test func namesComeInTheirOrder() throws {
    let made = try parse(
      file(entries: [(1, 9), (0x7fff_fffd, 1), (15, 17), (14, 1), (0x6fff_fffb, 0x800)], strings: strings))
    #expect(made.names.map(\.name) == [Array("libb.so".utf8), Array("liba.so".utf8)])
    #expect(made.names.map(\.need) == [.required, .optional])
    #expect(made.rpath == Array("/path".utf8) && made.runpath == nil)
    #expect(made.refusesDefaults)
    let both = try parse(file(entries: [(15, 17), (29, 1)], strings: strings))
    #expect(both.rpath == nil && both.runpath == Array("liba.so".utf8))
  }

  @Test func offsetsOutsideAreRefused() {
    for offset: UInt64 in [23, 24, 1000, UInt64.max, UInt64.max - 5, 1 << 47] {
      #expect(throws: ELFFile.Defect.self) { try parse(file(entries: [(1, offset)], strings: strings)) }
    }
    for count: UInt64 in [0, 24, 1 << 40, UInt64.max] {
      #expect(throws: ELFFile.Defect.self) {
        try parse(file(entries: [(1, 1)], strings: strings, stringsCount: count))
      }
    }
    // A name that is empty, or does not end.
    #expect(throws: ELFFile.Defect.self) { try parse(file(entries: [(1, 0)], strings: strings)) }
    #expect(throws: ELFFile.Defect.self) { try parse(file(entries: [(1, 1)], strings: Array("\0liba".utf8))) }
    let long = [0] + [UInt8](repeating: 0x61, count: 1 << 20) + [0]
    #expect(throws: ELFFile.Defect.self) { try parse(file(entries: [(1, 1)], strings: long)) }
  }

  @Test func tooManyNamesAreRefused() {
    let many = [(UInt64, UInt64)](repeating: (1, 1), count: DynamicSection.nameLimit + 1)
    #expect(throws: ELFFile.Defect.self) { try parse(file(entries: many, strings: strings)) }
    let endless = [(UInt64, UInt64)](repeating: (21, 1), count: DynamicSection.entryLimit + 1)
    #expect(throws: ELFFile.Defect.self) { try parse(file(entries: endless, strings: strings)) }
  }

  @Test func everyByteMayBeWrong() {
    let good = file(entries: [(1, 9), (14, 1), (29, 17)], strings: strings)
    for index in good.indices {
      for value: UInt8 in [0, 1, 0x7f, 0x80, 0xff] {
        var bad = good
        bad[index] = value
        _ = try? parse(bad)
      }
    }
    for count in good.indices { _ = try? parse(Array(good[..<count])) }
  }

  @Test func tokensAreReplaced() {
    func expand(_ text: String, origin: String? = "/o", platforms: [String] = ["x"]) -> [String] {
      Array(text.utf8).expanded(
        origin: origin.map { Array($0.utf8) }, library: { Array("lib64".utf8) },
        platforms: { platforms.map { Array($0.utf8) } }
      ).map { String(decoding: $0, as: UTF8.self) }
    }
    #expect(expand("$ORIGIN/../${LIB}/$PLATFORM") == ["/o/../lib64/x"])
    #expect(expand("$ORIGINAL/$LIB_/$/${LIB") == ["$ORIGINAL/$LIB_/$/${LIB"])
    #expect(expand("$ORIGIN", origin: nil) == [])
    #expect(expand("$PLATFORM/a", platforms: ["h", "x"]) == ["h/a", "x/a"])
    #expect(expand(String(repeating: "$PLATFORM/", count: 1000), platforms: ["h", "x"]) == [])
  }

  @Test func directoriesOfALinker() {
    func run(_ text: String) -> [String] {
      Array(text.utf8).withUnsafeBytes { SystemDirectories.longestRun($0) }.map { String(decoding: $0, as: UTF8.self) }
    }
    #expect(run("x\0/lib64/\0/usr/lib64/\0/var/tmp\0") == ["/lib64", "/usr/lib64"])
    #expect(run("/lib/a/\0/usr/lib/a/\0/lib/\0/usr/lib/\0") == ["/lib/a", "/usr/lib/a", "/lib", "/usr/lib"])
    #expect(run("junk/lib/\0a\0/store/lib/\0") == ["/store/lib"])
    #expect(run("") == [] && run("/") == [] && run("/\0/\0") == [])
  }

  @Test func pathsAreWalkedByTheirLetters() {
    func text(_ path: [UInt8]) -> String { String(decoding: path, as: UTF8.self) }
    #expect(text(GuestView.normal(Array("/a/b/../c/./d".utf8))) == "/a/c/d")
    #expect(text(GuestView.normal(Array("/..".utf8))) == "/")
    #expect(GuestView.detours(of: Array("/a/b/../c/../d".utf8)).map(text) == ["/a/b", "/a/c"])
  }
}
