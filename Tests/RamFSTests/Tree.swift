// A tree in memory with shell-like calls: what the tests of names and paths are written in.
import Base
import Files
import Memory
import RamFS

/// A mounted RamFileSystem and somebody who uses it.
final class Tree {
  let context: FileSystemContext
  var credentials = Credentials()

  init(_ fileSystem: FileSystem = RamFileSystem()) {
    context = FileSystemContext(mounts: MountTable(root: fileSystem), umask: 0)
  }

  var here: Location { context.workingDirectory }

  /// Runs a body that throws an `Errno`; returns that, or nil.
  func failure(_ body: () throws(Errno) -> Void) -> Errno? {
    do throws(Errno) {
      try body()
      return nil
    } catch { return error }
  }

  func path<R>(_ text: String, _ body: (PathBytes) throws(Errno) -> R) throws(Errno) -> R {
    try Array(text.utf8).withPath(body)
  }

  func mkdir(_ name: String, mode: UInt32 = 0o755) -> Errno? {
    failure { () throws(Errno) in
      try path(name) { (p) throws(Errno) in try context.makeDirectory(p, from: here, mode: mode, credentials) }
    }
  }

  func open(_ name: String, _ flags: OpenFlags = [], mode: UInt32 = 0o644) throws(Errno) -> OpenFile {
    try path(name) { (p) throws(Errno) in try context.open(p, from: here, flags, mode: mode, credentials) }
  }

  func openFailure(_ name: String, _ flags: OpenFlags = [], mode: UInt32 = 0o644) -> Errno? {
    failure { () throws(Errno) in _ = try open(name, flags, mode: mode) }
  }

  func write(_ name: String, _ text: String, _ flags: OpenFlags = [.create, .truncate]) -> Errno? {
    failure { () throws(Errno) in
      let file = try open(name, flags.union(.readWrite))
      _ = try file.write(bytes: Array(text.utf8))
    }
  }

  func read(_ name: String) throws(Errno) -> String {
    String(decoding: try open(name).readAll(), as: UTF8.self)
  }

  func symlink(_ target: String, _ name: String) -> Errno? {
    failure { () throws(Errno) in
      try path(name) { (p) throws(Errno) in
        try path(target) { (t) throws(Errno) in
          try context.makeSymbolicLink(p, from: here, target: t, credentials)
        }
      }
    }
  }

  func link(_ old: String, _ new: String, _ flags: AtFlags = []) -> Errno? {
    failure { () throws(Errno) in
      try path(old) { (o) throws(Errno) in
        try path(new) { (n) throws(Errno) in
          try context.link(o, from: here, to: n, from: here, flags: flags, credentials)
        }
      }
    }
  }

  func unlink(_ name: String) -> Errno? { remove(name, []) }
  func rmdir(_ name: String) -> Errno? { remove(name, .removeDirectory) }
  private func remove(_ name: String, _ flags: AtFlags) -> Errno? {
    failure { () throws(Errno) in
      try path(name) { (p) throws(Errno) in try context.unlink(p, from: here, flags: flags, credentials) }
    }
  }

  func rename(_ old: String, _ new: String, _ flags: RenameFlags = []) -> Errno? {
    failure { () throws(Errno) in
      try path(old) { (o) throws(Errno) in
        try path(new) { (n) throws(Errno) in
          try context.rename(o, from: here, to: n, from: here, flags: flags, credentials)
        }
      }
    }
  }

  func stat(_ name: String, _ flags: AtFlags = []) throws(Errno) -> StatInformation {
    try path(name) { (p) throws(Errno) in try context.getAttributes(p, from: here, flags: flags, credentials) }
  }

  func statFailure(_ name: String, _ flags: AtFlags = []) -> Errno? {
    failure { () throws(Errno) in _ = try stat(name, flags) }
  }

  func find(_ name: String, _ flags: AtFlags = []) throws(Errno) -> Location {
    try path(name) { (p) throws(Errno) in try context.find(p, from: here, flags: flags, credentials) }
  }

  func chdir(_ name: String) -> Errno? {
    failure { () throws(Errno) in try context.changeDirectory(to: try find(name), credentials) }
  }

  func readLink(_ name: String) throws(Errno) -> String {
    String(
      decoding: try path(name) { (p) throws(Errno) in try context.readLink(p, from: here, credentials) },
      as: UTF8.self)
  }

  func pwd() throws(Errno) -> String { String(decoding: try context.workingDirectoryPath(), as: UTF8.self) }
  func path(of name: String) throws(Errno) -> String {
    String(decoding: try find(name).path(from: context.root), as: UTF8.self)
  }

  /// The names in a directory, sorted, without the dots.
  func list(_ name: String) throws(Errno) -> [String] {
    try open(name, .directory).list().filter { $0 != "." && $0 != ".." }.sorted()
  }
}

extension OpenFile {
  /// The rest of the directory, in order, read through a buffer of that size.
  func list(bufferByteCount: Int = 4096) throws(Errno) -> [String] {
    var names: [String] = []
    while let more = try listSome(bufferByteCount) { names += more }
    return names
  }

  /// What fits into a buffer; nil at the end.
  func listSome(_ bufferByteCount: Int) throws(Errno) -> [String]? {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: bufferByteCount, alignment: 8)
    defer { buffer.deallocate() }
    let count = try readDirectory(into: buffer)
    guard count > 0 else { return nil }
    var names: [String] = []
    var offset = 0
    while offset < count {
      let length = Int(buffer.load(fromByteOffset: offset + 16, as: UInt16.self))
      names.append(String(cString: buffer.baseAddress!.assumingMemoryBound(to: CChar.self) + offset + 19))
      offset += length
    }
    return names
  }

  func write(bytes: [UInt8], at offset: UInt64? = nil) throws(Errno) -> Int {
    try bytes.withUnsafeBufferPointer { (buffer) throws(Errno) in
      var transfer = Transfer(kernelSource: UnsafeRawBufferPointer(buffer))
      if let offset { return try write(at: offset, from: &transfer) }
      return try write(from: &transfer)
    }
  }

  func read(_ count: Int, at offset: UInt64? = nil) throws(Errno) -> [UInt8] {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: max(count, 1), alignment: 8)
    defer { buffer.deallocate() }
    var transfer = Transfer(kernel: UnsafeMutableRawBufferPointer(rebasing: buffer[..<count]))
    let done: Int
    if let offset { done = try read(at: offset, into: &transfer) } else { done = try read(into: &transfer) }
    return Array(buffer[..<done])
  }

  func readAll() throws(Errno) -> [UInt8] {
    var all: [UInt8] = []
    while true {
      let piece = try read(10_000)
      if piece.isEmpty { return all }
      all += piece
    }
  }
}
