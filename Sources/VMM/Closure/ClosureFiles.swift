// What a closure is for: the files to give to a guest that has no root of its own, and the list that --explain prints.

import Machine

extension LibraryClosure {
  /// The files that the guest must be given: those it does not see by itself, the directories that their paths walk through, and the
  /// lists of directories that its linker reads.
  public var files: [GuestFile] {
    var files: [GuestFile] = []
    var placed: [(identity: (device: UInt64, inode: UInt64), path: [UInt8])] = []
    for library in libraries where !library.file.isShared {
      for directory in GuestView.detours(of: library.path) {
        files.append(GuestFile(path: directory, mode: 0o40755, source: .bytes([])))
      }
      let path = GuestView.normal(library.path)
      if let first = placed.first(where: { $0.identity == library.file.identity }) {
        if first.path != path { files.append(GuestFile(path: path, mode: 0o120777, source: .bytes(first.path))) }
      } else {
        let mode = library.reason == .interpreter ? library.file.mode | 0o500 : library.file.mode | 0o400
        files.append(GuestFile(path: path, mode: mode, source: .descriptor(library.file.descriptor)))
        placed.append((library.file.identity, path))
      }
    }
    if let list = linkerList { files.append(list) }
    return files
  }

  /// What tells the guest's linker where the libraries are: a cache with exactly these, or musl's list as it is here.
  private var linkerList: GuestFile? {
    switch linker {
    case .gnu:
      let entries = libraries.filter { $0.reason == .cache || $0.reason == .systemDirectory }
      guard !entries.isEmpty else { return nil }
      return GuestFile(
        path: Array("/etc/ld.so.cache".utf8), mode: 0o100644,
        source: .bytes(LibraryCache.file(entries.map { ($0.name, $0.path) })))
    case .musl:
      return Self.text(of: muslPathFile, in: view).map {
        GuestFile(path: muslPathFile, mode: 0o100644, source: .bytes($0))
      }
    }
  }

  /// The list that --explain prints: a line a file.
  public var explanation: String {
    func text(_ bytes: [UInt8]) -> String {
      String(decoding: bytes.map { $0 < 0x20 || $0 == 0x7f ? UInt8(ascii: "?") : $0 }, as: UTF8.self)
    }
    var lines = ""
    for library in libraries {
      lines += "  " + text(library.path) + ": "
      switch library.reason {
      case .interpreter: lines += "the interpreter"
      default: lines += "\(text(library.name)), needed by \(text(library.neededBy)), \(text(library.reason.words))"
      }
      lines += library.file.isShared ? " (in a directory that the guest sees)\n" : "\n"
    }
    return lines
  }
}

extension LibraryClosure.Reason {
  /// A few words for people.
  fileprivate var words: [UInt8] {
    switch self {
    case .interpreter: Array("named as the interpreter".utf8)
    case .path: Array("named by its path".utf8)
    case .runpath(let file): Array("found by the path in ".utf8) + file
    case .environment: Array("found by LD_LIBRARY_PATH".utf8)
    case .cache: Array("found in /etc/ld.so.cache".utf8)
    case .systemDirectory: Array("found in a default directory".utf8)
    }
  }
}
