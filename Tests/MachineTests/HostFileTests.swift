// Files that are opened for writing: made, emptied, and, where they are pipes, not waited for.
import Glibc
import Testing

@testable import Machine

@Suite struct HostFileTests {
  @Test func aPipeIsWaitedForOnlyIfThatIsWanted() throws {
    var template = Array("/tmp/osv-host-file-XXXXXX".utf8CString)
    try #require(mkdtemp(&template) != nil)
    let folder = template.dropLast().map { UInt8(bitPattern: $0) }
    let path = folder + Array("/pipe".utf8)
    let name = String(decoding: path, as: UTF8.self)
    defer {
      unlink(name)
      rmdir(String(decoding: folder, as: UTF8.self))
    }
    try #require(mkfifo(name, 0o600) == 0)
    #expect(HostFile.create(path, waits: false) == -ENXIO)
    let reader = open(name, O_RDONLY | O_NONBLOCK)
    let writer = HostFile.create(path, waits: false)
    try #require(reader >= 0 && writer >= 0)
    // Nor is room in it.
    let bytes = [UInt8](repeating: 0, count: 1 << 20)
    #expect(write(writer, bytes, bytes.count) < bytes.count)
    #expect(write(writer, bytes, bytes.count) == -1 && errno == EAGAIN)
    close(reader)
    close(writer)
    unlink(name)
    // What is no pipe is as ever.
    let file = HostFile.create(path, waits: false)
    #expect(file >= 0 && write(file, bytes, bytes.count) == bytes.count)
    close(file)
  }
}
