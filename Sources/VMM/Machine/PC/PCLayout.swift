// Where things are in the little PC: physical addresses, ports and interrupt lines. Its tables (ACPITables), its devices and the loader
// of its kernels take them from here.

/// The address map of the PC that foreign kernels are given.
enum PCLayout {
  // ---- The first megabyte, laid down before the kernel runs.
  /// The first descriptor table; kernels bring their own.
  static let gdt: UInt64 = 0x500
  /// hvm_start_info, its list of modules and its memory map.
  static let startInformation: UInt64 = 0x6000
  /// Linux's boot_params.
  static let bootParameters: UInt64 = 0x7000
  /// Page tables that map the first 4 GiB where they are: six pages.
  static let pageTables: UInt64 = 0x9000
  /// The command line.
  static let commandLine: UInt64 = 0x2_0000
  /// Bytes of the command line at most, its terminator included.
  static let commandLineLimit = 0x1_0000
  /// End of the RAM that a PC has below the hole for old devices.
  static let conventionalEnd: UInt64 = 0x9_fc00
  /// The ACPI tables, where BIOSes have them.
  static let tables: UInt64 = 0xe_0000
  /// Bytes of the ACPI tables at most.
  static let tablesLimit = 0x1_0000
  /// Where a processor begins after a reset, in real mode: firmware's entry, by which kernels reset when nothing else works.
  static let resetEntry: UInt64 = 0xf_fff0
  /// RAM goes on here.
  static let highMemory: UInt64 = 0x10_0000

  // ---- Devices.
  /// The window for the functions' BARs.
  static let devices: UInt64 = 0xd000_0000
  /// Bytes of the window.
  static let devicesByteCount: UInt64 = 0x1000_0000
  /// Configuration space of bus 0 as memory (PCI Express, ECAM).
  static let configuration: UInt64 = 0xe000_0000
  /// Bytes of it: 32 devices of 8 functions of 4 KiB.
  static let configurationByteCount: UInt64 = 0x10_0000
  /// The I/O APIC.
  static let interruptController: UInt64 = 0xfec0_0000
  /// The CPUs' local APICs.
  static let localInterruptController: UInt64 = 0xfee0_0000

  // ---- Ports.
  /// COM1, eight ports.
  static let serial: UInt16 = 0x3f8
  /// PCI configuration mechanism 1: address, then four ports of data.
  static let configurationAddress: UInt16 = 0xcf8
  static let configurationData: UInt16 = 0xcfc
  /// Reset control, as chipsets have it.
  static let resetControl: UInt16 = 0xcf9
  /// The keyboard controller's command port, by which kernels reset when nothing else works.
  static let keyboardCommand: UInt16 = 0x64
  /// ACPI: sleep control, sleep status, reset.
  static let sleepControl: UInt16 = 0x600
  static let sleepStatus: UInt16 = 0x601
  static let reset: UInt16 = 0x602

  // ---- Interrupt lines of the I/O APIC.
  /// COM1's.
  static let serialLine = 4
}

/// How a foreign kernel ended its machine.
enum PCEnd: Equatable {
  /// ACPI S5.
  case powerOff
  /// By any of the three ways.
  case reset
}
