// The cache of libraries: its order, lookups, what is written can be read by the real thing, and bytes that mean harm.
import Foundation
import Testing

@testable import Closure

private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

private func withCache<Result>(_ file: [UInt8], _ body: (LibraryCache?) throws -> Result) rethrows -> Result {
  try file.withUnsafeBytes { try body(LibraryCache($0)) }
}

@Suite struct LibraryCacheTests {
  @Test func numbersCompareAsNumbers() {
    #expect(LibraryCache.compare(bytes("libx.so.10"), bytes("libx.so.9")) > 0)
    #expect(LibraryCache.compare(bytes("libx.so.1"), bytes("libx.so.1")) == 0)
    #expect(LibraryCache.compare(bytes("liba.so"), bytes("libb.so")) < 0)
    #expect(LibraryCache.compare(bytes("lib1.so"), bytes("liba.so")) > 0)
    #expect(LibraryCache.compare(bytes("lib"), bytes("libb")) < 0)
  }

  @Test func everythingInThisMachinesCacheIsFound() throws {
    let text = try #require(
      String(data: try run(["/sbin/ldconfig", "-p"]), encoding: .utf8))
    let file = [UInt8](try Data(contentsOf: URL(filePath: "/etc/ld.so.cache")))
    var first: [String: String] = [:]
    for line in text.split(separator: "\n").dropFirst() where line.contains("(libc6,x86-64)") {
      let words = line.split(separator: " ").map { $0.trimmingCharacters(in: .whitespaces) }
      if first[words[0]] == nil { first[words[0]] = words.last }
    }
    #expect(first.count > 10)
    withCache(file) { cache in
      for (name, path) in first {
        #expect(cache?.path(for: bytes(name), levels: { [] }) == bytes(path), "\(name)")
      }
      #expect(cache?.path(for: bytes("libnot-there.so.1"), levels: { [] }) == nil)
      #expect(cache?.path(for: [], levels: { [] }) == nil)
    }
  }

  @Test func ldconfigReadsWhatIsWritten() throws {
    let file = LibraryCache.file([
      (bytes("libb.so.1"), bytes("/opt/b/libb.so.1")), (bytes("liba.so.2"), bytes("/lib/liba.so.2")),
      (bytes("libb.so.10"), bytes("/opt/b/libb.so.10")),
    ])
    let path = NSTemporaryDirectory() + "cache-\(UUID().uuidString)"
    defer { try? FileManager.default.removeItem(atPath: path) }
    try Data(file).write(to: URL(filePath: path))
    let text = String(decoding: try run(["/sbin/ldconfig", "-C", path, "-p"]), as: UTF8.self)
    #expect(text.contains("3 libs found"))
    #expect(text.contains("libb.so.10 (libc6,x86-64) => /opt/b/libb.so.10"))
    withCache(file) { cache in
      #expect(cache?.path(for: bytes("libb.so.1"), levels: { [] }) == bytes("/opt/b/libb.so.1"))
      #expect(cache?.path(for: bytes("liba.so.2"), levels: { [] }) == bytes("/lib/liba.so.2"))
    }
  }

  @Test func damagedCachesAreEmptyOrShort() {
    let good = LibraryCache.file([(bytes("liba.so"), bytes("/lib/liba.so")), (bytes("libb.so"), bytes("/lib/libb.so"))])
    for count in 0..<good.count {
      withCache(Array(good[..<count])) { cache in
        let path = cache?.path(for: bytes("liba.so"), levels: { [bytes("x86-64-v2")] })
        #expect(path == nil || path == bytes("/lib/liba.so"))
      }
    }
    var generator = SystemRandomNumberGenerator()
    for _ in 0..<20000 {
      var bad = good
      for _ in 0..<3 { bad[20 + Int.random(in: 0..<bad.count - 20, using: &generator)] = .random(in: 0...255) }
      withCache(bad) { cache in _ = cache?.path(for: bytes("liba.so"), levels: { [bytes("x86-64-v2")] }) }
    }
  }

  private func run(_ command: [String]) throws -> Data {
    let process = Process()
    process.executableURL = URL(filePath: command[0])
    process.arguments = Array(command.dropFirst())
    let pipe = Pipe()
    process.standardOutput = pipe
    try process.run()
    let data = try pipe.fileHandleForReading.readToEnd() ?? Data()
    process.waitUntilExit()
    return data
  }
}
