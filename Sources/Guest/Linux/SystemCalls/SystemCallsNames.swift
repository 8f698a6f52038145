// System calls that make, link, rename and remove names, and read symbolic links.
import Base
import Files
import Memory
import Platform

extension SystemCall {
  private var here: UInt64 { workingDirectoryDescriptor.u64 }

  // MARK: Making

  func mkdir() throws(Errno) -> Int { try makeDirectory(here, address0, argument1) }
  func mkdirat() throws(Errno) -> Int { try makeDirectory(argument0, address1, argument2) }

  private func makeDirectory(_ directory: UInt64, _ path: VirtualAddress, _ mode: UInt64) throws(Errno) -> Int {
    try withPath(path) { (path) throws(Errno) in
      try context.makeDirectory(path, from: try base(directory, path), mode: mode.u32, credentials)
    }
    return 0
  }

  func mknod() throws(Errno) -> Int { try makeNode(here, address0, argument1, argument2) }
  func mknodat() throws(Errno) -> Int { try makeNode(argument0, address1, argument2, argument3) }

  private func makeNode(
    _ directory: UInt64, _ path: VirtualAddress, _ mode: UInt64, _ device: UInt64
  ) throws(Errno) -> Int {
    let type = mode.u32 & FileMode.typeMask == 0 ? FileType.regular : FileType(mode: mode.u32)
    // Before the path is looked at.
    switch type {
    case .regular, .fifo, .socket, .characterDevice, .blockDevice: break
    case .directory: throw .EPERM
    default: throw .EINVAL
    }
    try withPath(path) { (path) throws(Errno) in
      try context.makeNode(
        path, from: try base(directory, path), type: type, mode: mode.u32, device: device, credentials)
    }
    return 0
  }

  func link() throws(Errno) -> Int { try link(here, address0, here, address1, 0) }
  func linkat() throws(Errno) -> Int { try link(argument0, address1, argument2, address3, argument4) }

  private func link(
    _ oldDirectory: UInt64, _ old: VirtualAddress, _ newDirectory: UInt64, _ new: VirtualAddress, _ flags: UInt64
  ) throws(Errno) -> Int {
    let flags = AtFlags(rawValue: flags.u32)
    guard flags.subtracting([.follow, .emptyPath]).isEmpty else { throw .EINVAL }
    try withPath(old) { (old) throws(Errno) in
      try withPath(new, place: 1) { (new) throws(Errno) in
        // By its descriptor alone, a file is linked by whoever may do anything.
        if old.isEmpty, flags.contains(.emptyPath), !credentials.isPrivileged { throw .ENOENT }
        try context.link(
          old, from: try base(oldDirectory, old, flags), to: new, from: try base(newDirectory, new), flags: flags,
          credentials)
      }
    }
    return 0
  }

  func symlink() throws(Errno) -> Int { try makeSymbolicLink(address0, here, address1) }
  func symlinkat() throws(Errno) -> Int { try makeSymbolicLink(address0, argument1, address2) }

  private func makeSymbolicLink(
    _ target: VirtualAddress, _ directory: UInt64, _ path: VirtualAddress
  ) throws(Errno) -> Int {
    try withPath(target) { (target) throws(Errno) in
      try withPath(path, place: 1) { (path) throws(Errno) in
        try context.makeSymbolicLink(path, from: try base(directory, path), target: target, credentials)
      }
    }
    return 0
  }

  // MARK: Removing and renaming

  func unlink() throws(Errno) -> Int { try unlink(here, address0, []) }
  func rmdir() throws(Errno) -> Int { try unlink(here, address0, .removeDirectory) }
  func unlinkat() throws(Errno) -> Int {
    let flags = AtFlags(rawValue: argument2.u32)
    guard flags.subtracting(.removeDirectory).isEmpty else { throw .EINVAL }
    return try unlink(argument0, address1, flags)
  }

  private func unlink(_ directory: UInt64, _ path: VirtualAddress, _ flags: AtFlags) throws(Errno) -> Int {
    try withPath(path) { (path) throws(Errno) in
      try context.unlink(path, from: try base(directory, path), flags: flags, credentials)
    }
    return 0
  }

  func rename() throws(Errno) -> Int { try rename(here, address0, here, address1, 0) }
  func renameat() throws(Errno) -> Int { try rename(argument0, address1, argument2, address3, 0) }
  func renameat2() throws(Errno) -> Int { try rename(argument0, address1, argument2, address3, argument4) }

  private func rename(
    _ oldDirectory: UInt64, _ old: VirtualAddress, _ newDirectory: UInt64, _ new: VirtualAddress, _ flags: UInt64
  ) throws(Errno) -> Int {
    try withPath(old) { (old) throws(Errno) in
      try withPath(new, place: 1) { (new) throws(Errno) in
        try context.rename(
          old, from: try base(oldDirectory, old), to: new, from: try base(newDirectory, new),
          flags: RenameFlags(rawValue: flags.u32), credentials)
      }
    }
    return 0
  }

  // MARK: Reading links

  func readlink() throws(Errno) -> Int { try readLink(here, address0, to: address1, byteCount: argument2) }
  func readlinkat() throws(Errno) -> Int { try readLink(argument0, address1, to: address2, byteCount: argument3) }

  private func readLink(
    _ directory: UInt64, _ path: VirtualAddress, to result: VirtualAddress, byteCount: UInt64
  ) throws(Errno) -> Int {
    guard byteCount.i32 > 0 else { throw .EINVAL }
    let text = try withPath(path) { (path) throws(Errno) in
      // With no path it is the link that the descriptor itself is a place of.
      try context.readLink(path, from: try base(directory, path, .emptyPath), credentials)
    }
    let count = min(text.count, byteCount.int)
    try text.withPath { (text) throws(Errno) in
      try UserSpan(result, count: count).write(from: UnsafeRawBufferPointer(rebasing: text.bytes[..<count]))
    }
    return count
  }
}
