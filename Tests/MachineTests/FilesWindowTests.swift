import Glibc
import Testing

@testable import Machine

@Suite struct FilesWindowTests {
  @Test func filesLieOnTheirOwnPages() throws {
    let window = try FilesWindow([
      GuestFile(path: Array("/a".utf8), mode: 0o100644, source: .bytes([1, 2, 3])),
      GuestFile(path: Array("/b".utf8), mode: 0o100644, source: .bytes([])),
      GuestFile(path: Array("/c".utf8), mode: 0o100644, source: .bytes([UInt8](repeating: 7, count: 5000))),
    ])
    #expect(window.byteCount == 4 * 4096)
    #expect(window.files.map(\.physical) == [0, 4096, 8192].map { GuestMemory.filesStart + $0 })
    #expect(window.files.map(\.byteCount) == [3, 0, 5000])
    let host = try #require(window.host)
    #expect(host.load(fromByteOffset: 2, as: UInt8.self) == 3)
    #expect(host.load(fromByteOffset: 8192 + 4999, as: UInt8.self) == 7)
    #expect(host.load(fromByteOffset: 8192 + 5000, as: UInt8.self) == 0)
  }

  @Test func truncatedFilesBecomeZeroPages() throws {
    var template = Array("/tmp/osv-window-XXXXXX".utf8CString)
    let descriptor = mkstemp(&template)
    defer { close(descriptor) }
    unlink(template)
    let bytes = [UInt8](repeating: 9, count: 3 * 4096)
    #expect(write(descriptor, bytes, bytes.count) == bytes.count)
    let window = try FilesWindow([GuestFile(path: [0x2f], mode: 0o100755, source: .descriptor(descriptor))])
    let host = try #require(window.host)
    #expect(host.load(fromByteOffset: 8192, as: UInt8.self) == 9)
    var first = 0
    var second = 0
    #expect(!window.repair(seen: &first))
    #expect(ftruncate(descriptor, 5000) == 0)
    #expect(window.repair(seen: &first))
    // Another CPU that met the same loss at the same time goes on too, once.
    #expect(window.repair(seen: &second))
    #expect(!window.repair(seen: &second))
    #expect(host.load(fromByteOffset: 8192, as: UInt8.self) == 0)
    #expect(host.load(fromByteOffset: 4096, as: UInt8.self) == 9)
    #expect(!window.repair(seen: &first))
  }

  @Test func nothingNeedsNoWindow() throws {
    let window = try FilesWindow([])
    var seen = 0
    #expect(window.byteCount == 0 && window.host == nil && !window.repair(seen: &seen))
  }
}
