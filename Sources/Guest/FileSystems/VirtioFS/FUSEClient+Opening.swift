// Servers that work by handles only (QEMU's virtiofsd in C): files and directories are opened to be read (OPEN, OPENDIR), and what that gave
// is given back (RELEASE, RELEASEDIR). INIT tells such a server by what it does not offer; nothing is changed by way of one.
import Base
import VirtioABI

/// What the server has open for us, and nobody needs any more.
struct OwedHandle {
  let node: UInt64
  let handle: UInt64
  let isDirectory: Bool
}

extension FUSEClient {
  /// Whether files (or directories) have to be opened to be read.
  func opens(directory: Bool) -> Bool {
    directory ? opensDirectories.load(ordering: .relaxed) : opensFiles.load(ordering: .relaxed)
  }

  /// OPEN or OPENDIR, for reading.
  /// - Returns: the handle, any number; nil: the server says that it needs none, now and from now on.
  func openToRead(_ node: UInt64, directory: Bool) throws(Errno) -> UInt64? {
    do throws(Errno) {
      let opcode = directory ? FUSEOpcode.opendir : FUSEOpcode.open
      return try request(opcode, node, FUSEOpenOut.self) { $0.append(FUSEOpenIn()) }.handle
    } catch {
      guard error == .ENOSYS else { throw error }
      if directory {
        opensDirectories.store(false, ordering: .relaxed)
      } else {
        opensFiles.store(false, ordering: .relaxed)
      }
      return nil
    }
  }

  /// RELEASE or RELEASEDIR. What the server says to that is its own affair.
  func release(_ one: OwedHandle) {
    try? request(one.isDirectory ? FUSEOpcode.releasedir : FUSEOpcode.release, one.node) { message in
      var arguments = FUSEReleaseIn()
      arguments.handle = one.handle
      message.append(arguments)
    }
  }
}
