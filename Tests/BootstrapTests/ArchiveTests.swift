// Archives: what cpio(1) writes, and what nobody should.
import Foundation
import Testing
import VirtioABI

@testable import Bootstrap

@Suite struct ArchiveTests {
  /// What cpio(1) makes of a directory with a file, a link, a directory and an empty file.
  private func real() throws -> [UInt8] {
    let folder = FileManager.default.temporaryDirectory.appending(path: "archive-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: folder) }
    let files = FileManager.default
    try files.createDirectory(at: folder.appending(path: "usr/lib"), withIntermediateDirectories: true)
    try Data((0..<5001).map { UInt8(truncatingIfNeeded: $0) }).write(to: folder.appending(path: "usr/lib/data"))
    try Data().write(to: folder.appending(path: "empty"))
    try Data("mine\n".utf8).write(to: folder.appending(path: "etc"), options: .atomic)
    try files.removeItem(at: folder.appending(path: "etc"))
    try files.createDirectory(at: folder.appending(path: "etc"), withIntermediateDirectories: true)
    try Data("mine\n".utf8).write(to: folder.appending(path: "etc/passwd"))
    try Data("shared\n".utf8).write(to: folder.appending(path: "first"))
    try files.linkItem(at: folder.appending(path: "first"), to: folder.appending(path: "second"))
    try files.createSymbolicLink(atPath: folder.path + "/lib", withDestinationPath: "usr/lib")
    let process = Process()
    process.executableURL = URL(filePath: "/bin/sh")
    process.arguments = ["-c", "find . | sort | cpio -o -H newc --quiet"]
    process.currentDirectoryURL = folder
    let pipe = Pipe()
    process.standardOutput = pipe
    try process.run()
    let bytes = try #require(try pipe.fileHandleForReading.readToEnd())
    process.waitUntilExit()
    #expect(process.terminationStatus == 0)
    return Array(bytes)
  }

  @Test func filesOfTheRoot() throws {
    let machine = ModelMachine()
    machine.putStartInfo(commandLine: "usr/lib/data", module: try real())
    let told = Told(machine, try machine.run())
    #expect(told.text(told.head.programOffset) == "/usr/lib/data")
    let data = try #require(told.file("/usr/lib/data"))
    #expect(told.content(data) == (0..<5001).map { UInt8(truncatingIfNeeded: $0) })
    #expect(data.mode & 0o170000 == 0o100000 && data.modificationTime > 1_700_000_000)
    // Behind the file's end its last page is zero.
    let tail = machine.ram + Int(data.physical + data.byteCount)
    #expect((0..<(8192 - 5001)).allSatisfy { tail.load(fromByteOffset: $0, as: UInt8.self) == 0 })
    #expect(told.file("/usr/lib").map { $0.mode & 0o170000 } == 0o040000)
    // Of a file with two names both have its bytes.
    #expect(told.file("/first").map(told.content) == Array("shared\n".utf8))
    #expect(told.file("/second").map(told.content) == Array("shared\n".utf8))
    let link = try #require(told.file("/lib"))
    #expect(link.mode & 0o170000 == 0o120000 && told.content(link) == Array("usr/lib".utf8))
    #expect(told.file("/empty")?.byteCount == 0)
    #expect(told.file("/etc/passwd").map(told.content) == Array("mine\n".utf8), "the archive's is the later one")
    #expect(told.file("/etc/hosts") != nil && told.file("/TRAILER!!!") == nil && told.file("/.") == nil)
  }

  @Test func whatIsNoArchive() throws {
    let machine = ModelMachine()
    machine.putStartInfo(commandLine: "x", module: [0x1f, 0x8b, 8, 0] + [UInt8](repeating: 1, count: 100))
    #expect(refusal { _ = try machine.run() }?.contains("compressed") == true)
    var bytes = try real()
    let name = Array("usr/lib/data\0".utf8)
    let at = try #require(bytes.indices.first { bytes[$0...].starts(with: name) })
    bytes.replaceSubrange(at..<at + name.count, with: Array("usr/../dataX\0".utf8))
    machine.putStartInfo(commandLine: "x", module: bytes)
    #expect(refusal { _ = try machine.run() }?.contains("..") == true)
  }

  @Test func damagedArchives() throws {
    let whole = try real()
    for end in stride(from: 0, to: whole.count - 600, by: 37) {
      let cut = Array(whole[..<end])
      cut.withUnsafeBytes { bytes in
        guard Archive.isOne(bytes) else { return }
        #expect(refusal { _ = try RootFiles(module: bytes) }?.contains("damaged") == true, "\(end)")
      }
    }
    var generator = SystemRandomNumberGenerator()
    for _ in 0..<40 {
      var changed = whole
      for _ in 0..<4 {
        changed[Int.random(in: 0..<2000, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
      }
      // Whatever comes of it, nothing outside is touched: the addresses are checked by the model's RAM.
      let machine = ModelMachine(ramByteCount: 16 << 20)
      machine.step = 100_000
      machine.putStartInfo(commandLine: "x", module: changed)
      let reason = refusal {
        let told = Told(machine, try machine.run())
        for file in told.files where file.byteCount > 0 {
          #expect(file.physical >= ModelMachine.image.place.end)
          #expect(file.physical + file.byteCount <= told.head.freeMemoryStart)
        }
      }
      if let reason { #expect(reason.contains("archive")) }
    }
  }
}
