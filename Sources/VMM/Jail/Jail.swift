// What the process gives up before the guest runs, in this order: capabilities (while there is one thread), the right
// to gain privileges, the file system but for shared directories (where the kernel has Landlock), and most system calls.
//
// Descriptors opened before stay usable. Nothing here can be taken back.

import CSystemCalls

/// A step of entering the jail that failed.
public struct JailError: Error, Equatable {
  /// Which step.
  public let step: String
  /// The kernel's error number.
  public let code: CInt
}

/// The monitor's jail.
public enum Jail {
  /// Enters it. Call it on the main thread, before there are others.
  ///
  /// - Parameters:
  ///   - directories: descriptors of the directories beneath which files may still be opened for reading.
  ///   - writable: those of them beneath which everything but devices may be made, changed and removed.
  ///   - requests: the ioctl numbers that stay allowed.
  ///   - listener: the control socket, whose connections may be accepted.
  ///   - sockets: those that carry frames of the guest's network.
  public static func enter(
    directories: [CInt], writable: [CInt] = [], requests: [UInt32], listener: CInt? = nil, sockets: [CInt] = []
  ) throws(JailError) {
    try check(osv_drop_capabilities(), "dropping capabilities")
    try check(osv_no_new_privileges(), "setting no_new_privs")
    if osv_landlock_version() > 0 {
      let result = directories.withUnsafeBufferPointer { all in
        writable.withUnsafeBufferPointer {
          osv_landlock($0.baseAddress, CInt($0.count), all.baseAddress, CInt(all.count))
        }
      }
      try check(result, "restricting the file system (Landlock)")
    }
    try restrict(
      .process, requests: requests, listener: listener, writesFiles: !writable.isEmpty, sockets: sockets)
  }

  /// Restricts the calling thread, and those it will start, to the calls of its kind.
  public static func restrict(
    _ kind: ThreadKind, requests: [UInt32], listener: CInt? = nil, writesFiles: Bool = false, sockets: [CInt] = [],
    accounts: [CInt] = []
  ) throws(JailError) {
    let rules = FilterRule.rules(
      for: kind, requests: requests, listener: listener, writesFiles: writesFiles, sockets: sockets, accounts: accounts)
    let program = FilterProgram(rules)
    try check(program.install(), "installing the system-call filter")
  }

  private static func check(_ result: CInt, _ step: String) throws(JailError) {
    if result < 0 { throw JailError(step: step, code: -result) }
  }
}
