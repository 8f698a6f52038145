// The first contents of a program's stack: argc, argv, envp, the auxiliary vector and what they point to, as the
// x86-64 psABI has them. Pure: it fills a buffer that the loader then copies to the top of the stack.

import Base

/// Tags of the auxiliary vector (<elf.h>).
enum AuxiliaryTag {
  /// End of the vector.
  static let null: UInt64 = 0
  /// Address of the program headers.
  static let programHeaders: UInt64 = 3
  /// Bytes of one program header.
  static let programHeaderByteCount: UInt64 = 4
  /// Number of program headers.
  static let programHeaderCount: UInt64 = 5
  /// Page size.
  static let pageSize: UInt64 = 6
  /// Load bias of the interpreter.
  static let base: UInt64 = 7
  /// Flags, 0.
  static let flags: UInt64 = 8
  /// Entry of the program (not of its interpreter).
  static let entry: UInt64 = 9
  /// Real user id.
  static let userID: UInt64 = 11
  /// Effective user id.
  static let effectiveUserID: UInt64 = 12
  /// Real group id.
  static let groupID: UInt64 = 13
  /// Effective group id.
  static let effectiveGroupID: UInt64 = 14
  /// Address of the platform's name.
  static let platform: UInt64 = 15
  /// CPUID 1 EDX.
  static let hardwareCapabilities: UInt64 = 16
  /// Ticks a second of times(2).
  static let clockTicks: UInt64 = 17
  /// Whether to distrust the environment.
  static let secure: UInt64 = 23
  /// Address of 16 random bytes.
  static let random: UInt64 = 25
  /// Bytes of struct rseq that the kernel serves, and its alignment.
  static let sequenceByteCount: UInt64 = 27
  static let sequenceAlignment: UInt64 = 28
  /// Further capabilities: bit 1 says that FSGSBASE may be used.
  static let hardwareCapabilities2: UInt64 = 26
  /// Address of the vDSO's ELF header.
  static let vdsoHeader: UInt64 = 33
  /// Address of the path that was run.
  static let executablePath: UInt64 = 31
  /// Smallest alternate signal stack.
  static let minimumSignalStack: UInt64 = 51
}

/// Strings that lie one behind the other, each with its NUL, as in the boot information.
public struct StringBlock {
  /// All their bytes, the NULs included.
  public var bytes: UnsafeRawBufferPointer
  /// How many strings.
  public var count: Int

  /// The first `count` NUL-terminated strings of `source`; nil if it ends before the last one's NUL.
  public init?(_ source: UnsafeRawBufferPointer, count: Int) {
    var at = 0
    var found = 0
    while found < count {
      guard at < source.count else { return nil }
      if source[at] == 0 { found &+= 1 }
      at &+= 1
    }
    self.bytes = UnsafeRawBufferPointer(rebasing: source[0..<at])
    self.count = count
  }
}

/// Builds the initial stack in a buffer whose end stands for the stack's top address.
struct InitialStack {
  /// What the loader knows about the program; addresses include the load bias.
  struct Program {
    /// AT_PHDR.
    var headersAddress: UInt64 = 0
    /// AT_PHNUM.
    var headerCount: UInt64 = 0
    /// AT_ENTRY.
    var entry: UInt64 = 0
    /// AT_BASE: 0 without an interpreter.
    var interpreterBase: UInt64 = 0
    /// AT_SYSINFO_EHDR: 0 without a vDSO.
    var vdso: UInt64 = 0
    /// AT_UID and AT_EUID.
    var userID: UInt64 = 0
    /// AT_GID and AT_EGID.
    var groupID: UInt64 = 0
    /// AT_HWCAP.
    var hardwareCapabilities: UInt64 = 0
    /// AT_HWCAP2.
    var hardwareCapabilities2: UInt64 = 0
    /// AT_MINSIGSTKSZ.
    var minimumSignalStack: UInt64 = 2048
    /// The 16 bytes behind AT_RANDOM.
    var random: (UInt64, UInt64) = (0, 0)
    /// Nothing known.
    init() {}
  }

  static let auxiliaryCount = 23
  static let platformName: StaticString = "x86_64"

  /// Bytes that `build` needs at most for these strings (a multiple of 16).
  static func byteCount(arguments: StringBlock, environment: StringBlock, path: UnsafeRawBufferPointer) -> Int {
    let strings = arguments.bytes.count &+ environment.bytes.count &+ path.count &+ 1 &+ 8 &+ 16
    let words = 1 &+ arguments.count &+ 1 &+ environment.count &+ 1 &+ 2 &* auxiliaryCount
    return (strings &+ words &* 8 &+ 16 &+ 32 &+ 15) & ~15
  }

  /// Fills the end of `buffer`, which has at least `byteCount(…)` bytes, all zero, and whose end will lie at the address `top` (a multiple of 16);
  /// returns the first stack pointer. Everything from there to `top` is to be copied to the program.
  /// - Parameter path: what AT_EXECFN names, without NUL.
  static func build(
    in buffer: UnsafeMutableRawBufferPointer, top: UInt64, arguments: StringBlock, environment: StringBlock,
    path: UnsafeRawBufferPointer, program: Program
  ) -> UInt64 {
    let base = top &- UInt64(truncatingIfNeeded: buffer.count)
    var at = buffer.count &- 8
    // SAFETY: every push moves `at` down by what it writes, and byteCount(…) is the sum of all of it.
    func push(_ bytes: UnsafeRawBufferPointer, terminated: Bool) -> UInt64 {
      at &-= bytes.count &+ (terminated ? 1 : 0)
      if let source = bytes.baseAddress, bytes.count > 0 {
        buffer.baseAddress!.advanced(by: at).copyMemory(from: source, byteCount: bytes.count)
      }
      return base &+ UInt64(truncatingIfNeeded: at)
    }
    let pathAddress = push(path, terminated: true)
    let environmentAddress = push(environment.bytes, terminated: false)
    let argumentsAddress = push(arguments.bytes, terminated: false)
    let platformAddress = push(
      UnsafeRawBufferPointer(start: platformName.utf8Start, count: platformName.utf8CodeUnitCount), terminated: true)
    at &= ~15
    let randomAddress = withUnsafeBytes(of: program.random) { push($0, terminated: false) }

    let words = 1 &+ arguments.count &+ 1 &+ environment.count &+ 1 &+ 2 &* auxiliaryCount
    at = (at &- words &* 8) & ~15
    let stackPointer = base &+ UInt64(truncatingIfNeeded: at)
    func store(_ value: UInt64) {
      buffer.storeBytes(of: value, toByteOffset: at, as: UInt64.self)
      at &+= 8
    }
    func storePointers(to block: StringBlock, at address: UInt64) {
      var start = 0
      for index in 0..<block.bytes.count where block.bytes[index] == 0 {
        store(address &+ UInt64(truncatingIfNeeded: start))
        start = index &+ 1
      }
      store(0)
    }
    var pairs = 0
    func auxiliary(_ tag: UInt64, _ value: UInt64) {
      store(tag)
      store(value)
      pairs &+= 1
    }
    store(UInt64(truncatingIfNeeded: arguments.count))
    storePointers(to: arguments, at: argumentsAddress)
    storePointers(to: environment, at: environmentAddress)
    auxiliary(AuxiliaryTag.vdsoHeader, program.vdso)
    auxiliary(AuxiliaryTag.programHeaders, program.headersAddress)
    auxiliary(AuxiliaryTag.programHeaderByteCount, 56)
    auxiliary(AuxiliaryTag.programHeaderCount, program.headerCount)
    auxiliary(AuxiliaryTag.pageSize, 4096)
    auxiliary(AuxiliaryTag.base, program.interpreterBase)
    auxiliary(AuxiliaryTag.flags, 0)
    auxiliary(AuxiliaryTag.entry, program.entry)
    auxiliary(AuxiliaryTag.userID, program.userID)
    auxiliary(AuxiliaryTag.effectiveUserID, program.userID)
    auxiliary(AuxiliaryTag.groupID, program.groupID)
    auxiliary(AuxiliaryTag.effectiveGroupID, program.groupID)
    auxiliary(AuxiliaryTag.secure, 0)
    auxiliary(AuxiliaryTag.platform, platformAddress)
    auxiliary(AuxiliaryTag.hardwareCapabilities, program.hardwareCapabilities)
    auxiliary(AuxiliaryTag.hardwareCapabilities2, program.hardwareCapabilities2)
    auxiliary(AuxiliaryTag.clockTicks, 100)
    auxiliary(AuxiliaryTag.random, randomAddress)
    auxiliary(AuxiliaryTag.sequenceByteCount, RestartableSequence.featureByteCount)
    auxiliary(AuxiliaryTag.sequenceAlignment, RestartableSequence.originalByteCount.u64)
    auxiliary(AuxiliaryTag.executablePath, pathAddress)
    auxiliary(AuxiliaryTag.minimumSignalStack, program.minimumSignalStack)
    auxiliary(AuxiliaryTag.null, 0)
    assert(pairs == auxiliaryCount)
    return stackPointer
  }
}
