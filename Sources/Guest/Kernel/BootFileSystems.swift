// The tree of names that the program finds: the root (files from the monitor, or a directory of the host), /dev, /proc,
// /tmp, and the attached directories.
#if GUEST
  import Base
  import DevFS
  import Devices
  import Files
  import Linux
  import Memory
  import Network
  import Pages
  import Platform
  import ProcFS
  import RamFS
  import VirtioABI
  import VirtioFS

  /// What is mounted at boot.
  struct BootFileSystems {
    /// The program's view.
    let context: FileSystemContext
    private let streams: [any ConsoleEndpoint]
    private let devices: DeviceFileSystem
    private let devicesMount: Mount

    /// Mounts everything.
    /// - Throws: what the file systems do; ENOENT if a mount point is not there and cannot be made.
    init(_ drivers: BootDevices) throws(Errno) {
      AnonymousFileSystem.initialise()
      let (root, rootFlags) = try Self.root()
      let mounts = MountTable(root: root, source: PathBytes("root"), flags: rootFlags)
      context = FileSystemContext(mounts: mounts, umask: Boot.information.pointee.umask)
      streams = Self.streams(drivers)
      devices = DeviceFileSystem(
        random: { Random.fill($0) }, input: Self.terminalInput(drivers) ?? streams[0],
        output: Self.terminalOutput(streams))
      let processes = ProcessFileSystem(processes: ProcessTable.shared)
      processes.addLater {
        processes.addSystemFiles()
        ProcessFiles.add(to: processes)
      }
      devicesMount = try Self.mount(devices, PathBytes("/dev"), PathBytes("devtmpfs"), [], context)
      mounts.register(processes)
      mounts.register(devices)
      try Self.mount(
        RamFileSystem(mode: 0o1777, byteLimit: Self.halfOfMemory), PathBytes("/dev/shm"), PathBytes("tmpfs"), [],
        context)
      try Self.mount(processes, PathBytes("/proc"), PathBytes("proc"), [], context)
      // A root that can be changed has it; another one may do without.
      let system = SystemFileSystem(cpuCount: CPU.count) { Processors().caches }
      system.addLater { NetworkTexts.add(to: system, .main) }
      mounts.register(system)
      _ = try? Self.mount(system, PathBytes("/sys"), PathBytes("sysfs"), [], context)
      if !rootFlags.contains(.readOnly) { try Self.makeDirectory(PathBytes("/tmp"), mode: 0o1777, context) }
      try mountVolumes()
      // A name and its file together take about a kilobyte.
      guard Reclaim.register(needsNoLocks: true, { pages in FileSystem.shrinkAll(pages &* 4) &>> 2 }) else {
        throw .ENOMEM
      }
    }

    /// Descriptors 0, 1 and 2, but for those that osv-run was started without.
    func standardStreams() throws(Errno) -> DescriptorTable {
      let table = DescriptorTable()
      for index in 0..<3 where !Boot.has(flag: BootFlags.inputIsClosed &<< index.u32) {
        let file = devices.standardStream(streams[index], isInput: index == 0, mount: devicesMount)
        _ = try table.install(file, atLeast: index)
      }
      return table
    }

    private static func streams(_ drivers: BootDevices) -> [any ConsoleEndpoint] {
      guard let console = drivers.console else {
        return ForeignMonitor.hasSerialLine
          ? [NullStream(), SerialStream(), SerialStream()] : [NullStream(), NullStream(), NullStream()]
      }
      return [ConsoleStream(console, .input), ConsoleStream(console, .output), ConsoleStream(console, .error)]
    }

    /// What is typed on the terminal, where that is not standard input.
    private static func terminalInput(_ drivers: BootDevices) -> (any ConsoleEndpoint)? {
      guard Boot.has(flag: BootFlags.terminalInput), let console = drivers.console else { return nil }
      return ConsoleStream(console, .terminalInput)
    }

    /// The way to the terminal: standard output or error, whichever it is; standard output if neither is one.
    private static func terminalOutput(_ streams: [any ConsoleEndpoint]) -> any ConsoleEndpoint {
      !streams[1].isTerminal && streams[2].isTerminal ? streams[2] : streams[1]
    }

    /// The root: the volume that is mounted at "/", else a RAM file system with the monitor's files.
    private static func root() throws(Errno) -> (FileSystem, MountFlags) {
      for index in 0..<Boot.mounts.count {
        let mount = Boot.mounts[index]
        guard let path = Boot.string(at: mount.pathOffset), path[0] == 0x2f, path[1] == 0 else { continue }
        return try volume(mount)
      }
      let files = RamFileSystem()
      for index in 0..<Boot.files.count {
        let file = Boot.files[index]
        guard let path = Boot.string(at: file.pathOffset) else { continue }
        try files.add(
          bytes(path), mode: file.mode, physical: PhysicalAddress(file.physical), byteCount: file.byteCount,
          modificationTime: file.modificationTime)
      }
      return (files, [])
    }

    private static var halfOfMemory: UInt64 { Frames.statistics.total.u64 &* 4096 / 2 }

    private func mountVolumes() throws(Errno) {
      for index in 0..<Boot.mounts.count {
        let mount = Boot.mounts[index]
        guard let path = Boot.string(at: mount.pathOffset), path[0] == 0x2f, path[1] != 0 else { continue }
        (StartProgress.step, StartProgress.index) = (.volume, index.u32)
        let source = PathBytes(mount.flags & BootMount.Flag.memory != 0 ? "tmpfs" : "volume")
        let (fileSystem, flags) = try Self.volume(mount)
        try Self.mount(fileSystem, Self.bytes(path), source, flags, context)
      }
    }

    private static func volume(_ mount: BootMount) throws(Errno) -> (FileSystem, MountFlags) {
      var flags: MountFlags = mount.flags & BootMount.Flag.readOnly != 0 ? .readOnly : []
      if mount.flags & BootMount.Flag.memory != 0 {
        let limit = mount.mebibyteLimit.u64 &<< 20
        return (RamFileSystem(mode: 0o1777, byteLimit: limit == 0 ? halfOfMemory : limit), flags)
      }
      guard mount.deviceIndex.int < Boot.devices.count,
        let function = VirtioFunction(Boot.devices[mount.deviceIndex.int])
      else { throw .ENODEV }
      let fileSystem = try VirtioFileSystem(device: function)
      // Another monitor does not tell that its server takes no changes from us; the server does.
      if !fileSystem.client.isWritable { flags.insert(.readOnly) }
      if !flags.contains(.readOnly) { try fileSystem.startWritingBack() }
      return (fileSystem, flags)
    }

    /// Mounts a file system at a path, making the directory if it is not there.
    @discardableResult
    private static func mount(
      _ fileSystem: FileSystem, _ path: PathBytes, _ source: PathBytes, _ flags: MountFlags,
      _ context: FileSystemContext
    ) throws(Errno) -> Mount {
      try makeDirectory(path, mode: 0o755, context)
      let point = try context.find(path, from: context.root, Credentials())
      return try context.mounts.mount(fileSystem, on: point, source: source, flags: flags)
    }

    /// Makes a directory and those above it, as far as they are missing.
    private static func makeDirectory(_ path: PathBytes, mode: UInt32, _ context: FileSystemContext) throws(Errno) {
      for end in 1...path.count where end == path.count || path[end] == 0x2f {
        do throws(Errno) {
          try context.makeDirectory(path.slice(0, end), from: context.root, mode: mode, Credentials())
        } catch {
          // A read-only root that has the directory says so first.
          guard error == .EEXIST || error == .EROFS else { throw error }
        }
      }
    }

    private static func bytes(_ string: UnsafePointer<UInt8>) -> PathBytes {
      var count = 0
      while string[count] != 0 { count &+= 1 }
      return PathBytes(UnsafeRawBufferPointer(start: string, count: count))
    }
  }
#endif
