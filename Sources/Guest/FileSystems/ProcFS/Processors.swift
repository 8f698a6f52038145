// What CPUID says about the CPUs, in Linux's words: /proc/cpuinfo, and the caches for /sys.
//
// The instruction is run where programs run it, so that both see the same.
import Base
import Files
import Platform

/// Answers of CPUID.
public typealias ProcessorAnswers = (_ leaf: UInt32, _ subleaf: UInt32) -> ProcessorAnswer

/// The CPUs as CPUID describes them.
public struct Processors {
  private let ask: ProcessorAnswers
  private let highest: UInt32
  private let highestExtended: UInt32

  /// The machine's own, or those that `ask` makes up.
  public init(_ ask: @escaping ProcessorAnswers = { ProcessorAnswer(leaf: $0, subleaf: $1) }) {
    self.ask = ask
    highest = ask(0, 0).eax
    highestExtended = ask(0x8000_0000, 0).eax
  }

  // MARK: Caches

  /// The caches of a CPU, nearest first.
  public var caches: [ProcessorCache] {
    var result: [ProcessorCache] = []
    if highest >= 4 {
      var index: UInt32 = 0
      while index < 16 {
        let answer = ask(4, index)
        let kind = answer.eax & 0x1f
        if kind == 0 || kind > 3 { break }
        result.append(
          ProcessorCache(
            level: answer.eax &>> 5 & 7, holdsData: kind != 2, holdsCode: kind != 1,
            lineByteCount: (answer.ebx & 0xfff) &+ 1, partitions: (answer.ebx &>> 12 & 0x3ff) &+ 1,
            ways: answer.ebx &>> 22 &+ 1, sets: answer.ecx &+ 1))
        index &+= 1
      }
    }
    return result.isEmpty ? extendedCaches : result
  }

  /// AMD's older way to tell them.
  private var extendedCaches: [ProcessorCache] {
    guard highestExtended >= 0x8000_0006 else { return [] }
    var result: [ProcessorCache] = []
    let (first, second) = (ask(0x8000_0005, 0), ask(0x8000_0006, 0))
    let codes: [16 of UInt32] = [0, 1, 2, 3, 4, 6, 8, 0, 16, 0, 32, 48, 64, 96, 128, 0]
    func add(_ level: UInt32, _ data: Bool, _ code: Bool, _ kibibytes: UInt32, _ ways: UInt32, _ line: UInt32) {
      guard kibibytes > 0, ways > 0, line > 0 else { return }
      result.append(
        ProcessorCache(
          level: level, holdsData: data, holdsCode: code, lineByteCount: line, partitions: 1, ways: ways,
          sets: kibibytes &* 1024 / (ways &* line)))
    }
    add(1, true, false, first.ecx &>> 24, first.ecx &>> 16 & 0xff, first.ecx & 0xff)
    add(1, false, true, first.edx &>> 24, first.edx &>> 16 & 0xff, first.edx & 0xff)
    add(2, true, true, second.ecx &>> 16, codes[(second.ecx &>> 12 & 0xf).int], second.ecx & 0xff)
    add(3, true, true, second.edx &>> 18 &* 512, codes[(second.edx &>> 12 & 0xf).int], second.edx & 0xff)
    return result
  }

  // MARK: /proc/cpuinfo

  /// Writes a paragraph a CPU.
  /// - Parameters:
  ///   - count: how many CPUs.
  ///   - frequency: of the time-stamp counter, Hz.
  func write(count: Int, frequency: UInt64, _ text: inout TextBuffer) {
    let signature = ask(1, 0)
    var family = signature.eax &>> 8 & 0xf
    if family == 0xf { family &+= signature.eax &>> 20 & 0xff }
    var model = signature.eax &>> 4 & 0xf
    if family >= 6 { model |= signature.eax &>> 12 & 0xf0 }
    var common = TextBuffer()
    common.append("vendor_id\t: ")
    let vendor = ask(0, 0)
    common.append(letters: [vendor.ebx, vendor.edx, vendor.ecx])
    common.append("\ncpu family\t: ")
    common.append(family.u64)
    common.append("\nmodel\t\t: ")
    common.append(model.u64)
    common.append("\nmodel name\t: ")
    appendName(&common)
    common.append("\nstepping\t: ")
    common.append((signature.eax & 0xf).u64)
    common.append("\ncpu MHz\t\t: ")
    common.append(thousandths: frequency / 1000)
    common.append("\ncache size\t: ")
    common.append((caches.last?.byteCount ?? 0) &>> 10)
    common.append(" KB\nphysical id\t: 0\nsiblings\t: ")
    common.append(count.u64)
    var rest = TextBuffer()
    rest.append("\nfpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: ")
    rest.append(highest.u64)
    rest.append("\nwp\t\t: yes\nflags\t\t:")
    appendFlags(&rest)
    rest.append("\nbugs\t\t:\nbogomips\t: ")
    rest.append(hundredths: frequency / 5000)
    rest.append("\nclflush size\t: ")
    rest.append((signature.ebx &>> 8 & 0xff).u64 &* 8)
    rest.append("\ncache_alignment\t: 64\naddress sizes\t: ")
    let sizes = highestExtended >= 0x8000_0008 ? ask(0x8000_0008, 0).eax : 0x3024
    rest.append((sizes & 0xff).u64)
    rest.append(" bits physical, ")
    rest.append((sizes &>> 8 & 0xff).u64)
    rest.append(" bits virtual\npower management:\n\n")
    for cpu in 0..<count {
      text.append("processor\t: ")
      text.append(cpu.u64)
      text.append("\n")
      text.append(common.bytes)
      text.append("\ncore id\t\t: ")
      text.append(cpu.u64)
      text.append("\ncpu cores\t: ")
      text.append(count.u64)
      text.append("\napicid\t\t: ")
      text.append(cpu.u64)
      text.append("\ninitial apicid\t: ")
      text.append(cpu.u64)
      text.append(rest.bytes)
    }
  }

  private func appendName(_ text: inout TextBuffer) {
    guard highestExtended >= 0x8000_0004 else { return text.append("unknown") }
    var words: [UInt32] = []
    for leaf in 0x8000_0002...0x8000_0004 as ClosedRange<UInt32> {
      let answer = ask(leaf, 0)
      words.append(contentsOf: [answer.eax, answer.ebx, answer.ecx, answer.edx])
    }
    text.append(letters: words)
  }

  private func appendFlags(_ text: inout TextBuffer) {
    let first = ask(1, 0)
    let extended = highestExtended >= 0x8000_0001 ? ask(0x8000_0001, 0) : ProcessorAnswer()
    let power = highestExtended >= 0x8000_0007 ? ask(0x8000_0007, 0) : ProcessorAnswer()
    let structured = highest >= 7 ? ask(7, 0) : ProcessorAnswer()
    let state = highest >= 0xd ? ask(0xd, 1) : ProcessorAnswer()
    append(
      first.edx,
      """
      fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe
      """, &text)
    append(
      extended.edx,
      "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
      &text)
    if power.edx & 1 &<< 8 != 0 { text.append(" constant_tsc nonstop_tsc") }
    append(
      first.ecx,
      """
      pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 sse4_2 x2apic movbe popcnt \
      tsc_deadline_timer aes xsave - avx f16c rdrand hypervisor
      """, &text)
    append(
      extended.ecx,
      """
      lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp fma4 tce - nodeid_msr - \
      tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx - -
      """, &text)
    append(
      structured.ebx,
      """
      fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm zero_fcs_fds mpx rdt_a avx512f avx512dq rdseed \
      adx smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl
      """, &text)
    append(state.eax, "xsaveopt xsavec xgetbv1 xsaves", &text)
    append(
      structured.ecx,
      """
      - avx512vbmi umip pku ospke waitpkg avx512_vbmi2 - gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme avx512_vpopcntdq - la57 - - - - \
      - rdpid - bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc -
      """, &text)
    append(
      structured.edx,
      """
      - - avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect - md_clear - - - serialize - tsxldtrk - pconfig arch_lbr ibt - \
      amx_bf16 avx512_fp16 amx_tile amx_int8 - - flush_l1d - arch_capabilities -
      """, &text)
  }

  /// Appends the words whose bits are set; the first word stands for bit 0, "-" for nothing.
  private func append(_ bits: UInt32, _ names: StaticString, _ text: inout TextBuffer) {
    let words = PathBytes(names)
    var (bit, start): (UInt32, Int) = (0, 0)
    for end in 0...words.count where end == words.count || words[end] == 0x20 {
      if bits &>> bit & 1 != 0, words[start] != 0x2d {
        text.append(" ")
        text.append(words.slice(start, end).bytes)
      }
      start = end &+ 1
      bit &+= 1
    }
  }
}

extension TextBuffer {
  /// Appends the letters in registers, without spaces before them, up to the first NUL.
  fileprivate mutating func append(letters words: [UInt32]) {
    var isFirst = true
    for word in words {
      for shift in [0, 8, 16, 24] as [UInt32] {
        let letter = (word &>> shift).u8
        if letter == 0 { return }
        if isFirst, letter == 0x20 { continue }
        isFirst = false
        append(byte: letter)
      }
    }
  }

  /// Appends thousandths as a decimal fraction.
  fileprivate mutating func append(thousandths: UInt64) {
    append(thousandths / 1000)
    append(".")
    for divisor in [100, 10, 1] as [UInt64] { append(byte: 0x30 &+ (thousandths / divisor % 10).u8) }
  }
}
