// osv-run as a command: arguments to a machine, failures to sentences.

import CSystemCalls
import Closure
import Machine

#if canImport(Glibc)
  import Glibc
#endif

/// The command osv-run.
public enum Command {
  /// The version of the project.
  public static let version = "0.1.0"

  /// Runs with the process's arguments; ends the process.
  public static func main() -> Never {
    let timeline = Timeline()
    StandardStreams.fillClosed()
    var status = StatusReport(descriptor: nil)
    do throws(Failure) {
      let options = try Options(parsing: arguments())
      if let descriptor = options.statusDescriptor, fcntl(descriptor, F_GETFD) < 0 {
        throw Failure(
          .usage, "--status-fd wants an open file descriptor, but descriptor \(descriptor) is not open: redirect it")
      }
      status = StatusReport(descriptor: options.statusDescriptor)
      for case .descriptor(let number) in options.networks.map(\.kind) where fcntl(number, F_GETFD) < 0 {
        throw Failure(.usage, "--net wants an open file descriptor, but descriptor \(number) is not open: redirect it")
      }
      // What the caller left open would stay open in the jail. Nothing of ours is open yet.
      let kept = options.passedDescriptors
      kept.withUnsafeBufferPointer { osv_close_inherited($0.baseAddress, CInt($0.count)) }
      switch options.action {
      case .help: finish(OptionTable.help)
      case .version: finish("osv-run \(version)\n")
      case .explain: finish(try explain(options))
      case .ask: finish(try ControlClient.ask(options))
      case .run, .selfTest:
        let configuration = try configure(options, status: status)
        if let kernel = configuration.otherKernel { try PCMachine(configuration, kernel).run() }
        try Machine(configuration, timeline: timeline).run()
      }
    } catch {
      status.report(error)
      _exit(125)
    }
  }

  /// The process's arguments as bytes, its own name not included.
  private static func arguments() -> [[UInt8]] {
    var arguments: [[UInt8]] = []
    for index in 1..<max(1, Int(CommandLine.argc)) {
      guard let argument = CommandLine.unsafeArgv[index] else { break }
      // SAFETY: the kernel gave us NUL-terminated strings that live as long as the process.
      arguments.append(Array(UnsafeRawBufferPointer(start: argument, count: strlen(argument))))
    }
    return arguments
  }

  private static func finish(_ text: String) -> Never {
    var text = text
    let done = text.withUTF8 { write(1, $0.baseAddress, $0.count) == $0.count }
    _exit(done ? 0 : 125)
  }

  private static func explain(_ options: Options) throws(Failure) -> String {
    let root = try options.root.map { path throws(Failure) in try directory(path) }
    let file = try ProgramFile(path: options.image ?? [], root: root, mountPoints: options.mountPoints)
    var volumes: [GuestView.Volume] = []
    for volume in options.volumes {
      volumes.append(GuestView.Volume(guest: volume.guest, descriptor: try directory(volume.host)))
    }
    let view = GuestView(
      root: root, volumes: volumes, workingDirectory: options.workingDirectory ?? [UInt8(ascii: "/")])
    let closure = try file.closure(view: view, environment: GuestEnvironment.variables(options))
    return "\(file.name): \(file.kind.description)\n" + (closure?.explanation ?? "")
  }

  /// Opens a directory of the host for sharing.
  private static func directory(_ path: [UInt8]) throws(Failure) -> CInt {
    let descriptor = HostFile.openDirectory(path)
    guard descriptor >= 0 else {
      let name = Options.show(path)
      switch -descriptor {
      case ENOENT: throw Failure(.directory, "there is no directory \(name)")
      case ENOTDIR: throw Failure(.directory, "\(name) is not a directory")
      case EACCES: throw Failure(.directory, "the directory \(name) may not be opened by this user")
      default:
        throw Failure(.directory, "the directory \(name) cannot be opened: \(String(cString: strerror(-descriptor)))")
      }
    }
    return descriptor
  }

  /// Checks that whatever is attached within a host directory finds a directory to be attached at: the guest cannot make one there.
  /// What lies within a directory in the guest's memory is made there.
  private static func checkMountPoints(
    root: CInt?, volumes: [GuestView.Volume], temporary: [Options.TemporaryDirectory]
  ) throws(Failure) {
    func isIn(_ guest: [UInt8], _ outer: [UInt8]) -> Bool { guest.starts(with: outer + [slash]) }
    if let root {
      for path in ["/dev", "/proc"] where !GuestView(root: root).isDirectory(Array(path.utf8)) {
        throw Failure(
          .directory, "the directory given by --root has no directory \(path), where the guest's own files go: make one"
        )
      }
    }
    func check(_ guest: [UInt8], in earlier: ArraySlice<GuestView.Volume>) throws(Failure) {
      if temporary.contains(where: { isIn(guest, $0.guest) }) { return }
      guard root != nil || earlier.contains(where: { isIn(guest, $0.guest) }) else { return }
      guard GuestView(root: root, volumes: Array(earlier)).isDirectory(guest) else {
        throw Failure(
          .directory,
          "there is no directory \(Options.show(guest)) for the volume in what is attached there already: make one")
      }
    }
    for (index, volume) in volumes.enumerated() { try check(volume.guest, in: volumes[..<index]) }
    for directory in temporary { try check(directory.guest, in: volumes[...]) }
  }

  /// Opens everything that the options name and turns them into a machine's configuration.
  private static func configure(_ options: Options, status: StatusReport) throws(Failure) -> MachineConfiguration {
    var configuration = MachineConfiguration()
    configuration.memoryByteCount = options.memoryByteCount
    configuration.balloonByteCount = options.balloonByteCount
    configuration.cpuCount = options.cpuCount
    configuration.flags = options.flags
    configuration.completionDelay = options.completionDelay
    configuration.log = options.log
    configuration.tracesBoot = options.tracesBoot
    configuration.isJailed = options.isJailed
    configuration.status = status
    if let path = options.statistics {
      let descriptor = HostFile.create(path)
      guard descriptor >= 0 else {
        throw Failure(
          .file, "the file \(Options.show(path)) cannot be written: \(String(cString: strerror(-descriptor)))")
      }
      configuration.statisticsDescriptor = descriptor
    }
    if let path = options.capture {
      // No frame waits for whoever reads the record.
      let descriptor = HostFile.create(path, waits: false)
      if descriptor == -ENXIO {
        throw Failure(
          .file, "nobody reads the pipe \(Options.show(path)): --capture wants its reader to be there first")
      }
      guard descriptor >= 0 else {
        throw Failure(
          .file, "the file \(Options.show(path)) cannot be written: \(String(cString: strerror(-descriptor)))")
      }
      configuration.captureDescriptor = descriptor
    }
    // passt takes a while to start, beside everything else.
    for (number, request) in options.networks.enumerated() {
      configuration.networks.append(
        try NetworkInterface.open(request, number: number, cpuCount: options.cpuCount))
    }
    if let path = options.kernel {
      let descriptor = HostFile.open(path)
      guard descriptor >= 0 else { throw Failure(.file, "there is no kernel \(Options.show(path))") }
      configuration.kernelDescriptor = descriptor
    }

    var content = BootContent()
    content.environment = GuestEnvironment.variables(options)
    content.workingDirectory = options.workingDirectory
    content.hostName = options.hostName
    content.arguments = [options.image ?? Array("self-test".utf8)] + options.arguments

    var root: CInt?
    if let path = options.root {
      let descriptor = try directory(path)
      root = descriptor
      configuration.shares.append(SharedDirectory(descriptor: descriptor, guest: [UInt8(ascii: "/")], readOnly: true))
    }
    var volumes: [GuestView.Volume] = []
    for volume in options.volumes {
      let descriptor = try directory(volume.host)
      configuration.shares.append(
        SharedDirectory(
          descriptor: descriptor, guest: volume.guest, readOnly: volume.readOnly, cache: volume.cache))
      volumes.append(GuestView.Volume(guest: volume.guest, descriptor: descriptor))
    }
    configuration.memoryMounts = options.temporary.map {
      BootContent.Mount(path: $0.guest, mebibyteLimit: $0.mebibyteLimit)
    }
    if root == nil {
      configuration.files = GuestEnvironment.etc(hostName: options.hostName, networks: configuration.networks)
    }

    if options.action == .selfTest {
      configuration.flags |= MachineConfiguration.selfTestFlag
    } else {
      let file = try ProgramFile(path: options.image ?? [], root: root, mountPoints: options.mountPoints)
      try ForeignKernel.check(options, kind: file.kind)
      switch file.kind {
      case .osvImage: configuration.kernelDescriptor = file.descriptor
      case .osvKernel:
        throw Failure(.unsupported, "\(file.name) is an OSv kernel without a program: run the program itself")
      case .pvhKernel, .bzImage: configuration.otherKernel = try ForeignKernel(options, file: file)
      case .linuxProgram:
        content.program = file.guestPath
        try file.checkMemory(options.memoryByteCount)
        if let root {
          try file.checkInterpreter(root: root)
        } else {
          configuration.files += file.files
          let view = GuestView(
            root: nil, volumes: volumes, workingDirectory: options.workingDirectory ?? [UInt8(ascii: "/")])
          if let closure = try file.closure(view: view, environment: content.environment) {
            configuration.files += closure.files
          }
        }
      }
    }
    try checkMountPoints(root: root, volumes: volumes, temporary: options.temporary)
    if let path = options.control { configuration.controlDescriptor = try ControlClient.listen(path) }
    configuration.content = content
    return configuration
  }
}
