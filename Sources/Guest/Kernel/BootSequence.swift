// The second half of the kernel's start, on the first thread, which may sleep: devices, file systems, other CPUs, and at last
// the program, which runs on this same thread.
#if GUEST
  import Base
  import Devices
  import Files
  import Linux
  import Locks
  import Memory
  import Pages
  import Platform
  import Threads
  import VirtioABI

  enum BootSequence {
    /// Runs to the program's first instruction.
    /// - Parameter reserved: the caller's memory at the end of this stack, where the program's trap frame will be.
    @inline(never) static func run(_ reserved: UnsafeMutableRawBufferPointer) -> Never {
      BootTrace.end(of: .threads)
      let head = Boot.information
      Random.mix((head.pointee.seed0, head.pointee.seed1, head.pointee.seed2, head.pointee.seed3))
      LinuxEntry.install()
      let devices = BootDevices.start()
      if let console = devices.console { MachineEnd.installFlush { console.flush(until: $0) } }
      BootTrace.end(of: .devices)
      do throws(Errno) {
        try MonitorEvents.start()
        try Reclaim.begin()
        StartProgress.step = .root
        let fileSystems = try BootFileSystems(devices)
        let mounts = fileSystems.context.mounts
        MachineEnd.installWriteBack { writeBack(mounts) }
        StartProgress.step = .machine
        let descriptors = try fileSystems.standardStreams()
        BootTrace.end(of: .fileSystems)
        try Scheduler.startOtherCPUs()
        BootTrace.end(of: .processors)
        NetworkStart.run()
        let entry = try program(fileSystems.context, descriptors).load()
        BootBalloon.startWhenNeeded()
        BootTrace.end(of: .program)
        MonitorEvents.programIsLoaded()
        entry.enter()
      } catch {
        // osv-run knows the names of things, and what to do about it.
        Monitor.exit(BootFailure(step: StartProgress.step, index: StartProgress.index, code: error.rawValue.u32))
      }
    }

    /// Gives the files of all file systems what is theirs.
    /// - Returns: why some of it could not be; nil: it is all there.
    private static func writeBack(_ mounts: MountTable) -> Errno? {
      var failure: Errno?
      mounts.forEach {
        do throws(Errno) { try $0.fileSystem.writeBack() } catch { if failure == nil { failure = error } }
      }
      return failure
    }

    /// What osv-run was asked to run.
    private static func program(_ context: FileSystemContext, _ descriptors: DescriptorTable) throws(Errno)
      -> FirstProgram
    {
      let head = Boot.information
      return FirstProgram(
        context: context, workingDirectory: bytes(of: Boot.string(at: head.pointee.workingDirectoryOffset)) ?? [0x2f],
        descriptors: descriptors, arguments: try strings(head.pointee.argumentsOffset, head.pointee.argumentCount),
        environment: try strings(head.pointee.environmentOffset, head.pointee.environmentCount),
        path: bytes(of: Boot.string(at: head.pointee.programOffset)))
    }

    /// A list of strings of the boot information.
    private static func strings(_ offset: UInt32, _ count: UInt32) throws(Errno) -> StringBlock {
      let head = UnsafeRawPointer(Boot.information)
      let rest = Boot.information.pointee.byteCount &- offset
      guard let block = StringBlock(UnsafeRawBufferPointer(start: head + offset.int, count: rest.int), count: count.int)
      else { throw .EINVAL }
      return block
    }

    private static func bytes(of string: UnsafePointer<UInt8>?) -> [UInt8]? {
      guard let string else { return nil }
      var result: [UInt8] = []
      var at = string
      while at.pointee != 0 {
        result.append(at.pointee)
        at += 1
      }
      return result
    }
  }
#endif
