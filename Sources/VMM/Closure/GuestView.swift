// The files as the guest will see them, looked up before there is a guest: a path lies in a volume, in the root directory, or
// (without --root) on the host, whose file would then have to be given.

import Machine

#if canImport(Glibc)
  import Glibc
#endif

/// Where the guest's paths lead.
public struct GuestView {
  /// A directory that the guest sees at a path of its own.
  public struct Volume {
    /// The absolute path in the guest.
    public var guest: [UInt8]
    /// An open descriptor of it.
    public var descriptor: CInt

    /// A volume with all its fields.
    public init(guest: [UInt8], descriptor: CInt) {
      self.guest = guest
      self.descriptor = descriptor
    }
  }

  /// A regular file that was found.
  public struct File {
    /// Open for reading.
    public var descriptor: CInt
    /// Whether the guest sees it by itself, in its root or in a volume.
    public var isShared: Bool
    /// Type and permission bits.
    public var mode: UInt32
    /// Device and inode: whether two paths lead to one file.
    var identity: (device: UInt64, inode: UInt64)
    /// Its size.
    var byteCount: UInt64
  }

  private let root: CInt?
  private let volumes: [Volume]
  private let workingDirectory: [UInt8]

  /// A view.
  /// - Parameters:
  ///   - root: the directory that is the guest's root, nil where the host's own files stand for it.
  ///   - workingDirectory: from where relative paths count.
  public init(root: CInt?, volumes: [Volume] = [], workingDirectory: [UInt8] = [slash]) {
    self.root = root
    self.volumes = volumes
    self.workingDirectory = workingDirectory
  }

  /// Opens a regular file; nil if there is none that this user may read.
  public func open(_ path: [UInt8]) -> File? {
    let whole = absolute(path)
    guard !whole.contains(0), whole.count < 4096 else { return nil }
    var descriptor: CInt = -1
    var isShared = true
    if let (volume, rest) = volume(of: whole) {
      descriptor = HostFile.open(rest, inRoot: volume.descriptor)
    } else if let root {
      descriptor = HostFile.open(whole, inRoot: root)
    } else {
      descriptor = HostFile.open(whole)
      isShared = false
    }
    guard descriptor >= 0 else { return nil }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG, status.st_size >= 0 else {
      close(descriptor)
      return nil
    }
    return File(
      descriptor: descriptor, isShared: isShared, mode: status.st_mode,
      identity: (UInt64(status.st_dev), UInt64(status.st_ino)), byteCount: UInt64(status.st_size))
  }

  /// Whether there is a directory at a path.
  public func isDirectory(_ path: [UInt8]) -> Bool {
    let whole = absolute(path)
    guard !whole.contains(0), whole.count < 4096 else { return false }
    var status = stat()
    if root == nil, volume(of: whole) == nil {
      return (whole + [0]).withUnsafeBufferPointer { bytes in
        bytes.withMemoryRebound(to: CChar.self) { stat($0.baseAddress!, &status) }
      } == 0 && status.st_mode & S_IFMT == S_IFDIR
    }
    let place = volume(of: whole)
    let descriptor = HostFile.open(place?.rest ?? whole, inRoot: place?.volume.descriptor ?? root ?? -1)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    return fstat(descriptor, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
  }

  /// The innermost volume that holds a path, and the path within it.
  private func volume(of path: [UInt8]) -> (volume: Volume, rest: [UInt8])? {
    guard !volumes.isEmpty else { return nil }
    let plain = Self.normal(path)
    var best: Volume?
    for volume in volumes where plain.starts(with: volume.guest + [slash]) {
      if volume.guest.count >= best?.guest.count ?? 0 { best = volume }
    }
    return best.map { ($0, Array(plain[$0.guest.count...])) }
  }

  /// The path from the root, "." and ".." still in it.
  func absolute(_ path: [UInt8]) -> [UInt8] { path.first == slash ? path : workingDirectory + [slash] + path }

  /// An absolute path with "." and ".." resolved by their letters.
  static func normal(_ path: [UInt8]) -> [UInt8] {
    var pieces: [ArraySlice<UInt8>] = []
    for piece in path.split(separator: slash) where !piece.elementsEqual(".".utf8) {
      if piece.elementsEqual("..".utf8) { _ = pieces.popLast() } else { pieces.append(piece) }
    }
    return pieces.isEmpty ? [slash] : pieces.flatMap { [slash] + $0 }
  }

  /// The directories that an absolute path walks through before a "..": they must be there for it to be followed.
  static func detours(of path: [UInt8]) -> [[UInt8]] {
    var walked: [ArraySlice<UInt8>] = []
    var detours: [[UInt8]] = []
    for piece in path.split(separator: slash) where !piece.elementsEqual(".".utf8) {
      if piece.elementsEqual("..".utf8) {
        if !walked.isEmpty { detours.append(walked.flatMap { [slash] + $0 }) }
        _ = walked.popLast()
      } else {
        walked.append(piece)
      }
    }
    return detours
  }
}

/// "/".
public let slash = UInt8(ascii: "/")

/// The directory part of a path, without its last slash; "/" for a file in the root.
func directory(of path: [UInt8]) -> [UInt8] {
  guard let last = path.lastIndex(of: slash) else { return Array(".".utf8) }
  return last == 0 ? [slash] : Array(path[..<last])
}
