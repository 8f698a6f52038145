// Small writes that wait for one another: what programs see meanwhile, what the host has afterwards, and when.
import Base
import Files
import Glibc
import Testing
import VirtioABI
import VirtioFileSystem

@testable import Memory
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
    let limit = fileSizeLimit
    try withFileSizeLimit { () throws in
      var change = AttributeChange()
      change.byteCount = UInt64(limit - 50)
      try file.setAttributes(change)
      #expect(try mounted.write(file, limit - 50, [UInt8](repeating: 1, count: 100)) == 100)
      #expect(throws: Errno.EFBIG) { try file.synchronise(dataOnly: false) }
    }
    // It was not lost: with room for it, it is written.
    try file.synchronise(dataOnly: false)
    #expect(try file.getAttributes().byteCount == UInt64(limit + 50))
    #expect(try mounted.read(file, limit - 51, 1000) == [0] + [UInt8](repeating: 1, count: 100))
  }

  /// One flusher has taken the last pages and not sent them when another finds nothing dirty: the size stays what was written.
  @Test func theSizeIsKeptWhilePagesAreUnderWay() throws {
    let tree = HostTree("printf old > file")
    let mounted = try Mounted.writable(tree.path, delays: true)
    let node = try mounted.node("file")!
    let contents = try node.fileContents()
    try mounted.write(node, 0, [UInt8](repeating: 0x41, count: 9000))
    contents.object.visitor = { place in
      guard place == .sending else { return }
      contents.object.visitor = nil
      node.delayEnds(contents)
      #expect(node.isDelayed && contents.object.byteCount == 9000)
    }
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    #expect(tree.content("file") == [UInt8](repeating: 0x41, count: 9000))
    #expect(!node.isDelayed)
  }

  /// From the first refusal on writes are told at once; what was written before is not lost.
  @Test func aWriterHearsOfARefusal() throws {
    let tree = HostTree()
    let mounted = try Mounted.writable(tree.path, delays: true)
    let file = try mounted.create(mounted.root, "file")
    let limit = fileSizeLimit
    var change = AttributeChange()
    change.byteCount = UInt64(limit)
    try file.setAttributes(change)
    try withFileSizeLimit { () throws in
      #expect(try mounted.write(file, limit, Array("first".utf8)) == 5)
      #expect(mounted.fileSystem.writeBackDirty() == .EFBIG)
      #expect(throws: Errno.EFBIG) { try mounted.write(file, limit + 5, Array("second".utf8)) }
      #expect(try file.getAttributes().byteCount == UInt64(limit + 5))
      // The many writes of one that does not listen end in the same way, and no page more is kept.
      var refusals = 0
      for index in 0..<1000 {
        do { try mounted.write(file, limit + 8192 + index * 4096, [UInt8](repeating: 1, count: 4096)) } catch {
          refusals += 1
        }
      }
      #expect(refusals == 1000)
    }
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    #expect(try mounted.write(file, limit + 5, Array("!".utf8)) == 1)
    let quiet = try mounted.messages { try mounted.write(file, limit + 6, Array("?".utf8)) }
    #expect(quiet.isEmpty)
    try file.synchronise(dataOnly: true)
    let host = open(tree.path + "/file", O_RDONLY)
    var bytes = [UInt8](repeating: 0, count: 100)
    #expect(pread(host, &bytes, 100, limit) == 7)
    close(host)
    #expect(Array(bytes[..<7]) == Array("first!?".utf8))
  }

  /// What must be at the host when the call returns does not wait, nor what takes set-user bits away.
  @Test func someWritesDoNotWait() throws {
    let tree = HostTree("printf 0123456789 > file && printf x > special && chmod 4755 special")
    let mounted = try Mounted.writable(tree.path, delays: true)
    let node = try mounted.node("file")!
    #expect(try mounted.read(node).count == 10)
    for flags in [OpenFlags.direct, .dataSynchronous, [.synchronous, .dataSynchronous]] {
      let bytes: [UInt8] = [0x41]
      let sent = try mounted.messages {
        try bytes.withUnsafeBytes { bytes in
          var transfer = Transfer(kernelSource: bytes)
          _ = try node.write(at: 0, from: &transfer, flags: flags.union(.writeOnly))
        }
      }
      #expect(sent == [FUSEOpcode.write])
    }
    let special = try mounted.node("special")!
    try mounted.write(special, 0, [0x79])
    #expect(try special.getAttributes().mode == 0o100755)
    #expect(tree.content("special") == [0x79])
    // Bits that are set after a write outlive its way to the host.
    try mounted.write(node, 0, [0x42])
    var change = AttributeChange()
    change.mode = 0o4755
    try node.setAttributes(change)
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    #expect(try node.getAttributes().mode == 0o104755)
    #expect(tree.content("file")![0] == 0x42)
    // With cache=none nothing ever waits.
    #expect(try !Mounted(tree.path, configure: { ($0.isWritable, $0.cache) = (true, .none) }).fileSystem.delaysWrites)
    #expect(try Mounted(tree.path, configure: { $0.isWritable = true }).fileSystem.delaysWrites)
    #expect(try !Mounted(tree.path).fileSystem.delaysWrites)
  }

  /// What stat tells does not move when the data is written: it is written before stat tells.
  @Test func timesThatWereToldStay() throws {
    let tree = HostTree()
    let mounted = try Mounted.writable(tree.path, delays: true)
    let file = try mounted.create(mounted.root, "file")
    try mounted.write(file, 0, Array("text".utf8))
    #expect(tree.content("file") == [])
    // The size alone is known without.
    #expect(try file.currentSize() == 4)
    #expect(tree.content("file") == [])
    file.settleTimes()
    let told = try file.getAttributes().modificationTime
    #expect(tree.content("file") == Array("text".utf8))
    mounted.clock.now += 10_000_000_000
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    #expect(try file.getAttributes().modificationTime == told)
    // Behind a gap, and what is appended to that.
    try mounted.write(file, 5000, [1])
    try mounted.write(file, 10, [2])
    #expect(try mounted.read(file, 0, 12) == Array("text".utf8) + [0, 0, 0, 0, 0, 0, 2, 0])
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    #expect(tree.content("file")!.count == 5001)
  }

  /// A file is listed once, however often it becomes dirty.
  @Test func theListOfDirtyFilesIsShort() throws {
    let tree = HostTree()
    let mounted = try Mounted.writable(tree.path, delays: true)
    let files = try (0..<20).map { try mounted.create(mounted.root, "file\($0)") }
    for round in 0..<10 {
      for file in files {
        try mounted.write(file, round, [1])
        if round % 3 == 0 { try file.writeBackDirty() }
      }
    }
    var seen = 0
    mounted.fileSystem.dirty.beginPass()
    while let node = mounted.fileSystem.dirty.next() {
      seen += 1
      // Dirty again within the pass: the next one's.
      try mounted.write(node, 100, [2])
    }
    #expect(seen == 20)
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    #expect(mounted.fileSystem.dirty.next() == nil)
    #expect((0..<20).allSatisfy { tree.content("file\($0)")!.count == 101 })
  }

  /// A page that becomes dirty behind those that are being sent, while others are dirty yet, is not forgotten.
  @Test func aPageThatComesLateIsWritten() throws {
    let tree = HostTree("head -c 40000 /dev/zero > file")
    let mounted = try Mounted.writable(tree.path, delays: true)
    let node = try mounted.node("file")!
    let object = try node.memoryObject()
    func interrupted(_ value: UInt8, _ body: () -> Void) throws {
      try mounted.write(node, 0, [1])
      for page in [3, 6] { try mounted.write(node, page * 4096, [value]) }
      var runs = 0
      object.visitor = { place in
        guard place == .sending else { return }
        runs += 1
        // The first is at the host, the last is dirty yet.
        if runs == 2 { #expect(throws: Never.self) { try mounted.write(node, 0, [value]) } }
      }
      body()
      object.visitor = nil
      #expect(runs >= 3)
    }
    // The thread's pass, and its next one.
    try interrupted(2) { #expect(mounted.fileSystem.writeBackDirty() == nil) }
    #expect(object.dirtyPages == 1 && !mounted.fileSystem.dirty.isEmpty)
    #expect(tree.content("file")![0] == 1 && tree.content("file")![6 * 4096] == 2)
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    #expect(tree.content("file")![0] == 2 && mounted.fileSystem.dirty.isEmpty && !node.isDelayed)
    // The end of the machine has no later.
    try interrupted(3) { #expect(throws: Never.self) { try mounted.fileSystem.writeBack() } }
    #expect(tree.content("file")![0] == 3 && object.dirtyPages == 0)
    // In a close, in the midst of a pass.
    mounted.fileSystem.dirty.beginPass()
    try interrupted(4) {
      while mounted.fileSystem.dirty.next() != nil {}
      #expect(throws: Never.self) { try node.writeBackDirty() }
    }
    #expect(object.dirtyPages == 1 && !mounted.fileSystem.dirty.isEmpty)
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    #expect(tree.content("file")![0] == 4 && mounted.fileSystem.dirty.isEmpty)
  }

  /// What cannot be written when the machine ends is told, and what never can be any more.
  @Test(arguments: [false, true]) func whatIsLostIsTold(hasName: Bool) throws {
    let tree = HostTree("printf 0123456789 > file")
    let (mounted, liar) = try Mounted.lying(tree.path, isWritable: true)
    let file = try mounted.node("file")!
    liar.about = FUSEOpcode.write
    func refuse(_ error: Errno) {
      liar.lie = { _, reply, count in
        count = 16
        reply.storeBytes(of: 16, as: UInt32.self)
        reply.storeBytes(of: -Int32(error.rawValue), toByteOffset: 4, as: Int32.self)
      }
    }
    try mounted.write(file, 0, [1])
    refuse(.ENOSPC)
    #expect(throws: Errno.ENOSPC) { try mounted.fileSystem.writeBack() }
    #expect(!mounted.fileSystem.dirty.isEmpty)
    liar.lie = nil
    #expect(throws: Never.self) { try mounted.fileSystem.writeBack() }
    #expect(mounted.fileSystem.dirty.isEmpty)
    // The host has removed it; or the guest has, and nobody misses it.
    try mounted.write(file, 0, [2])
    if !hasName { try withName("file") { try mounted.root.unlink(PathBytes($0), file) } }
    // As long as somebody has it open, it is to be read, and attempts go on.
    file.openFiles.wrappingAdd(1, ordering: .relaxed)
    refuse(.ESTALE)
    #expect(mounted.fileSystem.writeBackDirty() == (hasName ? .ESTALE : nil))
    #expect(try file.memoryObject().dirtyPages == 1)
    file.openFiles.wrappingSubtract(1, ordering: .relaxed)
    #expect(mounted.fileSystem.writeBackDirty() == (hasName ? .ESTALE : nil))
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    #expect(mounted.fileSystem.dirty.isEmpty && !file.isDelayed)
    #expect(try file.memoryObject().dirtyPages == 0)
    if hasName {
      #expect(throws: Errno.ESTALE) { try mounted.fileSystem.writeBack() }
    } else {
      #expect(throws: Never.self) { try mounted.fileSystem.writeBack() }
    }
  }

  /// A look at the size does not get between a write that is under way and its page.
  @Test func aSizeThatIsInUseIsLookedAtLater() throws {
    let tree = HostTree("head -c 9000 /dev/zero > file")
    let mounted = try Mounted.writable(tree.path, delays: true)
    let node = try mounted.node("file")!
    let contents = try node.fileContents()
    #expect(try mounted.read(node).count == 9000)
    shell("cd '\(tree.path)' && truncate -s 10 file && touch -d @98 file")
    mounted.clock.now += 10_000_000_000
    contents.sizeLock.readLock()
    _ = try node.freshAttributes()
    #expect(contents.object.byteCount == 9000)
    contents.sizeLock.readUnlock()
    // Within the time that the answer is good for.
    #expect(try node.freshAttributes().size == 10)
    #expect(contents.object.byteCount == 10)
  }

  /// A write that does not wait, among others that do, is not told to have been earlier.
  @Test func timesDoNotGoBack() throws {
    let tree = HostTree("head -c 9000 /dev/zero > file")
    let mounted = try Mounted.writable(tree.path, delays: true)
    let node = try mounted.node("file")!
    try mounted.write(node, 0, [1])
    let first = try node.getAttributes().modificationTime
    usleep(60_000)
    let bytes: [UInt8] = [2]
    try bytes.withUnsafeBytes { bytes in
      var transfer = Transfer(kernelSource: bytes)
      _ = try node.write(at: 8192, from: &transfer, flags: [.writeOnly, .dataSynchronous])
    }
    #expect(node.isDelayed)
    var status = stat()
    func hostTime() -> Int64 {
      stat(tree.path + "/file", &status)
      return Int64(status.st_mtim.tv_sec) * 1_000_000_000 + Int64(status.st_mtim.tv_nsec)
    }
    #expect(hostTime() > first.seconds * 1_000_000_000 + Int64(first.nanoseconds) + 40_000_000)
    let second = hostTime()
    usleep(60_000)
    #expect(mounted.fileSystem.writeBackDirty() == nil)
    #expect(hostTime() >= second && hostTime() < second + 50_000_000)
    #expect(tree.content("file")![0] == 1 && tree.content("file")![8192] == 2)
  }

  /// A write of nothing, by mistake or not, is none.
  @Test func aWriteOfNothingDoesNotWait() throws {
    let tree = HostTree("printf 0123456789 > file")
    let mounted = try Mounted.writable(tree.path, delays: true)
    let node = try mounted.node("file")!
    let before = try node.getAttributes().modificationTime
    for offset in [0, 100] as [UInt64] {
      var wild = Transfer(program: VirtualAddress(UInt64.max - 4), count: 10)
      #expect(throws: Errno.EFAULT) { try node.write(at: offset, from: &wild, flags: .writeOnly) }
      #expect(!node.isDelayed)
      #expect(try mounted.write(node, Int(offset), []) == 0)
      #expect(!node.isDelayed)
    }
    // What waits already goes on waiting, with its time.
    try mounted.write(node, 0, [1])
    let time = try node.getAttributes().modificationTime
    usleep(2000)
    var wild = Transfer(program: VirtualAddress(UInt64.max - 4), count: 10)
    #expect(throws: Errno.EFAULT) { try node.write(at: 5, from: &wild, flags: .writeOnly) }
    #expect(node.isDelayed)
    #expect(try node.getAttributes().modificationTime == time && time != before)
    #expect(try node.getAttributes().byteCount == 10)
  }
}
