// Small writes that wait for one another: what programs see meanwhile, what the host has afterwards, and when.
import Base
import Files
import Glibc
import Memory
import Testing
import VirtioABI
import VirtioFileSystem

@testable import VirtioFS

@Suite(.serialized) struct DelayingTests {
  @Test func manyWritesAreOneRequest() throws {
    let tree = HostTree()
    let mounted = try Mounted.writable(tree.path, delays: true)
    let file = try mounted.create(mounted.root, "file")
    var expected: [UInt8] = []
    let quiet = try mounted.messages {
      for index in 0..<200 {
        let line = Array("line \(index)\n".utf8)
        try mounted.write(file, expected.count, line)
        expected += line
        #expect(try file.getAttributes().byteCount == UInt64(expected.count))
      }
      #expect(try mounted.read(file) == expected)
    }
    #expect(quiet.isEmpty)
    #expect(tree.content("file") == [])
    let sent = mounted.messages { #expect(mounted.fileSystem.writeBackDirty() == nil) }
    #expect(sent.first == FUSEOpcode.write && sent.count <= 2)
    #expect(tree.content("file") == expected)
    #expect(!file.isDelayed)
    var status = stat()
    stat(tree.path + "/file", &status)
    let after = try file.getAttributes()
    #expect(after.byteCount == UInt64(expected.count))
    #expect(after.modificationTime.seconds == Int64(status.st_mtim.tv_sec))
    #expect(after.modificationTime.nanoseconds == UInt32(status.st_mtim.tv_nsec))
    // Durable at once; nothing is left for later.
    try mounted.write(file, 0, [0x4c])
    try file.synchronise(dataOnly: false)
    #expect(tree.content("file")![0] == 0x4c)
    let nothing = mounted.messages { _ = mounted.fileSystem.writeBackDirty() }
    #expect(nothing.isEmpty)
  }

  @Test func theTimeIsThatOfTheWrite() throws {
    let tree = HostTree("printf 0123456789 > file")
    let mounted = try Mounted.writable(tree.path, delays: true)
    let node = try mounted.node("file")!
    try mounted.write(node, 3, [0x41])
    let seen = try node.getAttributes().modificationTime
    usleep(60_000)
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    var status = stat()
    stat(tree.path + "/file", &status)
    #expect(Int64(status.st_mtim.tv_sec) == seen.seconds && UInt32(status.st_mtim.tv_nsec) == seen.nanoseconds)
    #expect(try node.getAttributes().modificationTime == seen)
    // One that is set is not moved by what was written before.
    try mounted.write(node, 3, [0x42])
    var change = AttributeChange()
    change.modificationTime = .to(FileTime(seconds: 12_345, nanoseconds: 6))
    try node.setAttributes(change)
    usleep(20_000)
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    stat(tree.path + "/file", &status)
    #expect(status.st_mtim.tv_sec == 12_345 && status.st_mtim.tv_nsec == 6)
    #expect(tree.content("file") == Array("012B456789".utf8))
  }

  @Test func aWriterWaitsWhenThereIsMuch() throws {
    let tree = HostTree()
    let mounted = try Mounted.writable(tree.path, delays: true)
    let file = try mounted.create(mounted.root, "file")
    let block = [UInt8](repeating: 7, count: 8192)
    for index in 0..<500 { try mounted.write(file, index * 8192, block) }
    #expect(try file.memoryObject().dirtyPages < VirtioNode.delayedPages)
    #expect(mounted.transport.count(FUSEOpcode.write) > 10)
    #expect(mounted.transport.count(FUSEOpcode.write) < 100)
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    #expect(tree.content("file") == [UInt8](repeating: 7, count: 500 * 8192))
  }

  @Test(arguments: [1, 2, 3, 4]) func everythingTogetherFollowsTheModel(seed: UInt64) throws {
    let tree = HostTree()
    let mounted = try Mounted.writable(tree.path, cache: seed % 2 == 0 ? .always : .automatic, delays: true)
    let file = try mounted.create(mounted.root, "file")
    var model: [UInt8] = []
    var state = seed &* 0x9e37_79b9_7f4a_7c15 | 1
    func below(_ limit: Int) -> Int {
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      return Int(state >> 11) % limit
    }
    for _ in 0..<400 {
      mounted.clock.now += UInt64(below(400_000_000))
      let offset = below(model.count + 3000)
      switch below(10) {
      case 0...4:
        let bytes = [UInt8](repeating: UInt8(below(255) + 1), count: below(20) == 0 ? 70_000 : below(3000) + 1)
        if model.count < offset + bytes.count {
          model += [UInt8](repeating: 0, count: offset + bytes.count - model.count)
        }
        model.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        #expect(try mounted.write(file, offset, bytes) == bytes.count)
      case 5:
        var change = AttributeChange()
        change.byteCount = UInt64(offset)
        try file.setAttributes(change)
        model = Array(model.prefix(offset)) + [UInt8](repeating: 0, count: max(0, offset - model.count))
      case 6:
        #expect(mounted.fileSystem.writeBackDirty() == nil)
        #expect(tree.content("file") == model)
      case 7: try file.memoryObject().invalidate()
      case 8:
        try file.allocate(mode: 3, offset: UInt64(offset), byteCount: 5000)
        for place in offset..<max(offset, min(offset + 5000, model.count)) { model[place] = 0 }
      default: try file.synchronise(dataOnly: true)
      }
      #expect(try file.getAttributes().byteCount == UInt64(model.count))
      #expect(try mounted.read(file, 0, 1 << 20) == model)
    }
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    #expect(tree.content("file") == model)
  }

  @Test func othersWhoWriteAreNoticed() throws {
    let tree = HostTree("printf 0123456789 > file")
    let mounted = try Mounted.writable(tree.path, delays: true)
    let node = try mounted.node("file")!
    try mounted.write(node, 0, [0x41])
    shell("cd '\(tree.path)' && printf more >> file && touch -d @99 file")
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    #expect(try node.getAttributes().byteCount == 14)
    #expect(tree.content("file")!.count == 14)
    // Cut on the host while the guest has something to write behind the cut: that is written all the same.
    try mounted.write(node, 13, [0x42])
    shell("cd '\(tree.path)' && truncate -s 2 file && touch -d @98 file")
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    #expect(try node.getAttributes().byteCount == UInt64(tree.content("file")!.count))
    #expect(!node.isDelayed)
  }

  @Test func errorsAreToldByWhoeverAsksForSafety() throws {
    let tree = HostTree()
    let mounted = try Mounted.writable(tree.path, delays: true)
    let file = try mounted.create(mounted.root, "file")
    var old = rlimit()
    getrlimit(__rlimit_resource_t(1), &old)
    let limit = 1 << 33
    var small = rlimit(rlim_cur: rlim_t(limit), rlim_max: old.rlim_max)
    setrlimit(__rlimit_resource_t(1), &small)
    var change = AttributeChange()
    change.byteCount = UInt64(limit - 50)
    try file.setAttributes(change)
    #expect(try mounted.write(file, limit - 50, [UInt8](repeating: 1, count: 100)) == 100)
    #expect(throws: Errno.EFBIG) { try file.synchronise(dataOnly: false) }
    setrlimit(__rlimit_resource_t(1), &old)
    // It was not lost: with room for it, it is written.
    try file.synchronise(dataOnly: false)
    #expect(try file.getAttributes().byteCount == UInt64(limit + 50))
    #expect(try mounted.read(file, limit - 51, 1000) == [0] + [UInt8](repeating: 1, count: 100))
  }
}
