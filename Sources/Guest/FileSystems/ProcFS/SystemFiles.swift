// The texts of files about the whole machine, as far as lower layers know them.
import Base
import Files
import Pages
import Platform
import Threads

/// /proc/N/mounts.
func writeMounts(_ context: FileSystemContext, _ text: inout TextBuffer) {
  var lines = text
  let root = context.root
  context.mounts.forEach { mount in
    guard mount.isReachable(from: root) else { return }
    lines.append(escaping: mount.source)
    lines.append(byte: 0x20)
    lines.append(escaping: mount.path(from: root))
    lines.append(byte: 0x20)
    lines.append(mount.fileSystem.kind)
    lines.append(" ")
    writeFlags(mount.flags, &lines)
    lines.append(",relatime 0 0\n")
  }
  text = lines
}

/// /proc/N/mountinfo.
func writeMountInformation(_ context: FileSystemContext, _ text: inout TextBuffer) {
  var lines = text
  let root = context.root
  context.mounts.forEach { mount in
    guard mount.isReachable(from: root) else { return }
    lines.append(mount.identifier.u64)
    lines.append(" ")
    lines.append((mount.point?.mount.identifier ?? 0).u64)
    lines.append(" ")
    lines.append(DeviceNumber.major(mount.fileSystem.device).u64)
    lines.append(":")
    lines.append(DeviceNumber.minor(mount.fileSystem.device).u64)
    lines.append(" ")
    lines.append(escaping: mount.rootPath)
    lines.append(" ")
    lines.append(escaping: mount.path(from: root))
    lines.append(" ")
    writeFlags(mount.flags, &lines)
    lines.append(",relatime - ")
    lines.append(mount.fileSystem.kind)
    lines.append(" ")
    lines.append(escaping: mount.source)
    lines.append(mount.flags.contains(.readOnly) ? " ro\n" : " rw\n")
  }
  text = lines
}

private func writeFlags(_ flags: MountFlags, _ text: inout TextBuffer) {
  text.append(flags.contains(.readOnly) ? "ro" : "rw")
  if flags.contains(.noSetUser) { text.append(",nosuid") }
  if flags.contains(.noDevices) { text.append(",nodev") }
  if flags.contains(.noExecute) { text.append(",noexec") }
}

extension ProcessFileSystem {
  /// Adds what lower layers can tell: meminfo, uptime, loadavg, filesystems, sys/kernel and sys/vm as far as programs read them.
  public func addSystemFiles() {
    add("meminfo") { (text) throws(Errno) in writeMemory(&text) }
    add("uptime") { (text) throws(Errno) in
      let hundredths = Clock.now() / 10_000_000
      text.append(hundredths: hundredths)
      text.append(" ")
      var idle: UInt64 = 0
      for cpu in 0..<CPU.count { idle &+= Scheduler.times(ofCPU: cpu).idle }
      text.append(hundredths: idle / 10_000_000)
      text.append("\n")
    }
    add("loadavg") { (text) throws(Errno) in text.append("0.00 0.00 0.00 1/1 1\n") }
    add("filesystems") { (text) throws(Errno) in
      text.append("nodev\tramfs\nnodev\ttmpfs\nnodev\tdevtmpfs\nnodev\tproc\nnodev\tvirtiofs\n")
    }
    add("sys/kernel/pid_max") { (text) throws(Errno) in text.append("32768\n") }
    add("sys/kernel/ostype") { (text) throws(Errno) in text.append("Linux\n") }
    add("sys/kernel/randomize_va_space") { (text) throws(Errno) in text.append("2\n") }
    add("sys/vm/overcommit_memory") { (text) throws(Errno) in text.append("0\n") }
    add("sys/vm/max_map_count") { (text) throws(Errno) in text.append("65530\n") }
    add("sys/fs/file-max") { (text) throws(Errno) in text.append("1048576\n") }
    add("sys/fs/pipe-max-size") { (text) throws(Errno) in text.append("1048576\n") }
  }
}

/// /proc/meminfo. MemTotal is MemFree + AnonPages + Cached + Slab + KernelStack + PageTables + VmallocUsed (what else the kernel
/// has), at the moment of reading.
private func writeMemory(_ text: inout TextBuffer) {
  let account = Frames.account()
  let free = account.free &+ account.inMagazines
  let cached = account[.file] &+ account[.shared]
  let lines: [18 of (StaticString, Int)] = [
    ("MemTotal:       ", account.total), ("MemFree:        ", free),
    ("MemAvailable:   ", max(free &- Frames.reserve, 0) &+ account[.file]), ("Buffers:        ", 0),
    ("Cached:         ", cached), ("SwapCached:     ", 0), ("Active:         ", account[.program] &+ cached),
    ("Inactive:       ", 0), ("SwapTotal:      ", 0), ("SwapFree:       ", 0), ("Dirty:          ", 0),
    ("AnonPages:      ", account[.program]), ("Shmem:          ", account[.shared]),
    ("Slab:           ", account[.heap]), ("SUnreclaim:     ", account[.heap]),
    ("KernelStack:    ", account[.stack]), ("PageTables:     ", account[.table]),
    ("VmallocUsed:    ", account[.kernel]),
  ]
  for index in 0..<lines.count {
    text.append(lines[index].0)
    text.append((lines[index].1 &* 4).u64, width: 8)
    text.append(" kB\n")
  }
  text.append("HugePages_Total:       0\nHugePages_Free:        0\nHugepagesize:       2048 kB\n")
}
