// The first program: the one the machine was started for. It runs on the thread that boots the kernel.
import Base
import Files
import Memory
import Pages
import Platform
import Threads
import VirtioABI

/// What the first program is started with.
public struct FirstProgram {
  /// From where it sees the tree of names.
  public var context: FileSystemContext
  /// Where it starts, an absolute path.
  public var workingDirectory: [UInt8]
  /// Its open files: standard input, output and error are there.
  public var descriptors: DescriptorTable
  /// Its arguments; the first one is the program's name.
  public var arguments: StringBlock
  /// Its environment.
  public var environment: StringBlock
  /// Its file, an absolute path; nil if the program is part of the kernel's image.
  public var path: [UInt8]?

  /// A program.
  public init(
    context: FileSystemContext, workingDirectory: [UInt8], descriptors: DescriptorTable, arguments: StringBlock,
    environment: StringBlock, path: [UInt8]?
  ) {
    self.context = context
    self.workingDirectory = workingDirectory
    self.descriptors = descriptors
    self.arguments = arguments
    self.environment = environment
    self.path = path
  }

  #if GUEST
    /// Makes the process on the running thread and loads the program.
    /// - Returns: what enters it.
    /// - Throws: what `ProgramLoader.load` does; ENOENT if path or working directory are not there.
    public func load() throws(Errno) -> Entry {
      let thread = Thread.current
      try thread.becomeProgram()
      let identifier = TaskNumbers.allocate()
      let process = Process(
        identifier: identifier, addressSpace: try AddressSpace(seed: Random.next()), descriptors: descriptors,
        context: context)
      let task = Task(identifier: identifier, process: process, thread: thread)
      Process.first = process
      process.applyLimit(
        ResourceLimits.lockedMemory, process.limits[ResourceLimits.lockedMemory].current)
      task.attach(to: thread)
      _ = process.add(task)
      StartProgress.step = .workingDirectory
      let directory = try workingDirectory.withPath { (path) throws(Errno) in try process.find(path) }
      try context.changeDirectory(to: directory, process.credentials)
      StartProgress.step = .program
      guard let path else {
        process.isImage = true
        task.setName([])
        return try ImageProgram.prepare(process, arguments: arguments, environment: environment)
      }
      let file = try path.withPath { (path) throws(Errno) in try process.find(path) }
      task.setName(path)
      let start = try path.withPath { (path) throws(Errno) in
        try ProgramLoader(process: process).load(
          file, path: path.bytes, arguments: arguments, environment: environment)
      }
      return Entry(instruction: start.entry, stackPointer: start.stackPointer)
    }

    /// Registers with which the program starts.
    public struct Entry {
      /// RIP.
      public var instruction: VirtualAddress
      /// RSP.
      public var stackPointer: VirtualAddress
      /// RDI, RSI and RDX.
      public var arguments: (UInt64, UInt64, UInt64) = (0, 0, 0)

      init(instruction: VirtualAddress, stackPointer: VirtualAddress) {
        self.instruction = instruction
        self.stackPointer = stackPointer
      }

      /// Leaves the kernel for the program.
      public func enter() -> Never {
        let frame = ContextSwitch.programFrame(stackTop: Thread.current.kernelStackTop)
        // SAFETY: the frame's place is at the end of this thread's stack, above everything in use: thread entries keep it free.
        UnsafeMutableRawPointer(frame).initializeMemory(as: UInt8.self, repeating: 0, count: TrapFrame.byteCount.int)
        frame.pointee.rip = instruction.rawValue
        frame.pointee.rsp = stackPointer.rawValue
        frame.pointee.rdi = arguments.0
        frame.pointee.rsi = arguments.1
        frame.pointee.rdx = arguments.2
        frame.pointee.rflags = TrapFrame.sanitized(flags: 0)
        frame.pointee.cs = Selectors.code
        frame.pointee.ss = Selectors.data
        ContextSwitch.enterProgram()
      }
    }
  #endif
}

#if GUEST
  /// Segment selectors of the GDT that the monitor made; programs run at the kernel's privilege.
  enum Selectors {
    static let code: UInt64 = 0x10
    static let data: UInt64 = 0x18
  }

  /// A program that is linked with the kernel: no ELF file, no segments; a stack, and the arguments in registers.
  enum ImageProgram {
    @_extern(c, "image_main")
    private static func imageMain() -> UInt64
    @_extern(c, "image_start_address")
    private static func imageStart() -> UInt64

    /// Whether there is one.
    static var isPresent: Bool { imageMain() != 0 }

    static func prepare(_ process: Process, arguments: StringBlock, environment: StringBlock) throws(Errno)
      -> FirstProgram.Entry
    {
      let loader = ProgramLoader(process: process)
      let stackPointer = try loader.makeStack(
        InitialStack.Program(), top: ProgramLoader.randomStackTop(), path: UnsafeRawBufferPointer(start: nil, count: 0),
        arguments: arguments,
        environment: environment)
      var entry = FirstProgram.Entry(instruction: VirtualAddress(imageStart()), stackPointer: stackPointer)
      let argv = stackPointer + 8
      entry.arguments = (arguments.count.u64, argv.rawValue, (argv + (arguments.count &+ 1) &* 8).rawValue)
      return entry
    }
  }
#endif

extension FirstProgram {
  /// Whether the kernel's image holds a program of its own.
  public static var isInImage: Bool {
    #if GUEST
      ImageProgram.isPresent
    #else
      false
    #endif
  }
}

extension Task {
  /// Names the task after the last part of a path.
  func setName(_ path: [UInt8]) {
    var start = 0
    for index in 0..<path.count where path[index] == UInt8(ascii: "/") { start = index &+ 1 }
    var all: [16 of UInt8] = .init(repeating: 0)
    var at = 0
    while at < 15, start &+ at < path.count {
      all[at] = path[start &+ at]
      at &+= 1
    }
    name = all
  }
}
