// Another kernel as PROGRAM: what its machine takes of the options, and which of them mean nothing to it.
import Machine

extension ForeignKernel {
  /// The kernel in `file`, with the RAM disk and the command line of the options.
  init(_ options: Options, file: ProgramFile) throws(Failure) {
    let isUnheeded =
      options.root != nil || options.control != nil || options.statistics != nil || options.tracesBoot
      || !options.temporary.isEmpty || options.balloonByteCount > 0 || options.log != 0 || !options.arguments.isEmpty
    guard !isUnheeded else {
      throw Failure(
        .usage,
        "\(file.name) is another kernel: besides memory, CPUs, volumes and networks it takes --initrd and --cmdline, nothing else"
      )
    }
    var disk = UnsafeRawBufferPointer(start: nil, count: 0)
    if let path = options.initialDisk {
      let descriptor = HostFile.open(path)
      guard descriptor >= 0 else { throw Failure(.file, "there is no file \(Options.show(path)) that may be read") }
      disk = try HostFile.map(descriptor)
    }
    self.init(
      image: file.bytes, initialDisk: disk, commandLine: options.commandLine ?? Array("console=ttyS0".utf8))
  }

  /// Refuses what only another kernel takes where there is none.
  static func check(_ options: Options, kind: ImageKind) throws(Failure) {
    guard kind != .bzImage, kind != .pvhKernel, options.initialDisk != nil || options.commandLine != nil else { return }
    throw Failure(.usage, "--initrd and --cmdline are for other kernels, and PROGRAM is \(kind.description)")
  }
}
