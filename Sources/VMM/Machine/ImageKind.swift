// What the file is that osv-run was given: an OSv image, a Linux program, or another kernel.

/// The kinds of images, told apart by their notes.
public enum ImageKind: Equatable, Sendable {
  /// A kernel with its program linked to it.
  case osvImage
  /// A kernel alone, for which osv-run has no program.
  case osvKernel
  /// A Linux program; the interpreter is nil for a static one.
  case linuxProgram(interpreter: [UInt8]?)
  /// An ELF kernel with a PVH entry.
  case pvhKernel
  /// A Linux bzImage.
  case bzImage

  /// Looks at a whole file.
  public init(_ bytes: UnsafeRawBufferPointer) throws(ELFFile.Defect) {
    if Self.isBzImage(bytes) {
      self = .bzImage
      return
    }
    let file: ELFFile
    do throws(ELFFile.Defect) { file = try ELFFile(bytes) } catch {
      // A kernel's virtual addresses are its own affair.
      guard let kernel = try? ELFFile(bytes, isPhysical: true), kernel.pvhEntry != nil else { throw error }
      self = .pvhKernel
      return
    }
    if let note = KernelImage.note(of: file) {
      self = note.kind == KernelImage.Kind.linkedProgram.rawValue ? .osvImage : .osvKernel
    } else if file.pvhEntry != nil {
      self = .pvhKernel
    } else {
      guard !file.loads.isEmpty else { throw .malformed("it has nothing to load") }
      guard file.loads.contains(where: { $0.flags & 1 != 0 && $0.address <= file.entry && file.entry < $0.end }) else {
        throw .malformed("its entry lies outside its code")
      }
      try file.checkLoadable()
      self = .linuxProgram(interpreter: file.interpreter)
    }
  }

  /// Whether a file is a bzImage: "HdrS" at 0x202, and the boot sector's signature before it.
  static func isBzImage(_ bytes: UnsafeRawBufferPointer) -> Bool {
    bytes.count > 0x206 && bytes[0x1fe] == 0x55 && bytes[0x1ff] == 0xaa
      && bytes[0x202..<0x206].elementsEqual("HdrS".utf8)
  }

  /// A few words for people.
  public var description: String {
    switch self {
    case .osvImage: "an OSv image (a kernel with its program)"
    case .osvKernel: "an OSv kernel without a program"
    case .linuxProgram(nil): "a Linux program (statically linked)"
    case .linuxProgram(let interpreter?):
      "a Linux program (dynamically linked, interpreter \(String(decoding: interpreter, as: UTF8.self)))"
    case .pvhKernel: "another kernel (ELF with a PVH entry)"
    case .bzImage: "another kernel (Linux bzImage)"
    }
  }
}

extension Failure {
  /// The failure that a defect of the user's file means.
  public init(_ defect: ELFFile.Defect, path: String) {
    switch defect {
    case .notELF: self.init(.notELF, "\(path) is not an ELF file: give a Linux program or an OSv image")
    case .wrongMachine(let machine):
      let what = machine == 0 ? "a 32-bit or big-endian system" : "another machine (ELF machine \(machine))"
      self.init(.wrongMachine, "\(path) is for \(what): only 64-bit x86 programs run here")
    case .wrongType(let type):
      self.init(.wrongMachine, "\(path) is not a program (ELF type \(type)): link it to an executable")
    case .malformed(let reason): self.init(.badELF, "\(path) is damaged: \(reason)")
    }
  }
}
