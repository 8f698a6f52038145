// SystemFileSystem: /sys, as far as programs ask it: the CPUs and how they belong together, their caches, the one node of memory, 2 MiB
// pages. What there is none of has an empty directory.
import Base
import Files
import Pages
import Platform

/// A cache of a CPU, as CPUID tells it.
public struct ProcessorCache: Sendable {
  /// 1 and up.
  public var level: UInt32
  /// Whether it holds data, and whether code.
  public var (holdsData, holdsCode): (Bool, Bool)
  /// Bytes.
  public var byteCount: UInt64
  /// Bytes of a line.
  public var lineByteCount: UInt32
  /// Places for one line.
  public var ways: UInt32
  /// Sets.
  public var sets: UInt32

  /// A cache.
  public init(
    level: UInt32, holdsData: Bool, holdsCode: Bool, lineByteCount: UInt32, partitions: UInt32, ways: UInt32,
    sets: UInt32
  ) {
    self.level = level
    (self.holdsData, self.holdsCode) = (holdsData, holdsCode)
    self.lineByteCount = lineByteCount
    self.ways = ways
    self.sets = sets
    byteCount = lineByteCount.u64 &* partitions.u64 &* ways.u64 &* sets.u64
  }
}

/// The tree of /sys.
public final class SystemFileSystem: TextTree {
  private let cpuCount: Int

  /// /sys of a machine with so many CPUs, one core each, which have the caches that `caches` tells when it is asked, the last level together.
  public init(cpuCount: Int, caches: @escaping () -> [ProcessorCache]) {
    self.cpuCount = cpuCount
    super.init(kind: "sysfs", magic: 0x6265_6572)
    setRoot(TextRoot(self))
    addLater { [unowned(unsafe) self] in addFiles(caches()) }
  }

  private func addFiles(_ caches: [ProcessorCache]) {
    for name in [
      "block", "bus/cpu/devices", "bus/pci/devices", "bus/usb/devices", "class/block", "class/net",
      "class/power_supply",
      "class/thermal", "class/hwmon", "dev/block", "dev/char", "devices/virtual", "firmware", "fs/cgroup",
      "kernel/debug", "kernel/security", "module", "power",
    ] as [StaticString] { addDirectory(name) }
    addProcessors()
    addCaches(caches)
    addMemory()
  }

  // MARK: CPUs

  private func addProcessors() {
    for name in ["online", "possible", "present"] as [StaticString] {
      add(Self.path("devices/system/cpu/", name)) { [cpuCount] (text) throws(Errno) in appendList(0..<cpuCount, &text) }
    }
    add("devices/system/cpu/offline", text: "\n")
    add("devices/system/cpu/isolated", text: "\n")
    add("devices/system/cpu/smt/active", text: "0\n")
    add("devices/system/cpu/smt/control", text: "notsupported\n")
    number("devices/system/cpu/kernel_max", cpuCount &- 1)
    for cpu in 0..<cpuCount {
      let own = cpu..<cpu &+ 1
      for name in ["core_cpus", "thread_siblings"] as [StaticString] { addCPUs(cpu, "/topology/", name, own) }
      for name in ["core_siblings", "package_cpus", "die_cpus"] as [StaticString] {
        addCPUs(cpu, "/topology/", name, 0..<cpuCount)
      }
      number(Self.path(cpu, "/topology/", "core_id"), cpu)
      number(Self.path(cpu, "/topology/", "physical_package_id"), 0)
      number(Self.path(cpu, "/topology/", "die_id"), 0)
    }
  }

  /// A set of CPUs as bits and, with "_list" behind the name, as numbers.
  private func addCPUs(_ cpu: Int, _ directory: StaticString, _ name: StaticString, _ cpus: Range<Int>) {
    let all = cpuCount
    add(Self.path(cpu, directory, name)) { (text) throws(Errno) in appendMask(cpus, of: all, &text) }
    add(Self.path(cpu, directory, name) + PathBytes("_list").copy) { (text) throws(Errno) in appendList(cpus, &text) }
  }

  private func addCaches(_ caches: [ProcessorCache]) {
    let last = caches.reduce(0) { max($0, $1.level) }
    for cpu in 0..<cpuCount {
      for index in 0..<caches.count {
        let cache = caches[index]
        func path(_ name: StaticString) -> [UInt8] {
          var result = Self.path(cpu, "/cache/index", "")
          result.append(decimal: index.u64)
          return result + PathBytes(name).copy
        }
        let isShared = cache.level == last && last > 2
        let cpus = isShared ? 0..<cpuCount : cpu..<cpu &+ 1
        let all = cpuCount
        number(path("/level"), cache.level.int)
        number(path("/id"), isShared ? 0 : cpu)
        number(path("/coherency_line_size"), cache.lineByteCount.int)
        number(path("/ways_of_associativity"), cache.ways.int)
        number(path("/number_of_sets"), cache.sets.int)
        number(path("/physical_line_partition"), 1)
        add(path("/size")) { (text) throws(Errno) in
          text.append(cache.byteCount &>> 10)
          text.append("K\n")
        }
        add(path("/type")) { (text) throws(Errno) in
          text.append(cache.holdsData ? cache.holdsCode ? "Unified\n" : "Data\n" : "Instruction\n")
        }
        add(path("/shared_cpu_map")) { (text) throws(Errno) in appendMask(cpus, of: all, &text) }
        add(path("/shared_cpu_list")) { (text) throws(Errno) in appendList(cpus, &text) }
      }
    }
  }

  // MARK: Memory

  private func addMemory() {
    for name in ["online", "possible", "has_cpu", "has_memory", "has_normal_memory"] as [StaticString] {
      number(Self.path("devices/system/node/", name), 0)
    }
    let cpuCount = cpuCount
    add("devices/system/node/node0/cpulist") { (text) throws(Errno) in appendList(0..<cpuCount, &text) }
    add("devices/system/node/node0/cpumap") { (text) throws(Errno) in appendMask(0..<cpuCount, of: cpuCount, &text) }
    add("devices/system/node/node0/distance", text: "10\n")
    add("devices/system/node/node0/meminfo") { (text) throws(Errno) in
      let account = Frames.account()
      let free = account.free &+ account.inMagazines
      let lines: [3 of (StaticString, Int)] = [
        ("Node 0 MemTotal:       ", account.total), ("Node 0 MemFree:        ", free),
        ("Node 0 MemUsed:        ", account.total &- free),
      ]
      for index in 0..<3 {
        text.append(lines[index].0)
        text.append((lines[index].1 &* 4).u64, width: 8)
        text.append(" kB\n")
      }
    }
    // Anonymous memory gets 2 MiB pages wherever they fit, without being asked.
    add("kernel/mm/transparent_hugepage/enabled", text: "[always] madvise never\n")
    add("kernel/mm/transparent_hugepage/defrag", text: "always defer defer+madvise madvise [never]\n")
    add("kernel/mm/transparent_hugepage/shmem_enabled", text: "always within_size advise [never] deny force\n")
    add("kernel/mm/transparent_hugepage/hpage_pmd_size", text: "2097152\n")
    add("kernel/mm/transparent_hugepage/use_zero_page", text: "0\n")
    add("kernel/mm/transparent_hugepage/khugepaged/defrag", text: "0\n")
    for name in ["nr_hugepages", "free_hugepages", "resv_hugepages", "surplus_hugepages", "nr_overcommit_hugepages"]
      as [StaticString]
    {
      number(Self.path("kernel/mm/hugepages/hugepages-2048kB/", name), 0)
      if name.utf8CodeUnitCount < 18 {
        number(Self.path("devices/system/node/node0/hugepages/hugepages-2048kB/", name), 0)
      }
    }
  }

  // MARK: Texts

  private func add(_ path: [UInt8], _ produce: @escaping Produce) { path.withPath { add($0, produce) } }

  /// A file with a number that never changes.
  private func number(_ path: [UInt8], _ number: Int) {
    add(path) { (text) throws(Errno) in
      text.append(number.u64)
      text.append("\n")
    }
  }
  private func number(_ path: StaticString, _ value: Int) { number(PathBytes(path).copy, value) }

  private static func path(_ directory: StaticString, _ name: StaticString) -> [UInt8] {
    PathBytes(directory).copy + PathBytes(name).copy
  }

  private static func path(_ cpu: Int, _ directory: StaticString, _ name: StaticString) -> [UInt8] {
    var result = PathBytes("devices/system/cpu/cpu").copy
    result.append(decimal: cpu.u64)
    return result + path(directory, name)
  }
}

/// Neighbouring CPUs as lists of them are written, such as "0-3", and a newline.
private func appendList(_ cpus: Range<Int>, _ text: inout TextBuffer) {
  text.append(cpus.lowerBound.u64)
  if cpus.count > 1 {
    text.append("-")
    text.append((cpus.upperBound &- 1).u64)
  }
  text.append("\n")
}

/// CPUs as bits in groups of 32, as many digits as there are CPUs for, and a newline.
private func appendMask(_ cpus: Range<Int>, of count: Int, _ text: inout TextBuffer) {
  var group = (count &- 1) / 32
  var width = min((count &- group &* 32 &+ 3) / 4, 8)
  while group >= 0 {
    var bits: UInt64 = 0
    for cpu in cpus where cpu / 32 == group { bits |= 1 &<< (cpu % 32).u64 }
    text.append(hexadecimal: bits, width: width)
    if group > 0 { text.append(",") }
    width = 8
    group &-= 1
  }
  text.append("\n")
}
