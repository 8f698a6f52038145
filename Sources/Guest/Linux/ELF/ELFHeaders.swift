// The two ELF structures that an executable's start depends on, as they lie in the file (little-endian, 64-bit).

/// The head of an ELF file (Elf64_Ehdr).
struct ELFHeader {
  static let magicValue: UInt32 = 0x464c_457f
  static let class64: UInt8 = 2
  static let littleEndian: UInt8 = 1
  static let typeExecutable: UInt16 = 2
  static let typeShared: UInt16 = 3
  static let machineX86_64: UInt16 = 62

  var magic: UInt32 = 0
  var fileClass: UInt8 = 0
  var byteOrder: UInt8 = 0
  var identVersion: UInt8 = 0
  var abi: UInt8 = 0
  var padding: UInt64 = 0
  var type: UInt16 = 0
  var machine: UInt16 = 0
  var version: UInt32 = 0
  var entry: UInt64 = 0
  var headersOffset: UInt64 = 0
  var sectionsOffset: UInt64 = 0
  var flags: UInt32 = 0
  var byteCount: UInt16 = 0
  var headerByteCount: UInt16 = 0
  var headerCount: UInt16 = 0
  var sectionByteCount: UInt16 = 0
  var sectionCount: UInt16 = 0
  var sectionNames: UInt16 = 0
}

/// One program header (Elf64_Phdr).
struct ELFProgramHeader {
  static let load: UInt32 = 1
  static let interpreter: UInt32 = 3
  static let gnuStack: UInt32 = 0x6474_e551
  static let executable: UInt32 = 1
  static let writable: UInt32 = 2
  static let readable: UInt32 = 4

  var type: UInt32 = 0
  var flags: UInt32 = 0
  var fileOffset: UInt64 = 0
  var address: UInt64 = 0
  var physical: UInt64 = 0
  var fileByteCount: UInt64 = 0
  var memoryByteCount: UInt64 = 0
  var alignment: UInt64 = 0
}
