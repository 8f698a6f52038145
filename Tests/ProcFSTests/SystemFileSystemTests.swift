// /sys, and what CPUID becomes in /sys and in /proc/cpuinfo, with CPUs that are made up.
import Base
import Files
import Memory
import Pages
import Platform
import RamFS
import Synchronization
import Testing

@testable import ProcFS

@Suite struct SystemFileSystemTests {
  private func mounted(_ cpuCount: Int, _ caches: [ProcessorCache] = [], asked: (() -> Void)? = nil) throws
    -> FileSystemContext
  {
    HostedArena.prepare()
    let context = FileSystemContext(mounts: MountTable(root: RamFileSystem(), source: PathBytes("rootfs")), umask: 0)
    try context.makeDirectory(PathBytes("/sys"), from: context.root, mode: 0o755, Credentials())
    let system = SystemFileSystem(cpuCount: cpuCount) {
      asked?()
      return caches
    }
    try context.mounts.mount(
      system, on: try context.find(PathBytes("/sys"), from: context.root, Credentials()), source: PathBytes("sysfs"))
    return context
  }

  private func read(_ context: FileSystemContext, _ path: String) throws -> String {
    let file = try Array("/sys/\(path)".utf8).withPath { (path) throws(Errno) in
      try context.open(path, from: context.root, [], Credentials())
    }
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 8)
    defer { buffer.deallocate() }
    var transfer = Transfer(kernel: buffer)
    let count = try file.read(into: &transfer)
    return String(decoding: buffer[..<count], as: UTF8.self)
  }

  @Test func cpusAreListed() throws {
    for (count, list, mask) in [(1, "0", "1"), (2, "0-1", "3"), (6, "0-5", "3f"), (36, "0-35", "f,ffffffff")] {
      let context = try mounted(count)
      let cpu = "devices/system/cpu"
      for name in ["online", "possible", "present"] { #expect(try read(context, "\(cpu)/\(name)") == list + "\n") }
      #expect(try read(context, "\(cpu)/cpu0/topology/package_cpus_list") == list + "\n")
      #expect(try read(context, "\(cpu)/cpu0/topology/core_siblings") == mask + "\n")
      #expect(try read(context, "\(cpu)/cpu\(count - 1)/topology/thread_siblings_list") == "\(count - 1)\n")
      #expect(try read(context, "\(cpu)/cpu\(count - 1)/topology/core_id") == "\(count - 1)\n")
      #expect(try read(context, "devices/system/node/node0/cpumap") == mask + "\n")
      #expect(throws: Errno.ENOENT) { try read(context, "\(cpu)/cpu\(count)/topology/core_id") }
    }
    let context = try mounted(36)
    #expect(try read(context, "devices/system/cpu/cpu33/topology/core_cpus") == "2,00000000\n")
    #expect(try read(context, "devices/system/node/node0/meminfo").contains("Node 0 MemTotal: "))
    #expect(try read(context, "kernel/mm/transparent_hugepage/hpage_pmd_size") == "2097152\n")
  }

  /// Nothing is made before somebody asks, and it is made once.
  @Test func filesAreMadeWhenTheyAreWanted() throws {
    let asked = Atomic<Int>(0)
    let context = try mounted(2, asked: { asked.add(1, ordering: .relaxed) })
    var count = asked.load(ordering: .relaxed)
    #expect(count == 0)
    _ = try read(context, "devices/system/cpu/online")
    _ = try read(context, "devices/system/cpu/possible")
    count = asked.load(ordering: .relaxed)
    #expect(count == 1)
  }

  /// An Intel of our time: 48 KiB, 32 KiB, 2 MiB, 54 MiB.
  private let intel: ProcessorAnswers = { leaf, subleaf in
    switch (leaf, subleaf) {
    case (0, _): ProcessorAnswer(eax: 0xd, ebx: 0x756e_6547, ecx: 0x6c65_746e, edx: 0x4965_6e69)
    case (1, _): ProcessorAnswer(eax: 0x806f8, ebx: 8 << 8, ecx: 1 << 28 | 1 << 31 | 1, edx: 1 | 1 << 8 | 1 << 26)
    case (4, 0): ProcessorAnswer(eax: 0x121, ebx: 11 << 22 | 63, ecx: 63)
    case (4, 1): ProcessorAnswer(eax: 0x122, ebx: 7 << 22 | 63, ecx: 63)
    case (4, 2): ProcessorAnswer(eax: 0x143, ebx: 15 << 22 | 63, ecx: 2047)
    case (4, 3): ProcessorAnswer(eax: 0x163, ebx: 11 << 22 | 63, ecx: 73_727)
    case (7, 0): ProcessorAnswer(ebx: 1 << 5 | 1 << 16, ecx: 1 << 8, edx: 1 << 4)
    case (0xd, 1): ProcessorAnswer(eax: 3)
    case (0x8000_0000, _): ProcessorAnswer(eax: 0x8000_0008)
    case (0x8000_0001, _): ProcessorAnswer(ecx: 1, edx: 1 << 11 | 1 << 29)
    case (0x8000_0002, _): ProcessorAnswer(eax: 0x2020_2020, ebx: 0x4120_2020, ecx: 0x4250_4320, edx: 0)
    case (0x8000_0007, _): ProcessorAnswer(edx: 1 << 8)
    case (0x8000_0008, _): ProcessorAnswer(eax: 0x392e)
    default: ProcessorAnswer()
    }
  }

  @Test func cachesAreIntels() throws {
    let caches = Processors(intel).caches
    #expect(caches.map(\.byteCount) == [48 << 10, 32 << 10, 2 << 20, 54 << 20])
    let context = try mounted(4, caches)
    func cache(_ cpu: Int, _ index: Int, _ name: String) throws -> String {
      try read(context, "devices/system/cpu/cpu\(cpu)/cache/index\(index)/\(name)")
    }
    #expect(try cache(0, 0, "type") == "Data\n" && cache(0, 1, "type") == "Instruction\n")
    #expect(try cache(3, 2, "type") == "Unified\n" && cache(3, 2, "size") == "2048K\n")
    #expect(try cache(3, 2, "shared_cpu_list") == "3\n" && cache(3, 3, "shared_cpu_list") == "0-3\n")
    #expect(try cache(2, 3, "shared_cpu_map") == "f\n" && cache(2, 1, "shared_cpu_map") == "4\n")
    #expect(try cache(0, 0, "ways_of_associativity") == "12\n" && cache(0, 0, "coherency_line_size") == "64\n")
  }

  @Test func cachesAreAMDs() {
    let caches = Processors { leaf, _ in
      switch leaf {
      case 0: ProcessorAnswer(eax: 1)
      case 0x8000_0000: ProcessorAnswer(eax: 0x8000_0008)
      case 0x8000_0005: ProcessorAnswer(ecx: 32 << 24 | 8 << 16 | 64, edx: 64 << 24 | 4 << 16 | 64)
      case 0x8000_0006: ProcessorAnswer(ecx: 512 << 16 | 6 << 12 | 64, edx: 16 << 18 | 8 << 12 | 64)
      default: ProcessorAnswer()
      }
    }.caches
    #expect(caches.map(\.byteCount) == [32 << 10, 64 << 10, 512 << 10, 8 << 20])
    #expect(caches.map(\.ways) == [8, 4, 8, 16])
    #expect(Processors { _, _ in ProcessorAnswer() }.caches.isEmpty)
  }

  @Test func theTextIsLinuxs() {
    var text = TextBuffer()
    Processors(intel).write(count: 2, frequency: 2_099_998_000, &text)
    let lines = String(decoding: text.bytes, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
    #expect(lines.filter { $0.hasPrefix("processor\t: ") } == ["processor\t: 0", "processor\t: 1"])
    for line in [
      "vendor_id\t: GenuineIntel", "cpu family\t: 6", "model\t\t: 143", "model name\t: A CPB", "stepping\t: 8",
      "cpu MHz\t\t: 2099.998", "cache size\t: 55296 KB", "siblings\t: 2", "cpu cores\t: 2", "cpuid level\t: 13",
      "flags\t\t: fpu cx8 sse2 syscall lm constant_tsc nonstop_tsc pni avx hypervisor lahf_lm avx2 avx512f xsaveopt xsavec gfni fsrm",
      "bogomips\t: 4199.99", "clflush size\t: 64", "address sizes\t: 46 bits physical, 57 bits virtual",
    ] { #expect(lines.contains { $0 == line }, "\(line)") }
    // What the machine says itself has something of everything.
    text = TextBuffer()
    Processors().write(count: 1, frequency: 1_000_000_000, &text)
    let own = String(decoding: text.bytes, as: UTF8.self)
    #expect(own.contains(" sse2") && own.contains("vendor_id\t: ") && own.hasSuffix("power management:\n\n"))
  }
}
