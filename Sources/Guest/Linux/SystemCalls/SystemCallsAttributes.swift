// System calls about extended attributes, in their three forms: by a path, by one whose last link is not followed, by a descriptor.
import Base
import Files
import Memory
import Platform

extension SystemCall {
  /// The file that a call means; the three forms have numbers in a row, from `first` on.
  private func attributedPlace(_ first: UInt64) throws(Errno) -> Location {
    switch frame.pointee.error &- first {
    case 0: try find(workingDirectoryDescriptor.u64, address0, [])
    case 1: try find(workingDirectoryDescriptor.u64, address0, .noFollow)
    default: try file().location
    }
  }

  /// Runs `body` with the attribute's name.
  /// - Throws: ERANGE: there is none, or it is too long.
  private func withName<R>(_ body: (PathBytes) throws(Errno) -> R) throws(Errno) -> R {
    do throws(Errno) {
      return try withPath(address1) { (name) throws(Errno) in
        guard !name.isEmpty, name.count <= PathBytes.maximumNameByteCount else { throw .ERANGE }
        return try body(name)
      }
    } catch {
      throw error == .ENAMETOOLONG ? .ERANGE : error
    }
  }

  func setxattr() throws(Errno) -> Int {
    guard let mode = AttributeSetting(rawValue: argument4.u32) else { throw .EINVAL }
    guard argument3 <= FileSystemContext.maximumAttributeByteCount.u64 else { throw .E2BIG }
    let count = argument3.int
    guard let buffer = CopyBuffer(byteCount: count) else { throw .ENOMEM }
    let value = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<count])
    if count > 0 { try UserSpan(address2, count: count).read(into: value) }
    let place = try attributedPlace(188)
    try withName { (name) throws(Errno) in
      try context.setExtendedAttribute(place, name, UnsafeRawBufferPointer(value), mode, credentials)
    }
    return 0
  }

  func removexattr() throws(Errno) -> Int {
    let place = try attributedPlace(197)
    try withName { (name) throws(Errno) in try context.removeExtendedAttribute(place, name, credentials) }
    return 0
  }

  func getxattr() throws(Errno) -> Int {
    let place = try attributedPlace(191)
    let value = try withName { (name) throws(Errno) in try context.getExtendedAttribute(place, name, credentials) }
    return try give(value, to: address2, byteCount: argument3)
  }

  func listxattr() throws(Errno) -> Int {
    try give(try attributedPlace(194).vnode.listExtendedAttributes(), to: address1, byteCount: argument2)
  }

  /// Copies a value out; with no room asked for, only says how long it is.
  private func give(_ value: [UInt8], to address: VirtualAddress, byteCount: UInt64) throws(Errno) -> Int {
    guard byteCount > 0 else { return value.count }
    guard byteCount >= value.count.u64 else { throw .ERANGE }
    try value.withPath { (value) throws(Errno) in
      try UserSpan(address, count: value.count).write(from: value.bytes)
    }
    return value.count
  }
}
