// System calls about files that tell of events: signals (signalfd), and what happens to other files (inotify).
import Base
import Files
import Memory

extension SystemCall {
  private func install(_ file: OpenFile, _ flags: OpenFlags) throws(Errno) -> Int {
    try process.descriptors.install(file, closeOnExec: flags.contains(.closeOnExec))
  }

  /// Flags of a call that makes a descriptor.
  private func creationFlags(_ argument: UInt64) throws(Errno) -> OpenFlags {
    let flags = OpenFlags(rawValue: argument.u32)
    guard flags.subtracting([.closeOnExec, .nonBlocking]).isEmpty else { throw .EINVAL }
    return flags
  }

  // MARK: Signals

  func signalfd() throws(Errno) -> Int { try signalFile([]) }
  func signalfd4() throws(Errno) -> Int { try signalFile(try creationFlags(argument3)) }

  private func signalFile(_ flags: OpenFlags) throws(Errno) -> Int {
    guard argument2 == 8 else { throw .EINVAL }
    let set = try UserSpan.read(SignalSet.self, at: address1)
    guard argument0.i32 != -1 else { return try install(SignalFile(set, of: process, flags: flags), flags) }
    guard let file = try file() as? SignalFile else { throw .EINVAL }
    file.signals = set
    return descriptor
  }

  // MARK: Files

  func inotify_init() throws(Errno) -> Int { try install(try InotifyFile(flags: []), []) }
  func inotify_init1() throws(Errno) -> Int {
    let flags = try creationFlags(argument0)
    return try install(try InotifyFile(flags: flags), flags)
  }

  private func inotify() throws(Errno) -> InotifyFile {
    guard let file = try file() as? InotifyFile else { throw .EINVAL }
    return file
  }

  func inotify_add_watch() throws(Errno) -> Int {
    let mask = FileEvents(rawValue: argument2.u32)
    try InotifyFile.check(mask)
    let inotify = try inotify()
    let place = try find(workingDirectoryDescriptor.u64, address1, mask.contains(.noFollow) ? .noFollow : [])
    return try inotify.add(place, mask, credentials).int
  }

  func inotify_rm_watch() throws(Errno) -> Int {
    try inotify().remove(argument1.i32)
    return 0
  }
}
