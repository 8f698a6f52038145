// The devices of a machine: made here, put on the board, joined to KVM's interrupts.
//
// Console and entropy always; one file system for each shared directory.

import KVM
import VirtioABI
import VirtioConsole
import VirtioEntropy
import VirtioFileSystem
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

/// What a machine attaches to its board.
struct MachineDevices {
  let board: DeviceBoard
  let console: VirtioConsole
  /// For the boot information: which device serves which mount point.
  private(set) var mounts: [BootContent.Mount] = []
  private let map = GuestMemoryMap()
  private let vm: VirtualMachine
  private let allocator: BootAllocator

  /// The ioctl requests of a running machine: KVM's, and the terminal's size.
  static let requests = VirtualMachine.requestsWhileRunning + [UInt32(TIOCGWINSZ)]

  /// Makes the devices and gives each its place; their set-up records come from `allocator`.
  init(
    configuration: MachineConfiguration, vm: VirtualMachine, memory: GuestMemory, files: FilesWindow,
    allocator: BootAllocator
  ) throws(Failure) {
    self.vm = vm
    self.allocator = allocator
    board = DeviceBoard(memory: memory)
    for region in memory.ram {
      map.add(start: GuestAddress(region.physical), byteCount: region.byteCount, host: region.host)
    }
    if let host = files.host {
      map.add(start: GuestAddress(GuestMemory.filesStart), byteCount: files.byteCount, host: host, isWritable: false)
    }

    var streams = VirtioConsole.Configuration()
    let size = StandardStreams.terminalSize
    if size.0 > 0 { streams.size = (columns: size.0, rows: size.1) }
    let requests = Self.requests
    let isJailed = configuration.isJailed
    streams.startThread = { body in
      Thread.start("input") {
        if isJailed { Thread.restrict(.input, requests: requests) }
        body()
      }
    }
    console = VirtioConsole(streams)
    try add(console)
    try add(VirtioEntropy())
    for (index, share) in configuration.shares.enumerated() {
      let server: FUSEServer
      do throws(FUSEServer.OpenFailure) {
        server = try FUSEServer(path: "/proc/self/fd/\(share.descriptor)")
      } catch {
        throw Failure(
          .directory,
          error.processDirectory
            ? "directories are shared through /proc/self/fd, which is not there: mount /proc"
            : "a directory cannot be shared (\(StandardStreams.message(error.code)))")
      }
      mounts.append(
        BootContent.Mount(path: share.guest, deviceIndex: UInt32(board.slots.count), readOnly: share.readOnly))
      try add(
        VirtioFileSystemDevice(server: server, tag: "osv\(index)", requestQueues: min(configuration.cpuCount, 8)))
    }
  }

  /// Places a device, gives it vectors on CPU 0 and a set-up record.
  private func add(_ device: any VirtioDevice) throws(Failure) {
    let vm = vm
    let function = PCIFunction(device: device, memory: map) { message in
      // A message that cannot be delivered is lost, as on a bus; the machine is ending then.
      try? vm.signal(
        InterruptMessage(
          addressLow: UInt32(truncatingIfNeeded: message.address),
          addressHigh: UInt32(truncatingIfNeeded: message.address >> 32), data: message.data))
    }
    let setup = try allocator.allocate(pages: 1).physical
    let placed = try board.reserve(queueCount: device.queueCount)
    function.place(at: placed.address)
    function.presetVectors((0...device.queueCount).map { MSIMessage(vector: placed.firstVector + UInt32($0), cpu: 0) })
    var description = function.description(firstVector: placed.firstVector)
    description.setupPhysical = setup
    board.add(function, description)
  }
}
