// The closure of a program's shared libraries: every file that its dynamic linker will open before the program's first
// instruction, found by the linker's own rules (ld.so(8), glibc 2.26 and later; musl 1.2), and in its order.
//
// The files are untrusted: names, libraries and looks have limits, so hostile ones cost a bounded time and get a sentence.

import Machine

#if canImport(Glibc)
  import Glibc
#endif

/// A program's interpreter and shared libraries.
public struct LibraryClosure {
  /// Why a file was looked for where it was found.
  public enum Reason: Equatable, Sendable {
    /// The program names it as its interpreter.
    case interpreter
    /// Its name is a path.
    case path
    /// DT_RPATH or DT_RUNPATH of this file.
    case runpath(of: [UInt8])
    /// The environment: LD_LIBRARY_PATH.
    case environment
    /// The linker's cache has it.
    case cache
    /// A directory that the linker knows: compiled in, or in musl's list.
    case systemDirectory
  }

  /// One file of the closure.
  public struct Library {
    /// The name it was asked for by.
    public var name: [UInt8]
    /// Where the guest's linker will find it.
    public var path: [UInt8]
    /// The file.
    public var file: GuestView.File
    /// Why there.
    public var reason: Reason
    /// Who asked first: a path, or a word such as LD_PRELOAD.
    public var neededBy: [UInt8]
  }

  /// More libraries than this are refused.
  static let libraryLimit = 512
  /// More names (with repetitions) than this are refused, and more files tried.
  static let nameLimit = 65536, lookLimit = 65536

  /// A loaded object, as the search sees it.
  private struct Object {
    var path: [UInt8]
    var dynamic: DynamicSection
    /// The object that asked for it first; nil for the program.
    var loader: Int?
  }

  let view: GuestView
  let linker: Linker
  private let hardware: Hardware
  private let interpreterPath: [UInt8]
  private var system: SystemDirectories?
  private var interpreterFile: ELFFile?
  private var cache: LibraryCache?
  private var cacheIsRead = false
  private var muslDirectories: [[UInt8]]?
  private var objects: [Object] = []
  /// Names under which the objects are known.
  private var known: Set<[UInt8]> = []
  private var asked = 0
  private var looks = 0
  private var environmentDirectories: [[UInt8]] = []
  private var directoriesWithLevels: [(path: [UInt8], exists: Bool)] = []

  /// The files, the interpreter first, then in the order in which the linker opens them.
  public private(set) var libraries: [Library] = []

  /// Computes the closure.
  /// - Parameters:
  ///   - program: the program's file.
  ///   - name: for messages.
  ///   - path: its path in the guest, symbolic links followed.
  ///   - interpreter: PT_INTERP.
  ///   - environment: "NAME=VALUE" strings that the program will start with.
  ///   - level: the processor's level (x86-64-v1 to v4), where not this processor's.
  public init(
    program: ELFFile, name: String, path: [UInt8], interpreter: [UInt8], environment: [[UInt8]] = [], view: GuestView,
    level: Int? = nil
  ) throws(Failure) {
    self.view = view
    linker = Linker(interpreter: interpreter)
    interpreterPath = view.absolute(interpreter)
    var hardware = Hardware()
    if let level { hardware.level = { level } }
    self.hardware = hardware
    objects.append(Object(path: path, dynamic: try Self.dynamic(of: program, name: name), loader: nil))
    try addInterpreter(interpreter, name: name)
    readEnvironment(environment)
    try preload(environment)
    var index = 0
    while index < objects.count {
      for item in objects[index].dynamic.names {
        try add(item.name, loader: index, isRequired: item.need == .required)
      }
      index += 1
    }
    if linker == .gnu { try addOpenedByGNU() }
  }

  // MARK: Adding

  private static func dynamic(of file: ELFFile, name: String) throws(Failure) -> DynamicSection {
    do throws(ELFFile.Defect) { return try DynamicSection(file) } catch { throw Failure(error, path: name) }
  }

  private mutating func addInterpreter(_ interpreter: [UInt8], name: String) throws(Failure) {
    guard let file = view.open(interpreterPath) else {
      throw Failure(
        .interpreter,
        "\(name) needs the interpreter \(Failure.show(interpreter)), which is not there: install it, or give a root that has it with --root"
      )
    }
    let elf: ELFFile
    do throws(Failure) { elf = try Self.parse(file, name: Failure.show(interpreter)) } catch {
      let reason = error.code == .notELF ? "is no ELF file" : "cannot be one (\(error.sentence))"
      throw Failure(.interpreter, "\(name) needs the interpreter \(Failure.show(interpreter)), which \(reason)")
    }
    interpreterFile = elf
    let dynamic = try Self.dynamic(of: elf, name: Failure.show(interpreter))
    known.insert(interpreter)
    if let own = dynamic.ownName { known.insert(own) }
    libraries.append(
      Library(name: interpreter, path: interpreterPath, file: file, reason: .interpreter, neededBy: objects[0].path))
  }

  private static func parse(_ file: GuestView.File, name: String) throws(Failure) -> ELFFile {
    let bytes = try HostFile.map(file.descriptor)
    do throws(ELFFile.Defect) { return try ELFFile(bytes) } catch { throw Failure(error, path: name) }
  }

  /// Finds `name` for an object, unless it is loaded already.
  /// - Parameter loader: the object that asks; the program for what the environment or glibc itself ask for.
  private mutating func add(
    _ name: [UInt8], loader: Int, isRequired: Bool, neededBy: [UInt8]? = nil
  ) throws(Failure) {
    asked += 1
    guard asked <= Self.nameLimit else { throw tooMuch() }
    if known.contains(name) { return }
    if linker == .musl, Self.isInMusl(name) { return }
    let wanter = neededBy ?? objects[loader].path
    guard let found = try find(name, loader: loader) else {
      guard isRequired else { return }
      throw Failure(
        .library,
        "\(Failure.show(wanter)) needs the library \(Failure.show(name)), which is not to be found: install it, or give a root that has it with --root"
      )
    }
    known.insert(name)
    // One file under two names is one library, but the guest's linker must find both names.
    let isLoaded = libraries.contains { $0.file.identity == found.file.identity }
    guard libraries.count < Self.libraryLimit else { throw tooMuch() }
    let dynamic = try Self.dynamic(of: found.elf, name: Failure.show(found.path))
    libraries.append(Library(name: name, path: found.path, file: found.file, reason: found.reason, neededBy: wanter))
    if !isLoaded { objects.append(Object(path: found.path, dynamic: dynamic, loader: loader)) }
    if linker == .gnu, let own = dynamic.ownName { known.insert(own) }
  }

  /// What glibc itself opens while a program runs: the unwinder (thread cancellation, backtraces), and, before 2.34, the plain name
  /// services. Their absence is no error until somebody wants them.
  private mutating func addOpenedByGNU() throws(Failure) {
    guard let library = objects.first(where: { $0.dynamic.ownName == Array("libc.so.6".utf8) }) else { return }
    var names = ["libgcc_s.so.1"]
    if !library.dynamic.strings.contains("GLIBC_2.34") { names += ["libnss_files.so.2", "libnss_dns.so.2"] }
    let first = objects.count
    for name in names { try add(Array(name.utf8), loader: 0, isRequired: false, neededBy: Array("glibc itself".utf8)) }
    var index = first
    while index < objects.count {
      for item in objects[index].dynamic.names { try add(item.name, loader: index, isRequired: item.need == .required) }
      index += 1
    }
  }

  /// Names that musl's linker answers with itself.
  private static func isInMusl(_ name: [UInt8]) -> Bool {
    guard name.starts(with: "lib".utf8) else { return false }
    let rest = name.dropFirst(3)
    return ["c.", "pthread.", "rt.", "m.", "dl.", "util.", "xnet."].contains { rest.starts(with: $0.utf8) }
  }

  private func tooMuch() -> Failure {
    Failure(.badELF, "\(Failure.show(objects[0].path)) needs more libraries than any honest program: it is damaged")
  }

  // MARK: The environment

  private static func value(of name: String, in environment: [[UInt8]]) -> [UInt8]? {
    environment.first { $0.starts(with: (name + "=").utf8) }.map { Array($0.dropFirst(name.utf8.count + 1)) }
  }

  private mutating func readEnvironment(_ environment: [[UInt8]]) {
    guard let value = Self.value(of: "LD_LIBRARY_PATH", in: environment), !value.isEmpty else { return }
    environmentDirectories = directories(value, separators: linker == .gnu ? ":;" : ":\n", of: 0)
  }

  private mutating func preload(_ environment: [[UInt8]]) throws(Failure) {
    guard let value = Self.value(of: "LD_PRELOAD", in: environment) else { return }
    for name in value.split(whereSeparator: { $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: " ") }) {
      try add(Array(name), loader: 0, isRequired: false, neededBy: Array("LD_PRELOAD".utf8))
    }
  }

  // MARK: Finding

  private typealias Found = (path: [UInt8], file: GuestView.File, elf: ELFFile, reason: Reason)

  private mutating func find(_ name: [UInt8], loader: Int) throws(Failure) -> Found? {
    if name.contains(slash) {
      for path in expanded(name, of: loader) {
        if let (file, elf) = try look(path) { return (view.absolute(path), file, elf, .path) }
      }
      return nil
    }
    return switch linker {
    case .gnu: try findAsGNU(name, loader: loader)
    case .musl: try findAsMusl(name, loader: loader)
    }
  }

  private mutating func findAsGNU(_ name: [UInt8], loader: Int) throws(Failure) -> Found? {
    let asking = objects[loader].dynamic
    if asking.runpath == nil {
      var next: Int? = loader
      while let index = next {
        if let paths = objects[index].dynamic.rpath,
          let found = try search(
            name, directories(paths, separators: ":", of: index), .runpath(of: objects[index].path))
        {
          return found
        }
        next = objects[index].loader
      }
    }
    if let found = try search(name, environmentDirectories, .environment) { return found }
    if let paths = asking.runpath,
      let found = try search(name, directories(paths, separators: ":", of: loader), .runpath(of: objects[loader].path))
    {
      return found
    }
    if let path = cached(name),
      !(asking.refusesDefaults && systemDirectories().directories.contains(directory(of: path))),
      let (file, elf) = try look(path)
    {
      return (view.absolute(path), file, elf, .cache)
    }
    return asking.refusesDefaults ? nil : try search(name, systemDirectories().directories, .systemDirectory)
  }

  private mutating func findAsMusl(_ name: [UInt8], loader: Int) throws(Failure) -> Found? {
    if let found = try search(name, environmentDirectories, .environment) { return found }
    var next: Int? = loader
    while let index = next {
      if let paths = objects[index].dynamic.runpath ?? objects[index].dynamic.rpath,
        let found = try search(
          name, directories(paths, separators: ":\n", of: index), .runpath(of: objects[index].path))
      {
        return found
      }
      next = objects[index].loader
    }
    return try search(name, systemDirectoriesOfMusl(), .systemDirectory)
  }

  /// Looks for a name in directories; with glibc, in their subdirectories for this processor first.
  private mutating func search(_ name: [UInt8], _ directories: [[UInt8]], _ reason: Reason) throws(Failure) -> Found? {
    for place in directories {
      let levels = place + "/glibc-hwcaps".utf8
      if linker == .gnu, exists(levels) {
        for level in hardware.subdirectories {
          let path = levels + [slash] + level + [slash] + name
          if let (file, elf) = try look(path) { return (view.absolute(path), file, elf, reason) }
        }
      }
      let path = place + [slash] + name
      if let (file, elf) = try look(path) { return (view.absolute(path), file, elf, reason) }
    }
    return nil
  }

  private mutating func exists(_ path: [UInt8]) -> Bool {
    if let seen = directoriesWithLevels.first(where: { $0.path == path }) { return seen.exists }
    let exists = view.isDirectory(path)
    if directoriesWithLevels.count < 256 { directoriesWithLevels.append((path, exists)) }
    return exists
  }

  /// Opens a library; nil if it is not there or is for another machine (linkers go on looking then).
  private mutating func look(_ path: [UInt8]) throws(Failure) -> (GuestView.File, ELFFile)? {
    looks += 1
    guard looks <= Self.lookLimit else { throw tooMuch() }
    guard let file = view.open(path) else { return nil }
    let bytes = try HostFile.map(file.descriptor)
    do throws(ELFFile.Defect) { return (file, try ELFFile(bytes)) } catch {
      close(file.descriptor)
      if case .wrongMachine = error { return nil }
      // musl goes on behind any file that it cannot load; glibc ends there.
      throw Failure(error, path: Failure.show(path))
    }
  }

  // MARK: Where to look

  /// A list of directories, its tokens replaced.
  private mutating func directories(_ list: [UInt8], separators: String, of index: Int) -> [[UInt8]] {
    var result: [[UInt8]] = []
    for piece in list.split(omittingEmptySubsequences: false, whereSeparator: separators.utf8.contains) {
      if result.count >= 256 { break }
      var plain = piece
      while plain.count > 1, plain.last == slash { plain = plain.dropLast() }
      result += expanded(plain.isEmpty ? [UInt8(ascii: ".")] : Array(plain), of: index)
    }
    return result
  }

  private mutating func expanded(_ text: [UInt8], of index: Int) -> [[UInt8]] {
    guard text.contains(UInt8(ascii: "$")) else { return [text] }
    let library = linker == .gnu ? systemDirectories().library : []
    let hardware = hardware
    let isGNU = linker == .gnu
    return text.expanded(
      origin: directory(of: objects[index].path), library: { library }, platforms: { isGNU ? hardware.platforms : [] })
  }

  private mutating func systemDirectories() -> SystemDirectories {
    if let system { return system }
    let read = SystemDirectories(interpreter: interpreterFile)
    system = read
    return read
  }

  /// musl's list: /etc/ld-musl-ARCH.path beside the interpreter's directory, else what is compiled in.
  private mutating func systemDirectoriesOfMusl() -> [[UInt8]] {
    if let muslDirectories { return muslDirectories }
    var list = Array("/lib:/usr/local/lib:/usr/lib".utf8)
    if let text = Self.text(of: muslPathFile, in: view) { list = text }
    let read = directories(list.filter { $0 != 0 }, separators: ":\n", of: 0)
    muslDirectories = read
    return read
  }

  /// Where musl's list of directories lies.
  var muslPathFile: [UInt8] {
    let prefix = directory(of: directory(of: interpreterPath))
    return (prefix == [slash] ? [] : prefix) + "/etc/ld-musl-x86_64.path".utf8
  }

  /// A small file's bytes.
  static func text(of path: [UInt8], in view: GuestView) -> [UInt8]? {
    guard let file = view.open(path) else { return nil }
    defer { close(file.descriptor) }
    var bytes = [UInt8](repeating: 0, count: 1 << 16)
    let count = bytes.withUnsafeMutableBytes { pread(file.descriptor, $0.baseAddress, $0.count, 0) }
    return count < 0 ? nil : Array(bytes.prefix(count))
  }

  private mutating func cached(_ name: [UInt8]) -> [UInt8]? {
    if !cacheIsRead {
      cacheIsRead = true
      if let file = view.open(Array("/etc/ld.so.cache".utf8)) {
        if let bytes = try? HostFile.map(file.descriptor) { cache = LibraryCache(bytes) }
        close(file.descriptor)
      }
    }
    let hardware = hardware
    return cache?.path(for: name, levels: { hardware.subdirectories })
  }
}
