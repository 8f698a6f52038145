// /proc with two processes that are made up.
import Base
import Files
import Memory
import RamFS
import Testing

@testable import ProcFS

final class FakeProcess: ProcessView {
  let processIdentifier: Int32
  var threadIdentifiers: [Int32]
  let fileOwner: (userID: UInt32, groupID: UInt32) = (3, 4)
  let descriptorTable = DescriptorTable()
  let fileSystemContext: FileSystemContext
  var executableLocation: Location?

  init(_ identifier: Int32, _ context: FileSystemContext) {
    processIdentifier = identifier
    threadIdentifiers = [identifier, identifier + 1]
    fileSystemContext = context
  }
}

final class FakeProcesses: ProcessList {
  var all: [FakeProcess] = []
  var current: (any ProcessView)? { all.first }
  var currentThread: Int32 { all[0].threadIdentifiers[1] }
  func process(_ identifier: Int32) -> (any ProcessView)? { all.first { $0.processIdentifier == identifier } }
  func next(from identifier: Int32) -> Int32? {
    all.map(\.processIdentifier).filter { $0 >= identifier }.min()
  }
}

@Suite struct ProcessFileSystemTests {
  let processes = FakeProcesses()
  let context: FileSystemContext
  let proc: ProcessFileSystem

  init() throws {
    let context = FileSystemContext(mounts: MountTable(root: RamFileSystem(), source: PathBytes("rootfs")), umask: 0)
    self.context = context
    try context.makeDirectory(PathBytes("/proc"), from: context.root, mode: 0o755, Credentials())
    _ = try context.open(PathBytes("/prog"), from: context.root, [.create, .readWrite], mode: 0o755, Credentials())
    proc = ProcessFileSystem(processes: processes)
    proc.addSystemFiles()
    proc.add("sys/kernel/deep/name") { (text) throws(Errno) in text.append("deep\n") }
    proc.add("broken") { (_) throws(Errno) in throw .EIO }
    proc.add(processFile: "comm") { (process, text) throws(Errno) in
      text.append("process ")
      text.append(process.processIdentifier.u64)
      text.append("\n")
    }
    try context.mounts.mount(
      proc, on: try context.find(PathBytes("/proc"), from: context.root, Credentials()), source: PathBytes("proc"))
    processes.all = [FakeProcess(5, context), FakeProcess(70, context)]
    processes.all[0].executableLocation = try context.find(PathBytes("/prog"), from: context.root, Credentials())
  }

  @Test func threadsHaveFilesOfTheirOwnAndSomeAreWritten() throws {
    final class Names { var all: [Int32: String] = [:] }
    let names = Names()
    proc.add(
      threadFile: "name", mode: 0o644,
      consume: { (_, thread, bytes) throws(Errno) in
        if bytes.first == 0x21 { throw .EINVAL }
        names.all[thread] = String(decoding: bytes, as: UTF8.self)
      },
      { (process, thread, text) throws(Errno) in
        text.append(process.processIdentifier.u64)
        text.append(" ")
        text.append(thread.u64)
      })
    #expect(try read("/proc/5/name") == "5 0")
    let thread = try #require(processes.all[0].threadIdentifiers.first)
    #expect(try read("/proc/5/task/\(thread)/name") == "5 \(thread)")
    func write(_ path: String, _ text: String) throws -> Int {
      let file = try open(path, [.writeOnly, .truncate])
      var bytes = Array(text.utf8)
      return try bytes.withUnsafeMutableBytes { buffer in
        var transfer = Transfer(kernel: buffer)
        return try file.write(from: &transfer)
      }
    }
    #expect(try write("/proc/5/task/\(thread)/name", "one") == 3)
    #expect(try write("/proc/5/name", String(repeating: "x", count: 300)) == 256)
    #expect(names.all == [thread: "one", 0: String(repeating: "x", count: 256)])
    #expect(throws: Errno.EINVAL) { try write("/proc/5/name", "!") }
    #expect(throws: Errno.self) { try write("/proc/5/comm", "x") }
  }

  func open(_ path: String, _ flags: OpenFlags = []) throws(Errno) -> OpenFile {
    try Array(path.utf8).withPath { (p) throws(Errno) in
      try context.open(p, from: context.root, flags, Credentials())
    }
  }

  func read(_ path: String, piece: Int = 4096) throws(Errno) -> String {
    let file = try open(path)
    var all: [UInt8] = []
    while true {
      let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: piece, alignment: 8)
      defer { buffer.deallocate() }
      var transfer = Transfer(kernel: buffer)
      let count = try file.read(into: &transfer)
      if count == 0 { return String(decoding: all, as: UTF8.self) }
      all += buffer[..<count]
    }
  }

  func list(_ path: String) throws(Errno) -> [String] {
    let file = try open(path, .directory)
    var names: [String] = []
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 64, alignment: 8)
    defer { buffer.deallocate() }
    while true {
      let count = try file.readDirectory(into: buffer)
      if count == 0 { return names }
      var offset = 0
      while offset < count {
        names.append(String(cString: buffer.baseAddress!.assumingMemoryBound(to: CChar.self) + offset + 19))
        offset += Int(buffer.load(fromByteOffset: offset + 16, as: UInt16.self))
      }
    }
  }

  func link(_ path: String) throws(Errno) -> String {
    String(
      decoding: try Array(path.utf8).withPath { (p) throws(Errno) in
        try context.readLink(p, from: context.root, Credentials())
      }, as: UTF8.self)
  }

  @Test func texts() throws {
    #expect(try read("/proc/self/comm") == "process 5\n")
    #expect(try read("/proc/70/comm", piece: 3) == "process 70\n")
    #expect(try read("/proc/70/task/71/comm") == "process 70\n")
    #expect(try read("/proc/thread-self/comm") == "process 5\n")
    #expect(try link("/proc/self") == "5")
    #expect(try link("/proc/thread-self") == "5/task/6")
    #expect(try read("/proc/sys/kernel/deep/name") == "deep\n")
    #expect(try read("/proc/meminfo").hasPrefix("MemTotal:"))
    #expect(try read("/proc/mounts") == "rootfs / ramfs rw,relatime 0 0\nproc /proc proc rw,relatime 0 0\n")
    #expect(try read("/proc/self/mountinfo").contains("2 1 0:"))
    #expect(throws: Errno.EIO) { try read("/proc/broken") }
    #expect(throws: Errno.EACCES) { try open("/proc/meminfo", .readWrite) }
    #expect(throws: Errno.ENOENT) { try read("/proc/6/comm") }
    #expect(throws: Errno.ENOENT) { try read("/proc/70/task/5/comm") }
    let attributes = try open("/proc/self/comm").getAttributes()
    #expect(attributes.userID == 3 && attributes.byteCount == 0 && attributes.mode == 0o100444)
  }

  @Test func lists() throws {
    let names = try list("/proc")
    #expect(Array(names.suffix(3)) == ["self", "5", "70"])
    #expect(Set(names).count == names.count)
    let files = Set(try list("/proc/70"))
    #expect(
      files.isSuperset(of: [
        ".", "..", "cgroup", "comm", "cwd", "exe", "fd", "fdinfo", "mountinfo", "mounts", "net", "root", "task",
      ]))
    #expect(try list("/proc/70/task") == [".", "..", "70", "71"])
    processes.all.removeLast()
    #expect(throws: Errno.ENOENT) { try list("/proc/70") }
  }

  @Test func links() throws {
    let table = processes.all[0].descriptorTable
    #expect(try table.install(open("/prog", .readWrite)) == 0)
    let ends = try Pipe.make()
    #expect(try table.install(ends.reader) == 1)
    #expect(try link("/proc/self/fd/0") == "/prog")
    #expect(try link("/proc/self/fd/1").hasPrefix("pipe:["))
    #expect(try link("/proc/self/exe") == "/prog")
    #expect(try link("/proc/self/cwd") == "/")
    #expect(throws: Errno.ENOENT) { try link("/proc/70/exe") }
    #expect(throws: Errno.ENOENT) { try link("/proc/self/fd/2") }
    #expect(try list("/proc/self/fd") == [".", "..", "0", "1"])
    // Opening a descriptor's link opens the file anew, a pipe's too.
    #expect(try open("/proc/self/fd/0").vnode === table.file(0).vnode)
    let writer = try open("/proc/self/fd/1", [.writeOnly, .nonBlocking])
    let bytes: [UInt8] = [42]
    try bytes.withUnsafeBufferPointer { (buffer) throws(Errno) in
      var transfer = Transfer(kernelSource: UnsafeRawBufferPointer(buffer))
      #expect(try writer.write(from: &transfer) == 1)
    }
    #expect(ends.reader.readyMask == .readable)
    #expect(try read("/proc/self/root/proc/self/comm") == "process 5\n")
  }

  @Test func openFilesAreDescribed() throws {
    let table = processes.all[0].descriptorTable
    let file = try context.open(PathBytes("/prog"), from: context.root, [.readWrite, .append], Credentials())
    let number = try table.install(file, closeOnExec: true)
    _ = try file.seek(100, from: .start)
    let events = try table.install(EventFile(value: 31, isSemaphore: true))
    #expect(try list("/proc/5/fdinfo") == [".", "..", "\(number)", "\(events)"])
    let text = try read("/proc/5/fdinfo/\(number)")
    #expect(text.hasPrefix("pos:\t100\nflags:\t02102002\nmnt_id:\t1\nino:\t"))
    #expect(try read("/proc/5/fdinfo/\(events)").hasSuffix("eventfd-count: 1f\neventfd-semaphore: 1\n"))
    try table.close(events)
    #expect(throws: Errno.ENOENT) { try read("/proc/5/fdinfo/\(events)") }
    try table.close(number)
  }

  @Test func theNetworkIsEverybodys() throws {
    let table = try read("/proc/net/igmp")
    #expect(table.hasPrefix("Idx\tDevice") && table.split(separator: "\n").count == 1)
    #expect(try read("/proc/5/net/igmp") == table && read("/proc/self/task/6/net/igmp") == table)
    #expect(try list("/proc/70/net") == list("/proc/net"))
    #expect(try read("/proc/net/dev_mcast").isEmpty)
    #expect(try read("/proc/sys/vm/overcommit_memory") == "0\n")
    #expect(try Int(read("/proc/sys/vm/min_free_kbytes").dropLast()) != nil)
  }
}
