// The directory of a process: /proc/N, and of a thread: /proc/N/task/M, where some files tell of the thread.
import Base
import Files

/// A directory whose files belong to the process.
class OwnedDirectory: PseudoNode {
  let process: any ProcessView

  init(_ fileSystem: ProcessFileSystem, _ process: any ProcessView, kind: Int, number: Int = 0, mode: UInt32 = 0o555) {
    self.process = process
    super.init(
      fileSystem,
      inode: ProcessFileSystem.inode(process: process.processIdentifier, kind: kind, number: number), type: .directory,
      mode: mode)
  }

  override var owner: (userID: UInt32, groupID: UInt32) { process.fileOwner }
  final var tree: ProcessFileSystem { unsafeDowncast(fileSystem, to: ProcessFileSystem.self) }
  final func inode(_ kind: Int, _ number: Int = 0) -> UInt64 {
    ProcessFileSystem.inode(process: process.processIdentifier, kind: kind, number: number)
  }
}

/// /proc/N.
final class ProcessDirectory: OwnedDirectory {
  private enum Kind {
    static let descriptors = 1
    static let executable = 2
    static let workingDirectory = 3
    static let root = 4
    static let tasks = 5
    static let descriptor = 6
    static let task = 7
    static let descriptorTexts = 8
    static let network = 9
    static let firstFile = 16
  }

  private static let names: [(name: StaticString, kind: Int, type: FileType)] = [
    ("fd", Kind.descriptors, .directory), ("exe", Kind.executable, .symbolicLink),
    ("cwd", Kind.workingDirectory, .symbolicLink), ("root", Kind.root, .symbolicLink),
    ("task", Kind.tasks, .directory), ("fdinfo", Kind.descriptorTexts, .directory),
    ("net", Kind.network, .directory),
  ]
  /// The thread; 0: the process.
  private let thread: Int32
  private var isTask: Bool { thread != 0 }

  init(_ fileSystem: ProcessFileSystem, _ process: any ProcessView, thread: Int32 = 0) {
    self.thread = thread
    super.init(fileSystem, process, kind: thread != 0 ? Kind.task : 0, number: thread.int)
  }

  override func lookup(_ name: PathBytes) throws(Errno) -> LookupResult {
    tree.fill()
    for entry in Self.names where PathBytes(entry.name) == name && !(isTask && entry.kind == Kind.tasks) {
      // The network's directory is the same for all, and stays.
      if entry.kind == Kind.network { return LookupResult(tree.network) }
      return LookupResult(node(entry.kind), validity: 0)
    }
    let files = tree.processFiles
    for index in 0..<files.count where files[index].name.withPath({ $0 == name }) {
      let (process, thread, file) = (process, thread, files[index])
      var consume: TextTree.Consume?
      if let function = file.consume { consume = { (bytes) throws(Errno) in try function(process, thread, bytes) } }
      let node = TextNode(
        tree, inode: inode(Kind.firstFile &+ index, thread.int), mode: file.mode, owner: process.fileOwner,
        consume: consume
      ) { (text) throws(Errno) in try file.produce(process, thread, &text) }
      return LookupResult(node, validity: 0)
    }
    return LookupResult(nil, validity: 0)
  }

  private func node(_ kind: Int) -> Vnode {
    switch kind {
    case Kind.descriptors: DescriptorDirectory(tree, process, kind: kind, mode: 0o500)
    case Kind.descriptorTexts: DescriptorTexts(tree, process, kind: kind)
    case Kind.tasks: TaskDirectory(tree, process, kind: kind)
    case Kind.executable: PlaceLink(tree, process, inode: inode(kind)) { $0.executableLocation }
    case Kind.workingDirectory: PlaceLink(tree, process, inode: inode(kind)) { $0.fileSystemContext.workingDirectory }
    default: PlaceLink(tree, process, inode: inode(kind)) { $0.fileSystemContext.root }
    }
  }

  override func readDirectory(from cookie: UInt64, parent: UInt64, into sink: inout DirectoryEntrySink) throws(Errno) {
    guard sink.addDots(from: cookie, own: inode, parent: parent) else { return }
    tree.fill()
    let files = tree.processFiles
    var index = max(cookie, 2).int &- 2
    while index < Self.names.count &+ files.count {
      let next = (index &+ 3).u64
      if index < Self.names.count {
        let entry = Self.names[index]
        if !(isTask && entry.kind == Kind.tasks) {
          guard sink.add(PathBytes(entry.name), inode: inode(entry.kind), type: entry.type, nextCookie: next) else {
            return
          }
        }
      } else {
        let number = index &- Self.names.count
        let inode = inode(Kind.firstFile &+ number, thread.int)
        let fits = files[number].name.withPath { sink.add($0, inode: inode, type: .regular, nextCookie: next) }
        guard fits else { return }
      }
      index &+= 1
    }
  }
}

/// /proc/N/fd.
class DescriptorDirectory: OwnedDirectory {
  /// What the names are: links to the open files.
  var entryType: FileType { .symbolicLink }

  override func lookup(_ name: PathBytes) throws(Errno) -> LookupResult {
    guard let number = name.decimal, (try? process.descriptorTable.file(number)) != nil else {
      return LookupResult(nil, validity: 0)
    }
    return LookupResult(node(number), validity: 0)
  }

  func node(_ number: Int) -> Vnode {
    PlaceLink(tree, process, inode: inode(6, number), mode: 0o700) {
      (try? $0.descriptorTable.file(number))?.location
    }
  }

  override func readDirectory(from cookie: UInt64, parent: UInt64, into sink: inout DirectoryEntrySink) throws(Errno) {
    guard sink.addDots(from: cookie, own: inode, parent: parent) else { return }
    var number = max(cookie, 2).int &- 2
    while let found = process.descriptorTable.next(from: number) {
      var name: [UInt8] = []
      name.append(decimal: found.u64)
      let inode = inode(entryType == .symbolicLink ? 6 : 10, found)
      guard name.withPath({ sink.add($0, inode: inode, type: entryType, nextCookie: (found &+ 3).u64) }) else { return }
      number = found &+ 1
    }
  }
}

/// /proc/N/fdinfo: texts about the open files.
final class DescriptorTexts: DescriptorDirectory {
  override var entryType: FileType { .regular }

  override func node(_ number: Int) -> Vnode {
    let process = process
    return TextNode(tree, inode: inode(10, number), mode: 0o444, owner: process.fileOwner) { (text) throws(Errno) in
      let table = process.descriptorTable
      let file = try table.file(number)
      // O_CLOEXEC is the descriptor's.
      let closes = try table.closesOnExec(number)
      text.append("pos:\t")
      text.append(file.currentPosition)
      text.append("\nflags:\t0")
      var flags = file.isPathOnly ? file.flags : file.flags.union(.largeFile)
      if closes { flags.insert(.closeOnExec) }
      text.append(octal: flags.rawValue.u64)
      text.append("\nmnt_id:\t")
      text.append(file.location.mount.identifier.u64)
      text.append("\nino:\t")
      text.append(file.vnode.inode)
      text.append("\n")
      file.describe(&text)
    }
  }
}

/// /proc/N/task.
final class TaskDirectory: OwnedDirectory {
  override func lookup(_ name: PathBytes) throws(Errno) -> LookupResult {
    guard let number = name.decimal else { return LookupResult(nil, validity: 0) }
    for thread in process.threadIdentifiers where thread.int == number {
      return LookupResult(ProcessDirectory(tree, process, thread: thread), validity: 0)
    }
    return LookupResult(nil, validity: 0)
  }

  override func readDirectory(from cookie: UInt64, parent: UInt64, into sink: inout DirectoryEntrySink) throws(Errno) {
    guard sink.addDots(from: cookie, own: inode, parent: parent) else { return }
    for thread in process.threadIdentifiers where thread.u64 &+ 2 > cookie {
      var name: [UInt8] = []
      name.append(decimal: thread.u64)
      let inode = inode(7, thread.int)
      guard name.withPath({ sink.add($0, inode: inode, type: .directory, nextCookie: thread.u64 &+ 2) }) else { return }
    }
  }
}

/// A link that leads to a place, whatever its text says.
final class PlaceLink: PseudoNode {
  private let process: any ProcessView
  private let place: (any ProcessView) -> Location?

  init(
    _ fileSystem: FileSystem, _ process: any ProcessView, inode: UInt64, mode: UInt32 = 0o777,
    _ place: @escaping (any ProcessView) -> Location?
  ) {
    self.process = process
    self.place = place
    super.init(fileSystem, inode: inode, type: .symbolicLink, mode: mode)
  }

  override var owner: (userID: UInt32, groupID: UInt32) { process.fileOwner }

  override func readLink() throws(Errno) -> [UInt8] {
    guard let location = place(process) else { throw .ENOENT }
    return location.path(from: process.fileSystemContext.root)
  }

  override func linkedLocation() throws(Errno) -> Location? {
    guard let location = place(process) else { throw .ENOENT }
    return location
  }
}
