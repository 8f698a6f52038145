// The files of the root, where it is none of a device: those of the module, and a small /etc if that has none.
import Base
import VirtioABI

/// Files for the root.
struct RootFiles {
  /// The module's bytes; empty if there is none.
  private let module: UnsafeRawBufferPointer
  private let isArchive: Bool
  /// How many there are at most, and the bytes of their paths.
  private(set) var count: Int
  private(set) var pathByteCount: Int

  private static var regular: UInt32 { 0o100_000 }
  private static var directory: UInt32 { 0o040_000 }
  private static var symbolicLink: UInt32 { 0o120_000 }
  private static var kindMask: UInt32 { 0o170_000 }

  /// What most programs want to be there.
  private static var etcCount: Int { 5 }
  private static func etc(_ index: Int) -> (path: StaticString, text: StaticString) {
    switch index {
    case 0: ("etc/passwd", "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    case 1: ("etc/group", "root:x:0:\nnogroup:x:65534:\n")
    case 2: ("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n")
    case 3: ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    default: ("etc/resolv.conf", "")
    }
  }

  /// Looks through the module.
  init(module: UnsafeRawBufferPointer) throws(BootstrapFailure) {
    self.module = module
    isArchive = Archive.isOne(module)
    (count, pathByteCount) = (Self.etcCount, 160)
    if isArchive {
      var archive = Archive(module)
      while let entry = try archive.entry() {
        count &+= 1
        pathByteCount &+= entry.name.count &+ 2
      }
    } else if isProgram {
      guard !Self.isCompressed(module) else {
        throw BootstrapFailure("the module (-initrd) is compressed: give the archive as cpio has made it")
      }
      count &+= 1
      pathByteCount &+= 260
    }
  }

  /// Whether bytes begin as gzip, xz, zstd, bzip2 or lz4 make them.
  private static func isCompressed(_ bytes: UnsafeRawBufferPointer) -> Bool {
    guard bytes.count >= 4 else { return false }
    let first = bytes.loadUnaligned(as: UInt32.self)
    return first & 0xffff == 0x8b1f || first == 0x587a_37fd || first == 0xfd2f_b528 || first & 0xff_ffff == 0x68_5a42
      || first == 0x184d_2204 || first == 0x184c_2102
  }

  /// Whether the module is one file, the program.
  var isProgram: Bool { !isArchive && !module.isEmpty }

  /// Lays them all down.
  /// - Parameter program: the path of the module that is no archive.
  func add(to information: inout Information, _ arena: inout Arena, program: Word) throws(BootstrapFailure) {
    for index in 0..<Self.etcCount {
      let file = Self.etc(index)
      // SAFETY: a static string's bytes are always there.
      let text = UnsafeRawBufferPointer(start: file.text.utf8Start, count: file.text.utf8CodeUnitCount)
      try add(Word(file.path), mode: Self.regular | 0o644, text, 0, &information, &arena)
    }
    // Of two with one path the later one counts.
    if isArchive {
      var archive = Archive(module)
      while let entry = try archive.entry() {
        let content = entry.isElsewhere ? try archive.content(of: entry) : entry.content
        try add(entry, content, &information, &arena)
      }
    } else if isProgram {
      try add(program, mode: Self.regular | 0o755, module, 0, &information, &arena)
    }
  }

  private func add(
    _ entry: Archive.Entry, _ content: UnsafeRawBufferPointer, _ information: inout Information, _ arena: inout Arena
  ) throws(BootstrapFailure) {
    var name = entry.name
    while name.count > 0 && (name[0] == 0x2f || name.begins(with: "./")) {
      name = name.slice(name[0] == 0x2f ? 1 : 2, name.count)
    }
    let kind = entry.mode & Self.kindMask
    if name.count == 0 || name.matches(".") { return }
    guard kind == Self.regular || kind == Self.directory || kind == Self.symbolicLink else { return }
    guard isPlain(name), kind != Self.symbolicLink || !content.isEmpty else {
      throw BootstrapFailure("the archive (-initrd) has a name with . or .. in it, or a link that leads nowhere")
    }
    try add(name, mode: entry.mode, content, entry.modificationTime, &information, &arena)
  }

  /// Whether no part of a path is "." or "..", and no byte of it is 0.
  private func isPlain(_ path: Word) -> Bool {
    if path.first(0) != nil { return false }
    var rest = path
    while true {
      let end = rest.first(0x2f) ?? rest.count
      let part = rest.slice(0, end)
      if part.matches(".") || part.matches("..") { return false }
      if end == rest.count { return true }
      rest = rest.slice(end &+ 1, rest.count)
    }
  }

  /// A file by its path without the first "/".
  private func add(
    _ path: Word, mode: UInt32, _ content: UnsafeRawBufferPointer, _ time: UInt64, _ information: inout Information,
    _ arena: inout Arena
  ) throws(BootstrapFailure) {
    var file = BootFile()
    file.pathOffset = try information.add(path, prefix: "/")
    file.mode = mode
    file.modificationTime = time
    file.byteCount = content.count.u64
    if let start = content.baseAddress, !content.isEmpty {
      file.physical = try arena.allocate(byteCount: file.byteCount)
      arena.pointer(file.physical).copyMemory(from: start, byteCount: content.count)
    }
    information.add(file)
  }
}
