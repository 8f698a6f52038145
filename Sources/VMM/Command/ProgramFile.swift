// Finding, opening and judging the file that osv-run was asked to run.

import Closure
import Machine

#if canImport(Glibc)
  import Glibc
#endif

/// The image, opened and told apart.
struct ProgramFile {
  /// Its descriptor, open for reading.
  let descriptor: CInt
  /// What it is.
  let kind: ImageKind
  /// Its name as given, for messages.
  let name: String
  /// Its permission bits and type.
  let mode: UInt32
  /// Its bytes, for the life of the process.
  let bytes: UnsafeRawBufferPointer
  /// Where the guest finds it: the path that the program was asked for by.
  let guestPath: [UInt8]
  /// The same, symbolic links of the host followed.
  let guestFile: [UInt8]

  /// Opens `path`, beneath the directory `root` if there is one.
  init(path: [UInt8], root: CInt?, mountPoints: [[UInt8]]) throws(Failure) {
    let name = Options.show(path)
    var descriptor: CInt = -1
    var inRoot = false
    if let root {
      descriptor = HostFile.open(path, inRoot: root)
      inRoot = descriptor >= 0
    }
    if descriptor < 0 { descriptor = HostFile.open(path) }
    guard descriptor >= 0 else {
      switch -descriptor {
      case ENOENT, ENOTDIR: throw Failure(.file, "there is no file \(name)")
      case EACCES: throw Failure(.file, "the file \(name) may not be read by this user")
      default: throw Failure(.file, "the file \(name) cannot be opened: \(String(cString: strerror(-descriptor)))")
      }
    }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
      throw Failure(.file, "\(name) is not a regular file: name the program itself")
    }
    bytes = try HostFile.map(descriptor)
    do throws(ELFFile.Defect) { kind = try ImageKind(bytes) } catch { throw Failure(error, path: name) }
    if root != nil, !inRoot, kind != .osvImage {
      throw Failure(.file, "there is no file \(name) in the directory given by --root")
    }
    self.descriptor = descriptor
    self.name = name
    mode = status.st_mode
    guestPath = Self.place(path, isInRoot: inRoot, mountPoints: mountPoints)
    let real = HostFile.path(of: descriptor).map { Self.place($0, isInRoot: false, mountPoints: mountPoints) }
    // A root of its own has its own links, and a volume in the way leaves no choice.
    guestFile = inRoot || Self.isHidden(guestPath, mountPoints) ? guestPath : real ?? guestPath
  }

  /// The files that a guest without a root of its own is given to run it.
  var files: [GuestFile] {
    var files = [GuestFile(path: guestFile, mode: mode | 0o500, source: .descriptor(descriptor))]
    if guestPath != guestFile { files.append(GuestFile(path: guestPath, mode: 0o120777, source: .bytes(guestFile))) }
    return files
  }

  /// Checks that what the program needs before its first instruction can be given.
  func checkMemory(_ byteCount: UInt64) throws(Failure) {
    guard let file = try? ELFFile(bytes), file.largestZeroCount >= byteCount else { return }
    let needed = file.largestZeroCount / (1 << 20) + 1
    throw Failure(
      .memory, "\(name) wants more than \(needed) MiB for its data, and the guest has \(byteCount >> 20): see --memory")
  }

  /// The interpreter and shared libraries of a dynamically linked program, nil for others.
  func closure(view: GuestView, environment: [[UInt8]]) throws(Failure) -> LibraryClosure? {
    guard case .linuxProgram(let interpreter?) = kind else { return nil }
    let file: ELFFile
    do throws(ELFFile.Defect) { file = try ELFFile(bytes) } catch { throw Failure(error, path: name) }
    return try LibraryClosure(
      program: file, name: name, path: guestFile, interpreter: interpreter, environment: environment, view: view)
  }

  /// Checks that a dynamically linked program will find its interpreter beneath `root`.
  func checkInterpreter(root: CInt) throws(Failure) {
    guard case .linuxProgram(let interpreter?) = kind else { return }
    let found = HostFile.open(interpreter, inRoot: root)
    guard found >= 0 else {
      throw Failure(
        .interpreter,
        "\(name) needs the interpreter \(Options.show(interpreter)), which is not in the directory given by --root")
    }
    close(found)
  }

  /// The guest's path of the program: the host's absolute one, unless a volume would hide it there.
  private static func place(_ path: [UInt8], isInRoot: Bool, mountPoints: [[UInt8]]) -> [UInt8] {
    var pieces: [ArraySlice<UInt8>] = []
    var text = path
    if text.first != UInt8(ascii: "/"), !isInRoot {
      var buffer = [CChar](repeating: 0, count: 4096)
      if getcwd(&buffer, buffer.count) != nil {
        text = buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) } + [UInt8(ascii: "/")] + path
      }
    }
    for piece in text.split(separator: UInt8(ascii: "/")) where !piece.elementsEqual(".".utf8) {
      if piece.elementsEqual("..".utf8) { _ = pieces.popLast() } else { pieces.append(piece) }
    }
    let whole = pieces.flatMap { [UInt8(ascii: "/")] + $0 }
    let isMoved = !isInRoot && isHidden(whole, mountPoints)
    return isMoved ? [UInt8(ascii: "/")] + (pieces.last.map(Array.init) ?? []) : whole
  }

  /// Whether something is mounted over a path.
  private static func isHidden(_ path: [UInt8], _ mountPoints: [[UInt8]]) -> Bool {
    mountPoints.contains { path.starts(with: $0 + [UInt8(ascii: "/")]) || path == $0 }
  }
}
