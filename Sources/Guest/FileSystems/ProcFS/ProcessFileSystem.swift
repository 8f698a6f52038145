// ProcessFileSystem: /proc. What it shows is registered: a name and a function that writes the text.
//
// Fixed files hang in a `TextTree`; the directories of processes are made when they are looked up, and believed for no longer than that.
import Base
import Files

/// A process, as /proc needs it.
public protocol ProcessView: AnyObject {
  /// Its number.
  var processIdentifier: Int32 { get }
  /// The calling thread's number: of this process, for /proc/thread-self.
  var threadIdentifiers: [Int32] { get }
  /// Owner and group of its files.
  var fileOwner: (userID: UInt32, groupID: UInt32) { get }
  /// Its open files.
  var descriptorTable: DescriptorTable { get }
  /// Its view of the tree.
  var fileSystemContext: FileSystemContext { get }
  /// The file it was started from; nil: none.
  var executableLocation: Location? { get }
}

/// All processes, as /proc needs them.
public protocol ProcessList: AnyObject {
  /// The process that asks.
  var current: (any ProcessView)? { get }
  /// The number of the thread that asks.
  var currentThread: Int32 { get }
  /// The process with a number.
  func process(_ identifier: Int32) -> (any ProcessView)?
  /// The lowest number of a process at or above one.
  func next(from identifier: Int32) -> Int32?
}

/// The tree of /proc.
public final class ProcessFileSystem: TextTree {
  /// Writes the text of a file of a process.
  public typealias ProduceOfProcess = (any ProcessView, inout TextBuffer) throws(Errno) -> Void
  /// Writes the text of a file of a thread; 0 stands for the process as a whole.
  public typealias ProduceOfThread = (any ProcessView, Int32, inout TextBuffer) throws(Errno) -> Void
  /// Takes what was written to a file of a thread.
  public typealias ConsumeOfThread = (any ProcessView, Int32, UnsafeRawBufferPointer) throws(Errno) -> Void

  /// A file of every process' and every thread's directory.
  struct ThreadFile {
    let name: [UInt8]
    let mode: UInt32
    let produce: ProduceOfThread
    let consume: ConsumeOfThread?
  }

  let processes: any ProcessList
  /// Files of every process' directory.
  private(set) var processFiles: [ThreadFile] = []
  /// What /proc/N/net leads to; there is one network.
  private(set) var network: PseudoDirectory?

  /// /proc with self, thread-self, and the files of each process that need nothing but a `ProcessView`.
  public init(processes: any ProcessList) {
    self.processes = processes
    super.init(kind: "proc", magic: 0x9fa0)
    setRoot(ProcessRoot(self))
    addLink("mounts", to: "self/mounts")
    add(processFile: "mounts") { (process, text) throws(Errno) in writeMounts(process.fileSystemContext, &text) }
    add(processFile: "mountinfo") { (process, text) throws(Errno) in
      writeMountInformation(process.fileSystemContext, &text)
    }
  }

  // MARK: Registration, at boot

  /// Adds a file to the directory of every process and thread, the same for all threads.
  public func add(processFile name: StaticString, mode: UInt32 = 0o444, _ produce: @escaping ProduceOfProcess) {
    add(threadFile: name, mode: mode) { (process, _, text) throws(Errno) in try produce(process, &text) }
  }

  /// Adds a file to the directory of every process and thread, each thread's its own.
  /// - Parameter consume: takes what is written to it; nil: nobody may write.
  public func add(
    threadFile name: StaticString, mode: UInt32 = 0o444, consume: ConsumeOfThread? = nil,
    _ produce: @escaping ProduceOfThread
  ) {
    processFiles.append(ThreadFile(name: PathBytes(name).copy, mode: mode, produce: produce, consume: consume))
  }

  /// Makes the directory of the network's files.
  func addNetwork() { network = addDirectory("net") }

  /// Numbers for files of processes: high enough never to meet the fixed ones.
  static func inode(process: Int32, kind: Int, number: Int = 0) -> UInt64 {
    (process.u64 & 0x7fff_ffff) &<< 32 | (kind.u64 & 0xff) &<< 24 | number.u64 & 0xff_ffff | 1 &<< 63
  }
}

/// /proc itself: the fixed names, then self, thread-self and the processes.
final class ProcessRoot: TextRoot {
  init(_ fileSystem: ProcessFileSystem) { super.init(fileSystem) }

  private var tree: ProcessFileSystem { unsafeDowncast(fileSystem, to: ProcessFileSystem.self) }
  private static var processCookies: UInt64 { 1 << 32 }

  override func lookup(_ name: PathBytes) throws(Errno) -> LookupResult {
    if name == PathBytes("self") { return LookupResult(SelfLink(tree, ofThread: false), validity: 0) }
    if name == PathBytes("thread-self") { return LookupResult(SelfLink(tree, ofThread: true), validity: 0) }
    if let number = name.decimal, let process = tree.processes.process(number.i32) {
      return LookupResult(ProcessDirectory(tree, process), validity: 0)
    }
    return try super.lookup(name)
  }

  override func readDirectory(from cookie: UInt64, parent: UInt64, into sink: inout DirectoryEntrySink) throws(Errno) {
    var cookie = cookie
    if cookie < Self.processCookies {
      try super.readDirectory(from: cookie, parent: parent, into: &sink)
      if sink.isFull { return }
      cookie = Self.processCookies
      guard sink.add(PathBytes("self"), inode: SelfLink.inode, type: .symbolicLink, nextCookie: cookie) else { return }
    }
    var number = (cookie &- Self.processCookies).i32
    while let found = tree.processes.next(from: number) {
      var name: [UInt8] = []
      name.append(decimal: found.u64)
      let inode = ProcessFileSystem.inode(process: found, kind: 0)
      let next = Self.processCookies &+ found.u64 &+ 1
      guard name.withPath({ sink.add($0, inode: inode, type: .directory, nextCookie: next) }) else { return }
      number = found &+ 1
    }
  }
}

/// /proc/self and /proc/thread-self: another place for each who looks.
final class SelfLink: PseudoNode {
  static let inode: UInt64 = 1 << 62
  private let isThread: Bool

  init(_ fileSystem: ProcessFileSystem, ofThread: Bool) {
    isThread = ofThread
    super.init(fileSystem, inode: Self.inode &+ (ofThread ? 1 : 0), type: .symbolicLink, mode: 0o777)
  }

  override func readLink() throws(Errno) -> [UInt8] {
    let processes = unsafeDowncast(fileSystem, to: ProcessFileSystem.self).processes
    guard let process = processes.current else { throw .ENOENT }
    var result: [UInt8] = []
    result.append(decimal: process.processIdentifier.u64)
    if isThread {
      result.append(contentsOf: PathBytes("/task/").copy)
      result.append(decimal: processes.currentThread.u64)
    }
    return result
  }
}
