// A machine: made from its configuration, then run until its program ends.
//
// The main thread is CPU 0. What the first instructions do not need (memory beyond the first slot, further CPUs)
// is added by a second thread while CPU 0 runs. Ending is one call, `end`, from whichever thread finds the reason;
// nothing is closed by hand, for the process's end does it sooner.

import CKVM
import GuestImage
import Jail
import KVM
import Synchronization
import VirtioABI
import VirtioNet

#if canImport(Glibc)
  import Glibc
#endif

/// What to make and run.
public struct MachineConfiguration {
  /// Bytes of RAM.
  public var memoryByteCount: UInt64 = 128 << 20
  /// Bytes of it that the guest shall do without from the start.
  public var balloonByteCount: UInt64 = 0
  /// vCPUs, 1 to 64.
  public var cpuCount = 1
  /// The file descriptor of an OSv image to boot instead of the kernel inside osv-run.
  public var kernelDescriptor: CInt?
  /// Another kernel, which needs a machine of another kind (`PCMachine`).
  public var otherKernel: ForeignKernel?
  /// argv, environ, paths. Devices and files are filled in by the machine.
  public var content = BootContent()
  /// Files for the guest's RAM file system.
  public var files: [GuestFile] = []
  /// `BootFlags` asked for by options; those of the standard streams are added.
  public var flags: UInt32 = 0
  /// `BootLog`.
  public var log: UInt32 = 0
  /// Print the start's timeline on stderr at the end.
  public var tracesBoot = false
  /// Microseconds to wait before what may be late is added: memory behind the first slot, further CPUs.
  public var completionDelay: UInt32 = 0
  /// Directories to attach, "/" first if it is among them.
  public var shares: [SharedDirectory] = []
  /// Empty file systems in the guest's memory.
  public var memoryMounts: [BootContent.Mount] = []
  /// Give up privileges before the guest runs.
  public var isJailed = true
  /// How to tell the end.
  public var status = StatusReport(descriptor: nil)
  /// A listening socket for commands to the running machine.
  public var controlDescriptor: CInt?
  /// Network interfaces: eth0, eth1…
  public var networks: [NetworkInterface] = []
  /// Where their frames are recorded.
  public var captureDescriptor: CInt?
  /// Where statistics go at the end.
  public var statisticsDescriptor: CInt?
  /// The bit of `flags` that asks for the kernel's self-test.
  public static let selfTestFlag = BootFlags.selfTest

  /// A small machine with nothing in it.
  public init() {}
}

extension MachineConfiguration {
  /// The ioctl requests of the running machine.
  var requests: [UInt32] { MachineDevices.requests + (networks.isEmpty ? [] : TAPBackend.requests) }

  /// Waits until the programs behind the network interfaces serve.
  func waitForNetworks() throws(Failure) {
    for network in networks { try network.passt?.waitUntilReady() }
  }

  /// Ends them.
  func finishNetworks() {
    for network in networks { network.passt?.finish() }
  }

  /// Gives up what the running machine does not need, on the main thread, before there are others.
  func enterJail() throws(Failure) {
    do throws(JailError) {
      try Jail.enter(
        directories: shares.map(\.descriptor), writable: shares.filter { !$0.readOnly }.map(\.descriptor),
        requests: requests, listener: controlDescriptor, sockets: networks.compactMap(\.socket))
    } catch { throw Failure(.jail, "\(error.step) failed: \(StandardStreams.message(error.code))") }
  }
}

/// A directory of the host that the guest sees.
public struct SharedDirectory {
  /// How long the guest believes what it has seen of a directory.
  public enum Cache: Equatable, Sendable {
    /// Never: every use asks.
    case none
    /// A second: changes made on the host are seen by then.
    case automatic
    /// For ever: nobody else changes the directory.
    case always
  }

  /// An open descriptor of it (O_PATH will do), owned by the machine from then on.
  public var descriptor: CInt
  /// The absolute path in the guest.
  public var guest: [UInt8]
  /// Whether the guest may only read.
  public var readOnly: Bool
  /// How long the guest may believe what it has seen.
  public var cache: Cache

  /// A directory with all its fields.
  public init(descriptor: CInt, guest: [UInt8], readOnly: Bool, cache: Cache = .automatic) {
    self.descriptor = descriptor
    self.guest = guest
    self.readOnly = readOnly
    self.cache = cache
  }
}

// SAFETY: complete before a second thread starts; what changes from then on is guarded by `ending`, or each CPU's own
// (`exits`), or has locks.
/// A virtual machine with its memory, CPUs and devices.
public final class Machine: @unchecked Sendable {
  /// The first memory slot is at most this large: slots cost time by size, and the rest can come later.
  static let firstSlotByteCount: UInt64 = 128 << 20
  /// Numbers of the memory slots: the first part of RAM, the files, and from `laterSlots` on the rest of RAM.
  static let ramSlot: UInt32 = 0
  static let filesSlot: UInt32 = 1
  static let laterSlots: UInt32 = 2

  let configuration: MachineConfiguration
  let vm: VirtualMachine
  let memory: GuestMemory
  let kernel: KernelImage
  let layout: GuestLayout
  let platform: Platform
  let cpuid: CPUIDTable
  let boot: VCPU
  let files: FilesWindow
  let devices: MachineDevices
  let firstSlot: UInt64
  private let bootInformation: UInt64
  /// Held for ever by the thread that ends the process, and by whoever writes the account of the start that goes with the end.
  let ending = Mutex(())
  /// Guarded by `ending` once the guest runs, as is `stampedPhases`.
  var timeline: Timeline
  /// A bit for each phase of the start that the guest has said is over.
  var stampedPhases: UInt64 = 0
  /// Exits by CPU; each CPU's thread writes its own.
  // SAFETY: `cpuCount` records for the life of the process.
  let exits: UnsafeMutablePointer<ExitCounts>
  /// Pages of RAM that existed when the guest started; counted only for statistics.
  var pagesAtEntry = 0
  /// The process's mask for new files when it began: the guest's. Sharing a directory for writing takes the process's own away.
  let fileCreationMask: UInt32
  /// The same when the program had been loaded; nil unless `--trace boot` stamps the phases.
  var pagesAtProgram: Int?
  /// /proc/self/statm, opened only for statistics.
  var memoryAccount: CInt = -1

  /// How long KVM may poll for what wakes a halted vCPU, before it sleeps.
  private static let haltPolling: UInt64 = 200_000

  /// Makes the machine; nothing of the guest has run when it returns.
  public init(_ configuration: MachineConfiguration, timeline: Timeline = Timeline()) throws(Failure) {
    self.configuration = configuration
    self.timeline = timeline
    fileCreationMask = StandardStreams.fileCreationMask
    self.timeline.mark("arguments read, files opened")
    exits = .allocate(capacity: configuration.cpuCount)
    exits.initialize(repeating: ExitCounts(), count: configuration.cpuCount)
    do throws(KVMError) { vm = try System().createVirtualMachine() } catch { throw Failure(error) }
    self.timeline.mark("VM created")
    do throws(KVMError) { try vm.enableSplitInterruptController(routes: 64) } catch { throw Failure(error) }
    // KVM adapts: a vCPU that is idle for long costs nothing for it. Where it cannot, the guest is slower to wake.
    if vm.check(capability: KVM_CAP_HALT_POLL) > 0 { try? vm.setHaltPolling(nanoseconds: Self.haltPolling) }
    guard vm.check(capability: KVM_CAP_TSC_DEADLINE_TIMER) > 0 else {
      throw Failure(
        .oldKVM, "this KVM lacks the TSC-deadline timer, which the guest's kernel needs: use a newer Linux kernel")
    }
    memory = try GuestMemory(byteCount: configuration.memoryByteCount)
    firstSlot = min(memory.ram[0].byteCount, Self.firstSlotByteCount)
    files = try FilesWindow(configuration.files)
    do throws(KVMError) {
      try vm.setMemory(slot: Self.ramSlot, physical: 0, host: memory.ram[0].host, byteCount: firstSlot)
      if let host = files.host {
        try vm.setMemory(
          slot: Self.filesSlot, physical: GuestMemory.filesStart, host: host, byteCount: files.byteCount, readOnly: true
        )
      }
    } catch { throw Failure(error) }
    self.timeline.mark("memory slots")
    do throws(KVMError) { boot = try vm.createVCPU(index: 0) } catch { throw Failure(error) }
    platform = Platform(boot)
    self.timeline.mark("vCPU created")

    kernel = try Self.kernelImage(configuration)
    let random = Self.random(count: 6)
    let allocator = BootAllocator(memory, limit: firstSlot)
    layout = try GuestLayout(
      memory: memory, allocator: allocator, kernel: kernel, cpuCount: configuration.cpuCount,
      filesByteCount: files.byteCount, random: (random[4], random[5]))
    self.timeline.mark("kernel and page tables laid down")
    cpuid = CPUIDTable(cpuCount: configuration.cpuCount)
    guard cpuid.hasFSGSBase else {
      throw Failure(.oldKVM, "this processor, or its KVM, lacks FSGSBASE, which the guest's kernel needs")
    }
    self.timeline.mark("CPUID read")
    devices = try MachineDevices(
      configuration: configuration, vm: vm, memory: memory, files: files, allocator: allocator)
    self.timeline.mark("devices made")

    var clock = ClockPage(vcpu: boot, platform: platform)
    clock.memoryByteCount = firstSlot
    if configuration.balloonByteCount > 0 { clock.events = ClockPage.EventBits.balloon }
    memory.pointer(at: layout.start.clock, count: GuestMemory.pageSize)!.storeBytes(of: clock, as: ClockPage.self)
    self.timeline.frequency = clock.frequency

    var head = BootInformation()
    head.platform = platform.bootValue
    head.cpuCount = UInt32(configuration.cpuCount)
    head.linearMapBase = layout.start.linearMapBase
    head.kernelVirtual = layout.start.kernelVirtual
    head.kernelPhysical = layout.kernelPhysical
    head.kernelByteCount = layout.kernelByteCount
    head.pageTableRoot = layout.start.pageTableRoot
    head.memoryByteCount = firstSlot
    head.memoryByteCountFinal = memory.byteCount
    head.perCPUPhysical = layout.start.perCPU
    head.clockPhysical = layout.start.clock
    head.gdtPhysical = layout.start.gdt
    head.tssPhysical = layout.start.tss
    head.idtPhysical = layout.start.idt
    (head.seed0, head.seed1, head.seed2, head.seed3) = (random[0], random[1], random[2], random[3])
    head.extendedStateMask = cpuid.extendedStateMask
    head.extendedStateByteCount = cpuid.extendedStateByteCount
    head.cpuFeatures = cpuid.bootFeatures
    head.hardwareCapabilities = cpuid.hardwareCapabilities
    head.flags = configuration.flags | StandardStreams.flags
    head.log = configuration.log
    (head.terminalColumns, head.terminalRows) = StandardStreams.terminalSize
    head.umask = fileCreationMask
    var content = configuration.content
    content.files = files.files
    content.devices = devices.board.descriptions
    content.mounts = Self.mounts(devices, configuration)
    content.networks = devices.networkDescriptions
    bootInformation = try Self.lay(content, head: head, allocator: allocator)
    memory.provide(allocator.end, count: BootInformation.preparedByteCount)
    self.timeline.mark("boot information laid down")
    do throws(KVMError) { try prepare(boot, entry: kernel.file.entry) } catch { throw Failure(error) }
    self.timeline.mark("registers set")
  }

  /// What the guest mounts: what lies within another comes after it.
  static func mounts(_ devices: MachineDevices, _ configuration: MachineConfiguration) -> [BootContent.Mount] {
    BootContent.Mount.outerFirst(devices.mounts + configuration.memoryMounts, path: \.path)
  }

  /// Sets the registers of `vcpu` to start at `entry`, an offset in the kernel image.
  func prepare(_ vcpu: VCPU, entry: UInt64) throws(KVMError) {
    try vcpu.prepare(
      layout: layout, platform: platform, cpuid: cpuid, cpuCount: configuration.cpuCount,
      entry: layout.start.kernelVirtual + entry, boot: layout.start.linear(bootInformation),
      systemCall: layout.start.kernelVirtual + kernel.systemCallEntry)
  }

  /// Lays the boot information down behind everything else and returns its physical address.
  private static func lay(
    _ content: BootContent, head: BootInformation, allocator: BootAllocator
  ) throws(Failure) -> UInt64 {
    var head = head
    // The size does not depend on the head's values, so one pass tells where free memory will start.
    let byteCount = content.encode(head: head).count
    let place = try allocator.place(pages: (UInt64(byteCount) + GuestMemory.pageSize - 1) / GuestMemory.pageSize)
    head.freeMemoryStart = allocator.end
    let bytes = content.encode(head: head)
    bytes.withUnsafeBytes { place.host.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
    return place.physical
  }

  /// The kernel to boot: the one inside osv-run, or the image's own.
  private static func kernelImage(_ configuration: MachineConfiguration) throws(Failure) -> KernelImage {
    var bytes = UnsafeRawBufferPointer(start: osv_guest_image_base(), count: Int(osv_guest_image_size()))
    if let descriptor = configuration.kernelDescriptor { bytes = try HostFile.map(descriptor) }
    let file: ELFFile
    do throws(ELFFile.Defect) { file = try ELFFile(bytes) } catch {
      throw Failure(.kernelImage, "the kernel image cannot be read (\(error)): build it again")
    }
    return try KernelImage(file)
  }

  /// `count` random words of the host's generator.
  static func random(count: Int) -> [UInt64] {
    var generator = SystemRandomNumberGenerator()
    return (0..<count).map { _ in generator.next() }
  }
}

extension CPUIDTable {
  /// What the boot information says about the processor.
  var bootFeatures: UInt32 {
    var bits = BootCPUFeatures.tscDeadline
    if extendedStateMask != 0 { bits |= BootCPUFeatures.xsave }
    if hasXSAVEOPT { bits |= BootCPUFeatures.xsaveopt }
    if hasStateInUse { bits |= BootCPUFeatures.stateInUse }
    if hasAVX512 { bits |= BootCPUFeatures.avx512 }
    if hasFSGSBase { bits |= BootCPUFeatures.fsgsbase }
    if hasRDRAND { bits |= BootCPUFeatures.rdrand }
    return bits
  }
}
