// The kernel's own start under a monitor other than osv-run: what osv-run would have found out and laid down, found out and laid down here.
//
// A monitor that starts kernels by PVH (QEMU -kernel) loads the image and enters it in 32-bit mode (Boot/pvh.S), which makes an identity
// map of 4 GiB and calls here. Everything is worked out over `BareMachine`, so that unit tests can play the machine; what is left of the
// CPU's state is set in BootstrapEntry.swift. There is no heap and no kernel yet: nothing here allocates, and nothing keeps a static
// variable. One CPU is started; the others, if there are any, are left asleep.
import Base
import VirtioABI

/// The kernel's image, as the linker laid it out.
struct ImageDescription {
  /// A piece of one protection, whole pages.
  struct Segment {
    var offset: UInt64 = 0
    var byteCount: UInt64 = 0
    var access = StartAccess.readOnly
  }

  /// Where it lies.
  var place = StartInfo.Piece()
  var segments: [4 of Segment] = .init(repeating: Segment())
  /// Whether a program is linked to it.
  var hasProgram = false
}

/// What the CPU enters the kernel with.
struct BootstrapResult {
  var layout: StartLayout<Arena>
  var features: ProcessorFeatures
  /// Physical address of the boot information.
  var information: UInt64
}

enum Bootstrap {
  /// Does all that memory, devices and the command line need.
  static func run(
    _ machine: some BareMachine, startInfo: UInt64, image: ImageDescription, controller: UInt64,
    serialPort: UInt32
  ) throws(BootstrapFailure) -> BootstrapResult {
    guard controller < 1 &<< 32 else { throw BootstrapFailure("the local APIC lies above 4 GiB") }
    let start = try StartInfo(machine, at: startInfo, image: image.place)
    let features = try ProcessorFeatures(machine)
    quiet(machine, controller)
    let calibration = try Calibration(machine, controller: controller)
    let free = try start.free(behind: image.place)
    guard let memory = machine.memory(free.start, count: free.byteCount) else {
      throw BootstrapFailure("memory is not where the monitor says it is")
    }
    var seed = Seed(machine)
    var layout = try StartLayout(
      memory: Arena(free, at: memory), cpuCount: 1, random: (seed.next(machine), seed.next(machine)))
    try layout.mapLinear(0, byteCount: free.end, .write)
    // Beyond all RAM: the kernel finds the controller in the linear map.
    if !features.hasX2APIC {
      guard controller >= free.end else { throw BootstrapFailure("the local APIC lies within memory") }
      try layout.tables.map(layout.linear(controller), to: controller, byteCount: 4096, .write.union(.uncached))
    }
    for index in 0..<4 where image.segments[index].byteCount > 0 {
      let segment = image.segments[index]
      try layout.mapKernel(
        segment.offset, byteCount: segment.byteCount, kernelPhysical: image.place.start, segment.access)
    }
    try layout.protectStacks()

    var clock = ClockPage()
    clock.baseTSC = machine.timeStamp()
    clock.realtimeOffset = ClockChip.seconds(machine) &* 1_000_000_000
    clock.frequency = calibration.timeStampFrequency
    clock.multiplier = (1_000_000_000 &<< 32) / calibration.timeStampFrequency
    clock.memoryByteCount = free.end
    layout.tables.memory.pointer(layout.clock).storeBytes(of: clock, as: ClockPage.self)

    var head = BootInformation()
    head.platform = BootPlatform.hardware
    head.cpuCount = 1
    head.linearMapBase = layout.linearMapBase
    head.kernelVirtual = layout.kernelVirtual
    head.kernelPhysical = image.place.start
    head.kernelByteCount = image.place.byteCount
    head.pageTableRoot = layout.pageTableRoot
    head.memoryByteCount = free.end
    head.memoryByteCountFinal = free.end
    head.perCPUPhysical = layout.perCPU
    head.clockPhysical = layout.clock
    head.gdtPhysical = layout.gdt
    head.tssPhysical = layout.tss
    head.idtPhysical = layout.idt
    (head.seed0, head.seed1) = (seed.next(machine), seed.next(machine))
    (head.seed2, head.seed3) = (seed.next(machine), seed.next(machine))
    head.extendedStateMask = features.stateMask
    head.extendedStateByteCount = features.stateByteCount
    head.cpuFeatures = features.bits
    head.hardwareCapabilities = features.hardwareCapabilities
    head.flags = BootFlags.foreignMonitor | BootFlags.memoryIsUsed
    if !features.hasX2APIC { head.interruptControllerPhysical = controller }
    if features.bits & BootCPUFeatures.tscDeadline == 0 { head.timerFrequency = calibration.timerFrequency }
    head.serialPort = serialPort
    let power = ACPIPower(machine, rootPointer: start.rootPointer)
    (head.powerOffPort, head.powerOffValue) = (power.port, power.value)
    let information = try describe(machine, start, head, image, &layout.tables.memory)
    return BootstrapResult(layout: layout, features: features, information: information)
  }

  /// Nobody interrupts: the two old controllers are masked, and the local one's pins, to which firmware leaves them joined.
  private static func quiet(_ machine: some BareMachine, _ controller: UInt64) {
    machine.writePort(0x21, count: 1, 0xff)
    machine.writePort(0xa1, count: 1, 0xff)
    machine.writeRegister(controller &+ Calibration.Register.linePin0, count: 4, 1 &<< 16)
    machine.writeRegister(controller &+ Calibration.Register.linePin1, count: 4, 1 &<< 16)
    machine.writeRegister(controller &+ Calibration.Register.spurious, count: 4, 0x100 | BootVectors.spurious)
  }

  /// Writes the boot information: devices, what the command line says, files.
  private static func describe(
    _ machine: some BareMachine, _ start: StartInfo, _ head: BootInformation, _ image: ImageDescription,
    _ arena: inout Arena
  ) throws(BootstrapFailure) -> UInt64 {
    // The line is taken apart in a copy: it may lie in the monitor's own memory.
    let copy = try arena.allocate(byteCount: start.commandLine.byteCount &+ 1)
    // SAFETY: so many bytes, and one for the NUL, were just given out for good.
    let text = arena.pointer(copy).assumingMemoryBound(to: UInt8.self)
    if let given = machine.memory(start.commandLine.start, count: start.commandLine.byteCount) {
      UnsafeMutableRawPointer(text).copyMemory(from: given, byteCount: start.commandLine.byteCount.int)
    }
    var line = CommandLine(text, count: start.commandLine.byteCount.int)
    let options = try CommandOptions(&line)
    let module = machine.memory(start.module.start, count: start.module.byteCount)
    let files = try RootFiles(module: UnsafeRawBufferPointer(start: module, count: start.module.byteCount.int))
    var room = Information.Room()
    (room.files, room.mounts) = (files.count, CommandOptions.limit)
    (room.devices, room.networks) = (PCIBus.limit, PCIBus.limit)
    room.strings = files.pathByteCount &+ 2 &* start.commandLine.byteCount.int &+ 1024
    var information = try Information(&arena, room, head: head)

    addDevices(machine, &information)
    try addNetworks(&information, options)
    try addMounts(&information, options)
    try addEnvironment(&information, options)
    let program = try addProgram(&information, &line, options, image, files)
    try files.add(to: &information, &arena, program: program)
    information.head.freeMemoryStart = arena.next
    information.finish()
    return information.physical
  }

  private static func addDevices(_ machine: some BareMachine, _ information: inout Information) {
    var vector = BootVectors.firstDevice
    var bus = PCIBus()
    while information.head.deviceCount < PCIBus.limit.u32, let place = bus.next(machine) {
      do throws(BootstrapFailure) {
        guard let device = try VirtioProbe.describe(machine, place, vector: vector) else { continue }
        // The balloon's driver knows osv-run's numbering of its queues.
        if device.deviceID == VirtioDeviceID.balloon { continue }
        vector &+= device.vectorCount
        information.add(device)
      } catch { machine.tell("a virtio device is left alone: ", error.reason) }
    }
  }

  /// Interfaces ask for addresses unless the command line has some for them.
  private static func addNetworks(_ information: inout Information, _ options: CommandOptions) throws(BootstrapFailure)
  {
    var number = 0
    for index in 0..<information.head.deviceCount where information.device(index).deviceID == VirtioDeviceID.network {
      let value = number < options.networkCount ? options.networks[number] : Word("dhcp")
      information.add(try BootNetwork(value, device: index))
      number &+= 1
    }
    guard number >= options.networkCount else { throw BootstrapFailure("there are more of --net than interfaces") }
  }

  /// File systems, those that lie within others behind them: by the number of "/" in their paths.
  private static func addMounts(_ information: inout Information, _ options: CommandOptions) throws(BootstrapFailure) {
    for depth in 0..<64 {
      for index in 0..<options.mountCount {
        let mount = options.mounts[index]
        guard min(Self.depth(mount.path), 63) == depth else { continue }
        var entry = BootMount()
        entry.pathOffset = try information.add(mount.path)
        if mount.isReadOnly { entry.flags |= BootMount.Flag.readOnly }
        if mount.tag.count == 0 {
          entry.flags |= BootMount.Flag.memory
          entry.mebibyteLimit = mount.mebibyteLimit
        } else {
          entry.deviceIndex = try fileSystem(mount.tag, information)
        }
        information.add(entry)
      }
    }
  }

  private static func depth(_ path: Word) -> Int {
    var count = 0
    for index in 0..<path.count where path[index] == 0x2f && index &+ 1 < path.count { count &+= 1 }
    return count
  }

  /// The virtio-fs device with a tag (36 bytes at the start of its configuration, filled up with NULs; virtio 1.2, 5.11.4).
  private static func fileSystem(_ tag: Word, _ information: Information) throws(BootstrapFailure) -> UInt32 {
    for index in 0..<information.head.deviceCount {
      let device = information.device(index)
      guard device.deviceID == VirtioDeviceID.fileSystem, tag.count <= 36 else { continue }
      let isTag = withUnsafeBytes(of: device.configuration) { bytes in
        for at in 0..<36 where bytes[at] != (at < tag.count ? tag[at] : 0) { return false }
        return true
      }
      if isTag { return index }
    }
    throw BootstrapFailure("the machine has no virtio-fs device with the tag that --root or --volume names")
  }

  /// PATH and HOME, unless given, and what was given.
  private static func addEnvironment(_ information: inout Information, _ options: CommandOptions)
    throws(BootstrapFailure)
  {
    information.head.environmentOffset = information.nextOffset
    var (hasPath, hasHome) = (false, false)
    for index in 0..<options.environmentCount {
      hasPath = hasPath || options.environment[index].begins(with: "PATH=")
      hasHome = hasHome || options.environment[index].begins(with: "HOME=")
    }
    if !hasPath { _ = try information.add("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") }
    if !hasHome { _ = try information.add("HOME=/") }
    for index in 0..<options.environmentCount { _ = try information.add(options.environment[index]) }
    information.head.environmentCount =
      (options.environmentCount &+ (hasPath ? 0 : 1) &+ (hasHome ? 0 : 1)).u32
  }

  /// Arguments, the program's path, the working directory, the host's name.
  /// - Returns: the program's path without the first "/".
  private static func addProgram(
    _ information: inout Information, _ line: inout CommandLine, _ options: CommandOptions, _ image: ImageDescription,
    _ files: RootFiles
  ) throws(BootstrapFailure) -> Word {
    information.head.flags |= options.flags
    information.head.log = options.log
    // A program that is linked to the kernel has no path, and the kernel's test is none.
    let isNamed = !image.hasProgram && options.flags & BootFlags.selfTest == 0
    information.head.argumentsOffset = information.nextOffset
    var program = Word("image")
    if isNamed {
      guard let given = line.word() else {
        throw BootstrapFailure("the command line names no program: give its path in the guest (QEMU: -append)")
      }
      program = given
    }
    _ = try information.add(program)
    information.head.argumentCount = 1
    while let argument = line.word() {
      _ = try information.add(argument)
      information.head.argumentCount &+= 1
    }
    if let directory = options.workingDirectory {
      information.head.workingDirectoryOffset = try information.add(directory)
    }
    information.head.hostNameOffset = try information.add(options.hostName ?? Word("osv"))
    // A program that is the module itself lies at the root, whatever its path was elsewhere.
    if files.isProgram, let slash = program.last(0x2f) { program = program.slice(slash &+ 1, program.count) }
    while program.count > 0 && program[0] == 0x2f { program = program.slice(1, program.count) }
    guard program.count > 0 else { throw BootstrapFailure("the program's path has no name in it") }
    if isNamed { information.head.programOffset = try information.add(program, prefix: "/") }
    return program
  }
}

/// Random words: the processor's own where it has them, and the counter's low bits between reads of the clock chip, mixed (splitmix64).
private struct Seed {
  private var state: UInt64

  init(_ machine: some BareMachine) { state = machine.timeStamp() ^ ClockChip.seconds(machine) }

  mutating func next(_ machine: some BareMachine) -> UInt64 {
    for _ in 0..<16 {
      machine.writePort(0x70, count: 1, 0)
      _ = machine.readPort(0x71, count: 1)
      state = (state &<< 7 | state &>> 57) ^ machine.timeStamp()
    }
    state = state &+ 0x9e37_79b9_7f4a_7c15 ^ (machine.random() ?? 0)
    var mixed = (state ^ state &>> 30) &* 0xbf58_476d_1ce4_e5b9
    mixed = (mixed ^ mixed &>> 27) &* 0x94d0_49bb_1331_11eb
    return mixed ^ mixed &>> 31
  }
}
