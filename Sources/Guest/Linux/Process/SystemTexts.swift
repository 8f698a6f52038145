// Files of /proc about the machine that only this layer can write: its names, the numbers of its boot, segments of shared memory, threads.
import Base
import Files
import Locks
import Memory
import Network
import Pages
import Platform
import ProcFS
import Threads
import VirtioABI

extension ProcessFiles {
  static func addSystemTexts(to tree: ProcessFileSystem) {
    addNames(to: tree)
    addRandom(to: tree)
    tree.add("loadavg", load)
    tree.add("sysvipc/shm", segments)
    tree.add("net/unix", sockets)
    NetworkTexts.add(to: tree) { .main }
    // The limits that shmctl tells.
    tree.add("sys/kernel/shmmax") { (text) throws(Errno) in append(SharedSegments.limits.largest, &text) }
    tree.add("sys/kernel/shmall") { (text) throws(Errno) in append(SharedSegments.limits.pages, &text) }
    tree.add("sys/kernel/shmmni") { (text) throws(Errno) in append(SharedSegments.limits.segments, &text) }
    add(tree, "timerslack_ns", { (_, text) throws(Errno) in append(Task.current.timerSlack, &text) })
    add(tree, "children", children)
  }

  private static func append(_ number: UInt64, _ text: inout TextBuffer) {
    text.append(number)
    text.append("\n")
  }

  // MARK: Names

  private static func addNames(to tree: ProcessFileSystem) {
    tree.add("version") { (text) throws(Errno) in
      append(SystemName.Field.system, &text)
      text.append(" version ")
      append(SystemName.Field.release, &text)
      text.append(" (osv@osv) ")
      append(SystemName.Field.version, &text)
      text.append("\n")
    }
    tree.add("cmdline", text: "\n")
    for (path, field) in [
      ("sys/kernel/ostype", .system), ("sys/kernel/hostname", .host), ("sys/kernel/osrelease", .release),
      ("sys/kernel/version", .version), ("sys/kernel/domainname", .domain),
    ] as [(StaticString, SystemName.Field)] {
      tree.add(path) { (text) throws(Errno) in
        append(field, &text)
        text.append("\n")
      }
    }
  }

  private static func append(_ field: SystemName.Field, _ text: inout TextBuffer) {
    let name = SystemName(hostName: Boot.string(at: Boot.information.pointee.hostNameOffset))
    text.append(name.bytes(of: field))
  }

  // MARK: Random numbers

  private static func addRandom(to tree: ProcessFileSystem) {
    let boot = (Random.next(), Random.next())
    tree.add("sys/kernel/random/boot_id") { (text) throws(Errno) in appendIdentifier(boot, &text) }
    tree.add("sys/kernel/random/uuid") { (text) throws(Errno) in
      appendIdentifier((Random.next(), Random.next()), &text)
    }
  }

  /// A random UUID (RFC 9562, version 4).
  private static func appendIdentifier(_ bits: (UInt64, UInt64), _ text: inout TextBuffer) {
    let high = bits.0 & ~0xf000 | 0x4000
    let low = bits.1 & ~(3 &<< 62) | 2 &<< 62
    text.append(hexadecimal: high &>> 32, width: 8)
    text.append("-")
    text.append(hexadecimal: high &>> 16 & 0xffff, width: 4)
    text.append("-")
    text.append(hexadecimal: high & 0xffff, width: 4)
    text.append("-")
    text.append(hexadecimal: low &>> 48, width: 4)
    text.append("-")
    text.append(hexadecimal: low & 0xffff_ffff_ffff, width: 12)
    text.append("\n")
  }

  // MARK: Processes and threads

  /// Every process that is there when its turn comes, by number.
  private static func forEachProcess(_ body: (Process) -> Void) {
    var number: Int32 = 1
    while let found = ProcessTable.shared.next(from: number) {
      number = found &+ 1
      if let process = Process.find(found) { body(process) }
    }
  }

  private static func children(_ process: Process, _: Int32, _ text: inout TextBuffer) throws(Errno) {
    for child in process.lock.withLock({ process.children }) {
      text.append(child.identifier.u64)
      text.append(" ")
    }
  }

  /// No averages are kept; how many threads run and how many there are is so.
  private static func load(_ text: inout TextBuffer) throws(Errno) {
    var (running, all): (UInt64, UInt64) = (0, 0)
    forEachProcess { process in
      process.lock.withLock {
        for task in process.tasks {
          all &+= 1
          if !task.thread.isAsleep { running &+= 1 }
        }
      }
    }
    text.append("0.00 0.00 0.00 ")
    text.append(running)
    text.append("/")
    text.append(all)
    text.append(" ")
    append(TaskNumbers.last.u64, &text)
  }

  // MARK: Sockets

  /// Those that somebody has a descriptor of, of all processes with a table of their own.
  private static func sockets(_ text: inout TextBuffer) throws(Errno) {
    text.append("Num       RefCount Protocol Flags    Type St Inode Path\n")
    forEachProcess { process in
      guard process === Process.first || process.ownsDescriptors else { return }
      var descriptor = 0
      while let next = process.descriptors.next(from: descriptor) {
        descriptor = next &+ 1
        guard let socket = (try? process.descriptors.file(next)) as? UnixSocket else { continue }
        append(socket, &text)
      }
    }
  }

  private static func append(_ socket: UnixSocket, _ text: inout TextBuffer) {
    let status = socket.status
    text.append("0000000000000000: 00000002 00000000 ")
    text.append(status.isListening ? "00010000 " : "00000000 ")
    text.append(hexadecimal: socket.kind.rawValue.u64, width: 4)
    text.append(status.isConnected ? " 03 " : " 01 ")
    text.append(socket.vnode.inode, width: 5)
    if !status.name.isEmpty {
      text.append(" ")
      text.append(status.name)
    }
    text.append("\n")
  }

  // MARK: Segments of shared memory

  private static func segments(_ text: inout TextBuffer) throws(Errno) {
    text.append(
      """
             key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime \
                              rss                  swap

      """)
    for index in 0...SharedSegments.highestIndex.i32 {
      guard let segment = try? SharedSegments.find(index: index) else { continue }
      let status = segment.status
      append(signed: status.key.int, width: 10, &text)
      text.append(" ")
      text.append(segment.identifier.u64, width: 10)
      text.append("  ")
      text.append(octal: (status.mode & 0o7777).u64)
      text.append(" ")
      text.append(status.byteCount, width: 21)
      for number in [status.creator.u32, status.last.u32] {
        text.append(" ")
        text.append(number.u64, width: 5)
      }
      text.append("  ")
      text.append(status.attachments, width: 5)
      for number in [status.userID, status.groupID, status.creatorUserID, status.creatorGroupID] {
        text.append(" ")
        text.append(number.u64, width: 5)
      }
      for time in [status.attachTime, status.detachTime, status.changeTime] {
        text.append(" ")
        text.append(time.u64, width: 10)
      }
      text.append(" ")
      text.append(segment.object.residentPages.u64 &* PageSize.small, width: 21)
      text.append("                     0\n")
    }
  }

  private static func append(signed number: Int, width: Int, _ text: inout TextBuffer) {
    var digits = TextBuffer()
    digits.append(number.i64)
    for _ in 0..<max(width &- digits.bytes.count, 0) { text.append(" ") }
    text.append(digits.bytes)
  }
}
