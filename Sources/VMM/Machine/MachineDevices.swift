// The devices of a machine: made here, put on the board, joined to KVM's interrupts.
//
// Console, entropy and balloon always; one file system for each shared directory, and the network interfaces that were asked for.

import CSystemCalls
import KVM
import VirtioABI
import VirtioBalloon
import VirtioConsole
import VirtioEntropy
import VirtioFileSystem
import VirtioNet
import VirtioPCI
import VirtioQueue

#if canImport(Glibc)
  import Glibc
#endif

extension PCIFunction: BoardDevice {
  func readRegister(_ offset: UInt64, byteCount: Int) -> UInt64 { readBAR(at: offset, count: byteCount) }

  func writeRegister(_ offset: UInt64, _ value: UInt64, byteCount: Int) {
    writeBAR(at: offset, count: byteCount, value)
  }
}

extension VirtualMachine {
  /// Delivers a device's message. One that cannot be delivered is lost, as on a bus; the machine is ending then.
  func deliver(_ message: MSIMessage) {
    try? signal(
      InterruptMessage(
        addressLow: UInt32(truncatingIfNeeded: message.address),
        addressHigh: UInt32(truncatingIfNeeded: message.address >> 32), data: message.data))
  }
}

/// What a machine attaches to its board.
struct MachineDevices {
  let board: DeviceBoard
  let console: VirtioConsole
  let balloon: VirtioBalloon
  /// For the boot information: which device serves which mount point.
  private(set) var mounts: [BootContent.Mount] = []
  /// For the boot information: the network interfaces.
  private(set) var networkDescriptions: [BootNetwork] = []
  /// The devices behind them.
  private(set) var networks: [VirtioNetwork] = []
  private let map = GuestMemoryMap()
  private let vm: VirtualMachine
  private let allocator: BootAllocator

  /// The ioctl requests of a running machine: KVM's, and the terminal's.
  static let requests = VirtualMachine.requestsWhileRunning + HostTerminal.Request.all

  /// Makes the devices and gives each its place; their set-up records come from `allocator`.
  init(
    configuration: MachineConfiguration, vm: VirtualMachine, memory: GuestMemory, files: FilesWindow,
    allocator: BootAllocator
  ) throws(Failure) {
    self.vm = vm
    self.allocator = allocator
    board = DeviceBoard(memory: memory)
    balloon = VirtioBalloon(memory: map)
    for region in memory.ram {
      map.add(start: GuestAddress(region.physical), byteCount: region.byteCount, host: region.host)
    }
    if let host = files.host {
      map.add(start: GuestAddress(GuestMemory.filesStart), byteCount: files.byteCount, host: host, isWritable: false)
    }

    var streams = VirtioConsole.Configuration()
    let size = StandardStreams.terminalSize
    streams.terminal = HostTerminal.shared
    streams.isInputTerminal = isatty(0) == 1
    streams.terminalInput = StandardStreams.terminalInput
    if size.0 > 0 { streams.size = (columns: size.0, rows: size.1) }
    let requests = configuration.requests
    let isJailed = configuration.isJailed
    streams.startThread = { body in
      Thread.start("console") {
        if isJailed { Thread.restrict(.console, requests: requests) }
        body()
      }
    }
    do throws(VirtioConsole.OpenFailure) { console = try VirtioConsole(streams) } catch {
      throw Failure(.file, "the console needs a file descriptor (\(StandardStreams.message(error.code)))")
    }
    try add(console)
    try add(VirtioEntropy())
    // Before the boot information is written, which says what is wanted from the start.
    balloon.setWanted(byteCount: configuration.balloonByteCount)
    try add(balloon)
    let cpuQueues = min(configuration.cpuCount, 8)
    let budget = Self.budget(for: configuration, queues: cpuQueues)
    for (index, share) in configuration.shares.enumerated() {
      let server = try Self.server(share, budget)
      mounts.append(
        BootContent.Mount(path: share.guest, deviceIndex: UInt32(board.slots.count), readOnly: share.readOnly))
      try add(
        VirtioFileSystemDevice(server: server, tag: "osv\(index)", requestQueues: cpuQueues))
    }
    if !configuration.networks.isEmpty { try addNetworks(configuration) }
  }

  /// The file server of a shared directory.
  static func server(_ share: SharedDirectory, _ budget: FUSEServer.Configuration) throws(Failure) -> FUSEServer {
    var choices = budget
    choices.isWritable = !share.readOnly
    switch share.cache {
    case .none: choices.cache = .none
    case .automatic: choices.cache = .automatic
    case .always: choices.cache = .always
    }
    do throws(FUSEServer.OpenFailure) {
      return try FUSEServer(path: "/proc/self/fd/\(share.descriptor)", configuration: choices)
    } catch {
      throw Failure(
        .directory,
        error.processDirectory && error.code == ENOENT
          ? "directories are shared through /proc/self/fd, which is not there: mount /proc"
          : "a directory cannot be shared (\(StandardStreams.message(error.code)))")
    }
  }

  /// How many descriptors each file server may keep, so that all of them and what is open already stay within what the
  /// process may have.
  static func budget(for configuration: MachineConfiguration, queues: Int) -> FUSEServer.Configuration {
    var budget = FUSEServer.Configuration()
    guard !configuration.shares.isEmpty else { return budget }
    let limit = Int(osv_descriptor_limit())
    // Descriptors are given out from below, so the next one is about how many there are.
    let next = dup(configuration.shares[0].descriptor)
    if next >= 0 { close(next) }
    let left = limit - Int(max(0, next)) - configuration.cpuCount - 16
    // A request holds a few for as long as it lasts; two stay open with the server.
    let each = left / configuration.shares.count - 2 - 4 * (queues + 1)
    budget.descriptorLimit = max(1, min(budget.descriptorLimit, each / 4))
    budget.handleLimit = max(1, min(budget.handleLimit, each / 4))
    // What an open file that has been removed takes. A database with many of them may want more than the others.
    budget.pinLimit = max(1, min(4096, each / 2))
    return budget
  }

  /// Attaches the network interfaces. A pair's interrupts go to the CPU of its number.
  private mutating func addNetworks(_ configuration: MachineConfiguration) throws(Failure) {
    let maker = NetworkDevices(configuration)
    let vm = vm
    for index in configuration.networks.indices {
      let slot = board.slots.count
      let notifications = DeviceBoard.start + UInt64(slot) * DeviceBoard.stride + PCIFunction.notificationOffset
      let device = try maker.make(index) { queue, event in
        // One that cannot be had leaves the queue as it is: its notifications are exits.
        try? vm.attach(
          descriptor: event, toMMIOWrite: notifications + UInt64(queue) * PCIFunction.notificationStride,
          value: UInt16(queue))
      }
      networks.append(device)
      var description = configuration.networks[index].boot
      description.deviceIndex = UInt32(slot)
      networkDescriptions.append(description)
      try add(device) { $0 < device.queueCount - 1 ? UInt32($0 / 2) : 0 }
    }
  }

  /// Places a device, gives it vectors, on CPU 0 unless it says otherwise for a queue, and a set-up record.
  private func add(_ device: any VirtioDevice, cpu: (Int) -> UInt32 = { _ in 0 }) throws(Failure) {
    let vm = vm
    let function = PCIFunction(device: device, memory: map) { vm.deliver($0) }
    let setup = try allocator.allocate(pages: 1)
    let placed = try board.reserve(queueCount: device.queueCount)
    function.place(at: placed.address)
    function.presetVectors(
      (0...device.queueCount).map { MSIMessage(vector: placed.firstVector + UInt32($0), cpu: cpu($0)) })
    var description = function.description(firstVector: placed.firstVector)
    description.setupPhysical = setup
    board.add(function, description)
  }
}
