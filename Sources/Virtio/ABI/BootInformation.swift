// The boot information: everything osv-run tells the guest kernel, in one read-only page run.
//
// The kernel starts in 64-bit mode with paging on and its first page tables built by osv-run; it probes
// nothing that stands here. Under another monitor the kernel's bootstrap (Guest/Bootstrap) finds it all out and tells it in this form. All offsets are from the first byte of `BootInformation` itself, all integers
// little-endian, all tables contiguous. The layout is private to one build of the pair (osv-run carries its
// kernel), so `version` only catches an image linked against another build.

/// The fixed head of the boot information; tables and strings follow it at the offsets it names.
public struct BootInformation {
  /// "OSV-BOOT", read as a little-endian integer.
  public static let magicValue: UInt64 = 0x544f_4f42_2d56_534f
  /// Raised with every change of this file.
  public static let currentVersion: UInt32 = 7
  /// Bytes between two per-CPU areas (see `perCPUPhysical`).
  public static let perCPUStride: UInt64 = 0xc000
  /// Alignment of the first one.
  public static let perCPUAlignment: UInt64 = 0x4000
  /// Offsets of the pages of a per-CPU area that are not mapped, in the linear map neither: below each of its stacks.
  public static var perCPUGuards: InlineArray<3, UInt64> { [0x1000, 0x4000, 0x8000] }
  /// Bytes from `freeMemoryStart` on whose pages the monitor has made beforehand, all at once, where there is as much RAM: a page that
  /// the guest is the first to touch costs an exit, and KVM maps neighbours that exist together. The kernel uses this memory first.
  public static let preparedByteCount: UInt64 = 112 << 12

  /// Always `magicValue`.
  public var magic: UInt64 = BootInformation.magicValue
  /// Always `currentVersion` of the build.
  public var version: UInt32 = BootInformation.currentVersion
  /// Bytes of this head and of everything behind it.
  public var byteCount: UInt32 = 0
  /// Which KVM this is: a `BootPlatform`.
  public var platform: UInt32 = 0
  /// vCPUs, 1 to 64. CPU 0 starts at the kernel's entry; the others at its second entry, by themselves.
  public var cpuCount: UInt32 = 0

  /// Virtual address at which physical address 0 appears (the linear map, 2 MiB pages, not executable).
  public var linearMapBase: UInt64 = 0
  /// Where the kernel image lies: virtual and physical address of its first byte, and its size in memory.
  public var kernelVirtual: UInt64 = 0
  /// Physical address of the kernel image's first byte.
  public var kernelPhysical: UInt64 = 0
  /// The kernel image's size in memory (bytes, BSS included).
  public var kernelByteCount: UInt64 = 0
  /// Physical address of the first page-table root (what CR3 holds at entry).
  public var pageTableRoot: UInt64 = 0
  /// First physical byte above all that osv-run has laid down (image, tables, this page): RAM from here to
  /// `memoryByteCount` is free and zero.
  public var freeMemoryStart: UInt64 = 0
  /// Bytes of RAM, from physical address 0, that are there at entry (the first memory slot).
  public var memoryByteCount: UInt64 = 0
  /// Bytes of RAM that will be there once the monitor's second thread has added the other slots; the linear
  /// map covers them already. The monitor stores the current number in the clock page (`ClockPage`).
  public var memoryByteCountFinal: UInt64 = 0
  /// Physical address of CPU 0's per-CPU area, 16 KiB aligned; CPU i's is `i * perCPUStride` higher. Its first
  /// page is the CPU's interrupt-flag record where the platform has one; it ends with the CPU's IST stacks.
  public var perCPUPhysical: UInt64 = 0
  /// Physical address of the clock page (`ClockPage`), which osv-run may rewrite at any time.
  public var clockPhysical: UInt64 = 0
  /// Physical address of the GDT page osv-run made; the TSS of CPU i lies at `tssPhysical + i * 128`.
  public var gdtPhysical: UInt64 = 0
  /// Physical address of CPU 0's TSS; the kernel writes the IST entries itself.
  public var tssPhysical: UInt64 = 0
  /// Physical address of the IDT page (IDTR points to it; the kernel fills it in before anything can trap).
  public var idtPhysical: UInt64 = 0

  /// 256 random bits for address randomisation, hash keys and the kernel's generator.
  public var seed0: UInt64 = 0
  /// Second quarter of the seed.
  public var seed1: UInt64 = 0
  /// Third quarter of the seed.
  public var seed2: UInt64 = 0
  /// Fourth quarter of the seed.
  public var seed3: UInt64 = 0

  /// Extended state components a program may use (XCR0), and the bytes XSAVE needs for them.
  public var extendedStateMask: UInt64 = 0
  /// Bytes of the (uncompacted) XSAVE area for `extendedStateMask`, 576 or more; 0 where the CPU has only FXSAVE.
  public var extendedStateByteCount: UInt32 = 0
  /// A `BootCPUFeatures` bit set.
  public var cpuFeatures: UInt32 = 0

  /// A `BootFlags` bit set.
  public var flags: UInt32 = 0
  /// A `BootLog` bit set: what the kernel reports on stderr.
  public var log: UInt32 = 0
  /// Terminal size for standard streams that are terminals.
  public var terminalColumns: UInt16 = 0
  /// Terminal rows, likewise.
  public var terminalRows: UInt16 = 0
  /// The program's file-mode creation mask, as the caller of osv-run had it.
  public var umask: UInt32 = 0o022

  /// argv: offset of `argumentCount` NUL-terminated strings, one behind the other.
  public var argumentsOffset: UInt32 = 0
  /// How many arguments, 1 or more; argument 0 is the program's name.
  public var argumentCount: UInt32 = 0
  /// environ, likewise.
  public var environmentOffset: UInt32 = 0
  /// How many environment strings.
  public var environmentCount: UInt32 = 0
  /// The program's absolute path in the guest (NUL-terminated), 0 if the program is linked to the kernel.
  public var programOffset: UInt32 = 0
  /// The initial working directory in the guest (NUL-terminated), 0 for "/".
  public var workingDirectoryOffset: UInt32 = 0
  /// Host name (NUL-terminated).
  public var hostNameOffset: UInt32 = 0
  /// Table of `BootFile`.
  public var filesOffset: UInt32 = 0
  /// Entries in the table of files.
  public var fileCount: UInt32 = 0
  /// Table of `BootMount`, in the order to mount.
  public var mountsOffset: UInt32 = 0
  /// Entries in the table of mounts.
  public var mountCount: UInt32 = 0
  /// Table of `BootDevice`.
  public var devicesOffset: UInt32 = 0
  /// Entries in the table of devices.
  public var deviceCount: UInt32 = 0
  /// CPUID 1 EDX, as programs hear it in AT_HWCAP.
  public var hardwareCapabilities: UInt32 = 0
  /// Table of `BootNetwork`, in the order of the interfaces: eth0, eth1…
  public var networksOffset: UInt32 = 0
  /// Entries in the table of network interfaces; 0 where the VM has no network.
  public var networkCount: UInt32 = 0

  /// Physical address of the local APIC's registers (xAPIC); 0: they are MSRs (x2APIC), as with osv-run.
  public var interruptControllerPhysical: UInt64 = 0
  /// Counts a second of the local APIC's timer, divided by 16; 0: it has TSC deadlines, as with osv-run.
  public var timerFrequency: UInt64 = 0
  /// I/O port of a serial line for what is said before there is a console, and in emergencies; 0: there is none.
  public var serialPort: UInt32 = 0
  /// I/O port to write `powerOffValue` to (16 bits) to turn the machine off; 0: it cannot be.
  public var powerOffPort: UInt32 = 0
  /// What to write there.
  public var powerOffValue: UInt32 = 0
  /// Keeps the head a multiple of 8 bytes.
  public var reserved: UInt32 = 0

  /// A head with everything zero but magic and version.
  public init() {}
}

/// Which KVM the guest runs on.
public enum BootPlatform {
  /// Intel or AMD virtualisation: the architecture's own instructions.
  public static let hardware: UInt32 = 0
  /// The software-virtualised kvm_pvm, native mode on (interrupt-flag record, `int $0x1b` hypercalls, U=1 in page tables).
  public static let softwarePVM: UInt32 = 1
}

/// `BootInformation.cpuFeatures`.
public enum BootCPUFeatures {
  /// XSAVE and XRSTOR are enabled (CR4.OSXSAVE).
  public static let xsave: UInt32 = 1 << 0
  /// XSAVEOPT exists.
  public static let xsaveopt: UInt32 = 1 << 1
  /// RDFSBASE and its kin are enabled; the kernel needs them.
  public static let fsgsbase: UInt32 = 1 << 2
  /// RDRAND exists.
  public static let rdrand: UInt32 = 1 << 3
  /// The local APIC has the TSC-deadline timer; the kernel needs it.
  public static let tscDeadline: UInt32 = 1 << 4
  /// 1 GiB pages may be used.
  public static let gigabytePages: UInt32 = 1 << 5
  /// XGETBV tells which extended state is in use (ECX = 1).
  public static let stateInUse: UInt32 = 1 << 6
  /// AVX-512 (F and BW), with its registers in the extended state.
  public static let avx512: UInt32 = 1 << 7
}

/// `BootInformation.flags`.
public enum BootFlags {
  /// Standard input is a terminal (bits 1 and 2: standard output and error).
  public static let inputIsTerminal: UInt32 = 1 << 0
  /// Standard output is a terminal.
  public static let outputIsTerminal: UInt32 = 1 << 1
  /// Standard error is a terminal.
  public static let errorIsTerminal: UInt32 = 1 << 2
  /// Standard input was closed or is /dev/null: reads give end of file without asking the monitor.
  public static let inputIsEmpty: UInt32 = 1 << 3
  /// Run the kernel's self-test instead of a program.
  public static let selfTest: UInt32 = 1 << 4
  /// Debug allocator: poison freed memory, guard pages.
  public static let debugMemory: UInt32 = 1 << 5
  /// System calls of programs stay traps: their code is not changed.
  public static let noRewrite: UInt32 = 1 << 6
  /// What is typed on the terminal comes by the console's port 1: standard input is something else.
  public static let terminalInput: UInt32 = 1 << 7
  /// The caller has closed standard input (bits 9 and 10: standard output and error): the program shall not have it.
  public static let inputIsClosed: UInt32 = 1 << 8
  /// The monitor is another one than osv-run: there is no monitor port, and devices know nothing of our extensions.
  public static let foreignMonitor: UInt32 = 1 << 11
  /// Free memory is not zero: somebody may have been there before.
  public static let memoryIsUsed: UInt32 = 1 << 12
}

/// `BootInformation.log`: what `--log` and `--trace` turn on.
public enum BootLog {
  /// A line a system call.
  public static let systemCalls: UInt32 = 1 << 0
  /// Where the kernel's start spends its time.
  public static let boot: UInt32 = 1 << 1
  /// Page faults.
  public static let faults: UInt32 = 1 << 2
  /// Signals.
  public static let signals: UInt32 = 1 << 3
  /// What became of each site of a system call in the program's code.
  public static let rewrite: UInt32 = 1 << 4
}

/// A file that lies in guest memory, in whole pages: it appears in the initial RAM file system at `pathOffset`.
public struct BootFile {
  /// Offset of its absolute path (NUL-terminated); missing directories on the way are made.
  public var pathOffset: UInt32 = 0
  /// Its type and permission bits, as in `st_mode`: a regular file, a directory or a symbolic link (whose content is the target).
  public var mode: UInt32 = 0
  /// Physical address of its first byte, page-aligned, outside RAM that the kernel may allocate. Never written by the kernel.
  public var physical: UInt64 = 0
  /// Its size in bytes.
  public var byteCount: UInt64 = 0
  /// Modification time, seconds since the epoch.
  public var modificationTime: UInt64 = 0
  /// An empty entry.
  public init() {}
}

/// A file system to be mounted: a directory of the host that is attached by virtio-fs, or an empty one in the guest's memory.
public struct BootMount {
  /// Offset of the mount point's absolute path (NUL-terminated).
  public var pathOffset: UInt32 = 0
  /// Index into the table of devices.
  public var deviceIndex: UInt32 = 0
  /// `Flag` bits.
  public var flags: UInt32 = 0
  /// What a file system in memory may hold, in MiB; 0: half of the guest's memory.
  public var mebibyteLimit: UInt32 = 0
  /// An empty entry.
  public init() {}

  /// Bits of `flags`.
  public enum Flag {
    /// Read-only.
    public static let readOnly: UInt32 = 1
    /// It is in the guest's memory, and there is no device.
    public static let memory: UInt32 = 2
  }
}

/// A virtio-pci device that osv-run has placed and described; the kernel reads no configuration space.
///
/// Offsets are within the device's memory BAR at `barPhysical`: the common configuration, the notification area, the
/// interrupt status and the device configuration (virtio 1.2, 4.1.4). MSI-X is enabled and its table programmed:
/// queue i interrupts with vector `firstVector + i`, MSI-X entry i, on CPU 0 (which is there from the first instruction on; the
/// others come later, and an interrupt for an absent CPU would be lost; queues of a network device's further pairs, of which none is used
/// before the driver asks, interrupt the CPU of the pair's number); the kernel must not program `queue_msix_vector` nor
/// `config_msix_vector` (they are preset: queue i has entry i; configuration changes have the entry after the last queue's and
/// the vector `firstVector + queueCount`).
///
/// A driver need not write the common configuration register by register, each an exit of 25 us on kvm_pvm: it fills the
/// device's `BootDeviceSetup` and writes DRIVER_OK to `device_status` without having written anything there before. The monitor
/// then does what the registers would have done, and that one write is the only exit. (Coalesced MMIO is no way out: a VM
/// that registered a zone takes 13 ms longer to close.)
public struct BootDevice {
  /// Virtio device id (virtio 1.2, 5): 1 network, 3 console, 4 entropy, 26 file system…
  public var deviceID: UInt32 = 0
  /// Queues the device has, 1 to `BootDeviceSetup.maximumQueueCount`.
  public var queueCount: UInt32 = 0
  /// Physical address of the BAR (not RAM; the kernel maps it uncached or writes through the linear map's device window).
  public var barPhysical: UInt64 = 0
  /// Bytes of the BAR.
  public var barByteCount: UInt64 = 0
  /// Features the device offers; the driver writes the ones it takes as usual.
  public var features: UInt64 = 0
  /// Physical address of the device's `BootDeviceSetup`, in RAM below `freeMemoryStart`, zero at the start. 0: there is none, the
  /// driver writes the registers, those of the vectors too (queue i has entry i, configuration changes the one behind them).
  public var setupPhysical: UInt64 = 0
  /// Offset of `virtio_pci_common_cfg` in the BAR.
  public var commonOffset: UInt32 = 0
  /// Offset of the notification area.
  public var notifyOffset: UInt32 = 0
  /// Bytes between the notification addresses of two queues.
  public var notifyMultiplier: UInt32 = 0
  /// Offset of the device configuration.
  public var configurationOffset: UInt32 = 0
  /// First interrupt vector of its queues.
  public var firstVector: UInt32 = 0
  /// Largest size of a queue (a power of two).
  public var queueSize: UInt32 = 0
  /// How many vectors it has: one for each queue and one more, as with osv-run, or 2: one for all queues, one for configuration changes.
  public var vectorCount: UInt32 = 0
  /// Keeps the entry a multiple of 8 bytes.
  public var reserved: UInt32 = 0
  /// A copy of the first 64 bytes of the device's configuration as it was at start.
  public var configuration: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0, 0, 0, 0)
  /// An empty entry.
  public init() {}

  /// Whether all queues have the first vector.
  @inlinable public var sharesVector: Bool { vectorCount <= queueCount }
  /// The MSI-X entry of a queue; that of configuration changes is the last one.
  @inlinable public func entry(ofQueue index: UInt32) -> UInt32 { sharesVector ? 0 : index }
}

/// How a driver wants its device, written by the driver into RAM before it sets DRIVER_OK.
public struct BootDeviceSetup {
  /// One queue.
  public struct Queue {
    /// Physical address of the descriptor table.
    public var descriptors: UInt64 = 0
    /// Physical address of the available ring.
    public var available: UInt64 = 0
    /// Physical address of the used ring.
    public var used: UInt64 = 0
    /// Entries, a power of two up to `BootDevice.queueSize`; 0 leaves the queue off.
    public var size: UInt32 = 0
    /// Keeps the record a multiple of 8 bytes.
    public var reserved: UInt32 = 0
    /// A queue that stays off.
    public init() {}
  }

  /// The features the driver takes.
  public var features: UInt64 = 0
  /// Queues described below, at most `BootDevice.queueCount`.
  public var queueCount: UInt32 = 0
  /// The device's status after DRIVER_OK was written: set by the monitor before the write returns. Without DRIVER_OK in it
  /// the device has refused something.
  public var status: UInt32 = 0
  /// Queues that a device has at most: the pairs of a network device, and its control queue.
  public static let maximumQueueCount = 17
  /// The queues; only the first `queueCount` are looked at.
  public var queues: [17 of Queue] = .init(repeating: Queue())
  /// Nothing set.
  public init() {}
}

/// The clock page: how the TSC becomes time. Written by osv-run under `sequence` (odd while writing), read by the kernel and,
/// mapped read-only, by programs.
///
/// nanoseconds = baseNanoseconds + ((tsc - baseTSC) * multiplier) >> 32, where the product has 128 bits.
public struct ClockPage {
  /// Even when the page is consistent.
  public var sequence: UInt64 = 0
  /// TSC value at the base.
  public var baseTSC: UInt64 = 0
  /// CLOCK_MONOTONIC at the base, ns (0 at the VM's start).
  public var baseNanoseconds: UInt64 = 0
  /// CLOCK_REALTIME minus CLOCK_MONOTONIC, ns.
  public var realtimeOffset: UInt64 = 0
  /// Nanoseconds a TSC cycle, times 2^32.
  public var multiplier: UInt64 = 0
  /// TSC cycles a second.
  public var frequency: UInt64 = 0
  /// Bytes of RAM present now (grows while the monitor's second thread adds slots; release store).
  public var memoryByteCount: UInt64 = 0
  /// Events from the monitor, `EventBits` set by it and cleared by the kernel, announced by `BootVectors.monitor`.
  public var events: UInt64 = 0
  /// A zero page.
  public init() {}

  /// `events`: signals for the program, most of them.
  public enum EventBits {
    /// SIGINT.
    public static let interrupt: UInt64 = 1 << 0
    /// SIGTERM.
    public static let terminate: UInt64 = 1 << 1
    /// SIGHUP.
    public static let hangup: UInt64 = 1 << 2
    /// SIGQUIT.
    public static let quit: UInt64 = 1 << 3
    /// SIGWINCH: the terminal has another size.
    public static let windowChanged: UInt64 = 1 << 4
    /// SIGTSTP.
    public static let stop: UInt64 = 1 << 5
    /// SIGCONT: the monitor was stopped, and runs again.
    public static let resume: UInt64 = 1 << 6
    /// SIGTTIN: input is wanted from a terminal that another process group has.
    public static let backgroundRead: UInt64 = 1 << 7
    /// The balloon's driver shall start.
    public static let balloon: UInt64 = 1 << 8
    /// No event: set with each SIGINT, and taken away when a program takes one (by a handler, by waiting for it), not when it ignores it.
    public static let interruptUnheard: UInt64 = 1 << 9
  }
}

/// Interrupt vectors that both sides agree on.
public enum BootVectors {
  /// First vector for devices; osv-run gives them out upwards, up to `lastDevice`.
  public static let firstDevice: UInt32 = 0x30
  /// Last vector for devices.
  public static let lastDevice: UInt32 = 0xdf
  /// The local timer.
  public static let timer: UInt32 = 0xe0
  /// Wake-up by another CPU.
  public static let wake: UInt32 = 0xe1
  /// Remote call (TLB flush, stop).
  public static let call: UInt32 = 0xe2
  /// The monitor has set a bit in `ClockPage.events`.
  public static let monitor: UInt32 = 0xe3
  /// Spurious interrupts of the local APIC.
  public static let spurious: UInt32 = 0xff
}

/// The monitor port: 32-bit writes that always exit to osv-run. Dear (25 us on kvm_pvm), so used at the end and in emergencies only.
public enum BootPort {
  /// The program ended: the value is the wait status (exit code in bits 8-15, signal in bits 0-6).
  public static let exit: UInt16 = 0x4f0
  /// A kernel panic: the value is the physical address, divided by 16, of a NUL-terminated report that osv-run prints (symbolised); the VM ends with 125.
  public static let panic: UInt16 = 0x4f4
  /// Early text: the value is the physical address, divided by 16, of NUL-terminated text for stderr.
  public static let text: UInt16 = 0x4f8
  /// A boot phase is over (`--trace boot`): the value is its number; osv-run stamps it.
  public static let phase: UInt16 = 0x4fc
  /// The program cannot be started, and the VM ends with 125: the value is a `BootFailure`.
  public static let startFailed: UInt16 = 0x504
  /// The program has stopped by the signal whose number is the value; returns when it is continued.
  public static let stop: UInt16 = 0x500
  /// Under another monitor: QEMU's isa-debug-exit where it is usually put; QEMU then ends with the status `value * 2 + 1`. Where there is none,
  /// nobody listens.
  public static let debugExit: UInt16 = 0xf4
}

/// Why the kernel could not start the program, as it tells osv-run: which step failed, on which thing, with which Linux error.
public struct BootFailure: Equatable, Sendable {
  /// What the kernel was at.
  public enum Step: UInt32, Sendable {
    /// Anything else that comes before the program: devices, CPUs.
    case machine = 0
    /// Making the root, /dev, /proc and /tmp.
    case root = 1
    /// Attaching a directory: `index` counts the mounts of the boot information.
    case volume = 2
    /// Entering the working directory.
    case workingDirectory = 3
    /// Finding and mapping the program.
    case program = 4
    /// Finding and mapping the interpreter that it names.
    case interpreter = 5
  }

  /// The step.
  public var step: Step
  /// Which of several.
  public var index: UInt32
  /// Linux's error number.
  public var code: UInt32

  /// A failure; `index` and `code` are cut to what the value has room for.
  public init(step: Step, index: UInt32 = 0, code: UInt32) {
    self.step = step
    self.index = index & 0xff
    self.code = code & 0xffff
  }

  /// From the value written to the port; nil if it names no step.
  public init?(_ value: UInt32) {
    guard let step = Step(rawValue: value >> 24) else { return nil }
    self.init(step: step, index: value >> 16, code: value)
  }

  /// The value for the port.
  public var value: UInt32 { step.rawValue << 24 | index << 16 | code }
}
