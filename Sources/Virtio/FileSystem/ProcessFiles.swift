// The host's /proc, where it is shared: it has doors into every process of this user, this one among them.
//
// Rules: nothing in a process file system is opened for writing or changed; the directories of the server's own process and of
// its threads do not exist for the guest, under any number, in whichever instance of /proc. Such a file system has no disk under it, so
// that only devices of major number 0 are asked what they are; and not once for all: their numbers are used again.
import CSystemCalls
import Glibc

extension osv_attributes {
  /// Whether the file may lie in a process file system: its file system has no disk.
  var mayBeProcessFile: Bool { device >> 32 == 0 }
}

extension OpenDescriptor {
  /// Whether this file, which has these attributes, lies in a process file system.
  func isProcessFile(_ attributes: osv_attributes) throws(HostError) -> Bool {
    guard attributes.mayBeProcessFile else { return false }
    return try HostError.check(Int(osv_is_process_file(raw))) != 0
  }

  /// Whether this directory of a process file system is that of our own process or of a thread of it.
  ///
  /// Its "status" says so by numbers of every PID namespace from that file system's to the process's own, which comes last.
  func isOwnProcess() -> Bool {
    guard let file = try? open(beneath: Array("status\0".utf8), flags: O_RDONLY | O_NONBLOCK) else { return false }
    return withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { buffer in
      let count = read(file.raw, buffer.baseAddress, buffer.count)
      guard count > 0 else { return false }
      return Self.processNumber(in: UnsafeRawBufferPointer(rebasing: buffer[..<count])) == Int(getpid())
    }
  }

  /// The process's number in its own namespace, from the text of "status".
  static func processNumber(in status: UnsafeRawBufferPointer) -> Int? {
    var number: Int?
    for line in status.split(separator: 0x0a) {
      // The second one where the kernel knows namespaces; it follows the first.
      guard line.starts(with: "Tgid:".utf8) || line.starts(with: "NStgid:".utf8) else { continue }
      let digits = line.split { $0 < 0x30 || $0 > 0x39 }.last
      number = digits?.reduce(0) { $0 &* 10 &+ Int($1 - 0x30) }
    }
    return number
  }

  /// Whether this directory of a process file system is our own process's, or lies within it.
  func isWithinOwnProcess() throws(HostError) -> Bool {
    var directory = self
    // /proc/PID/task/TID/... and the file system's root above.
    for _ in 0..<8 {
      if directory.isOwnProcess() { return true }
      let raw = try HostError.check(Int(osv_openat(directory.raw, "..", osv_o_path | osv_o_directory)))
      let above = OpenDescriptor(owning: Int32(truncatingIfNeeded: raw))
      guard try above.isProcessFile(try above.attributes()) else { return false }
      if FileIdentity(try above.attributes()) == FileIdentity(try directory.attributes()) { return false }
      directory = above
    }
    return false
  }
}

extension FUSEServer {
  /// Keeps the guest out of our own process's directories, and learns where process file systems are.
  ///
  /// A file system is asked what it is where the walk crosses into it; from there on its device number tells.
  /// - Parameter name: NUL-terminated, an entry of `directory`, which is the node `parent`.
  /// - Throws: EACCES.
  func checkEntry(
    _ name: UnsafePointer<CChar>?, in directory: OpenDescriptor, parent: UInt64, _ attributes: osv_attributes
  ) throws(HostError) {
    guard attributes.type == UInt32(S_IFDIR), attributes.mayBeProcessFile else { return }
    let (isCrossing, isKnown) = try locked { (state) throws(HostError) -> (Bool, Bool) in
      let place = try state.nodes.place(of: parent)
      return (
        state.nodes.identity(of: place).device != attributes.device, state.processDevices.contains(attributes.device)
      )
    }
    guard isCrossing || isKnown else { return }
    let raw = osv_openat2(directory.raw, name, osv_o_path | osv_o_directory, osv_resolve_beneath)
    // Gone meanwhile, or not to be searched: its node will lead nowhere.
    guard raw >= 0 else { return }
    let entry = OpenDescriptor(owning: raw)
    let isProcess = try entry.isProcessFile(attributes)
    state.withLock {
      if isProcess { $0.processDevices.insert(attributes.device) } else { $0.processDevices.remove(attributes.device) }
    }
    if isProcess, entry.isOwnProcess() { throw HostError(code: EACCES) }
  }

  /// What is opened for reading: a file of a process only where the way to it was seen.
  /// - Throws: EACCES.
  func checkReadable(_ file: OpenDescriptor, _ attributes: osv_attributes) throws(HostError) {
    guard try file.isProcessFile(attributes) else { return }
    guard state.withLock({ $0.processDevices.contains(attributes.device) }) else { throw HostError(code: EACCES) }
  }

  /// What is to be changed: no file of a process.
  /// - Throws: EROFS.
  func checkChangeable(_ file: OpenDescriptor, _ attributes: osv_attributes) throws(HostError) {
    if try file.isProcessFile(attributes) { throw HostError(code: EROFS) }
  }
}
