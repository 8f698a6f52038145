// What the guest's kernel could not do before the program's first instruction, as a failure of osv-run: a code and a sentence.

import VirtioABI

#if canImport(Glibc)
  import Glibc
#endif

extension Machine {
  /// The failure that the guest's word means; a hostile guest may write anything.
  func startFailure(_ value: UInt32) -> Failure {
    let mounts = Self.mounts(devices, configuration).map(\.path)
    return Failure(
      BootFailure(value), program: configuration.content.program ?? configuration.content.arguments.first ?? [],
      mounts: mounts, workingDirectory: configuration.content.workingDirectory ?? [UInt8(ascii: "/")])
  }
}

extension Failure {
  /// - Parameters:
  ///   - start: what the guest said, nil if it made no sense.
  ///   - program: its path, as the guest knows it.
  ///   - mounts: the guest's paths of the attached directories.
  init(_ start: BootFailure?, program: [UInt8], mounts: [[UInt8]], workingDirectory: [UInt8]) {
    guard let start else {
      self.init(.stopped, "the guest's kernel gave up its start without a reason that is known")
      return
    }
    let code = CInt(start.code)
    let reason = String(cString: strerror(code))
    let name = Self.show(program)
    if code == ENOMEM {
      self.init(.memory, "the guest has too little memory to start \(name): give it more with --memory")
      return
    }
    switch start.step {
    case .machine: self.init(.stopped, "the guest's kernel could not start its devices or CPUs (\(reason))")
    case .root: self.init(.directory, "the guest's root, with /dev, /proc and /tmp, could not be made (\(reason))")
    case .volume: self.init(volume: Int(start.index) < mounts.count ? mounts[Int(start.index)] : [], code, reason)
    case .workingDirectory:
      let path = Self.show(workingDirectory)
      switch code {
      case ENOENT: self.init(.directory, "there is no directory \(path) in the guest: give --workdir another one")
      case ENOTDIR: self.init(.directory, "\(path) is not a directory in the guest: give --workdir another one")
      case EACCES: self.init(.directory, "the directory \(path), given by --workdir, may not be entered by this user")
      default: self.init(.directory, "the directory \(path), given by --workdir, cannot be entered (\(reason))")
      }
    case .program: self.init(program: name, code, reason)
    case .interpreter:
      switch code {
      case ENOENT, ENOTDIR:
        self.init(.interpreter, "the interpreter (dynamic linker) that \(name) names is not there in the guest")
      case EACCES: self.init(.interpreter, "the interpreter (dynamic linker) of \(name) may not be executed")
      case ELIBBAD:
        self.init(
          .interpreter, "the interpreter (dynamic linker) that \(name) names is not one: it is damaged, or no ELF file")
      default: self.init(.interpreter, "the interpreter (dynamic linker) of \(name) cannot be loaded (\(reason))")
      }
    }
  }

  private init(volume path: [UInt8], _ code: CInt, _ reason: String) {
    let name = Self.show(path)
    switch code {
    case ENOTDIR:
      self.init(
        .directory,
        "a volume cannot be attached at \(name): there, or on the way, is a file in the guest; choose another place")
    case ENOENT:
      self.init(.directory, "a volume cannot be attached at \(name): there is no such directory in the guest")
    default: self.init(.directory, "a volume cannot be attached at \(name) (\(reason))")
    }
  }

  private init(program name: String, _ code: CInt, _ reason: String) {
    switch code {
    case ENOENT, ENOTDIR: self.init(.file, "there is no file \(name) in the guest")
    case EACCES: self.init(.file, "\(name) may not be executed: it has no permission for it (chmod +x)")
    case ENOEXEC, ELIBBAD: self.init(.badELF, "\(name) is damaged: the guest's kernel cannot load what its headers say")
    case E2BIG: self.init(.usage, "the program's arguments and environment are too long")
    case EIO: self.init(.file, "\(name) cannot be read")
    default: self.init(.badELF, "\(name) cannot be loaded by the guest's kernel (\(reason))")
    }
  }
}
