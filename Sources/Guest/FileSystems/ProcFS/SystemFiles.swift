// The texts of files about the whole machine, as far as lower layers know them.
import Base
import Files
import Memory
import Pages
import Platform
import Threads
import VirtioABI

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
  /// Adds what lower layers can tell: meminfo, uptime, loadavg, filesystems, settings, empty tables.
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
    add("cpuinfo") { (text) throws(Errno) in
      Processors().write(count: CPU.count, frequency: Boot.clockPage.pointee.frequency, &text)
    }
    add("vmstat") { (text) throws(Errno) in writeMemoryCounts(&text) }
    add("filesystems") { (text) throws(Errno) in
      text.append("nodev\tramfs\nnodev\ttmpfs\nnodev\tdevtmpfs\nnodev\tproc\nnodev\tsysfs\nnodev\tvirtiofs\n")
    }
    addSettings()
    addTables()
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
    ("Inactive:       ", 0), ("SwapTotal:      ", 0), ("SwapFree:       ", 0),
    ("Dirty:          ", MemoryObject.dirtyPagesEverywhere),
    ("AnonPages:      ", account[.program]), ("Shmem:          ", account[.shared]),
    ("Slab:           ", account[.heap]), ("SUnreclaim:     ", account[.heap]),
    ("KernelStack:    ", account[.stack]), ("PageTables:     ", account[.table]),
    ("VmallocUsed:    ", account[.kernel] &+ account[.packet]),
  ]
  for index in 0..<lines.count {
    text.append(lines[index].0)
    text.append((lines[index].1 &* 4).u64, width: 8)
    text.append(" kB\n")
  }
  text.append("HugePages_Total:       0\nHugePages_Free:        0\nHugepagesize:       2048 kB\n")
}

/// /proc/vmstat, as far as it is counted: pages.
private func writeMemoryCounts(_ text: inout TextBuffer) {
  let account = Frames.account()
  let lines: [7 of (StaticString, Int)] = [
    ("nr_free_pages ", account.free &+ account.inMagazines), ("nr_anon_pages ", account[.program]),
    ("nr_file_pages ", account[.file] &+ account[.shared]), ("nr_shmem ", account[.shared]),
    ("nr_slab_unreclaimable ", account[.heap]), ("nr_page_table_pages ", account[.table]),
    ("nr_dirty ", MemoryObject.dirtyPagesEverywhere),
  ]
  for index in 0..<lines.count {
    text.append(lines[index].0)
    text.append(lines[index].1.u64)
    text.append("\n")
  }
}
