// clone(2): new threads, and processes that share their parent's memory while it waits (vfork, posix_spawn). A process with memory of its
// own (fork) is refused with ENOSYS.
import Base
import Locks
import Memory
import Pages
import Platform
import Threads

/// struct clone_args of clone3(2), as far as it was from the beginning.
struct CloneArguments {
  static let byteCount: UInt64 = 64
  var flags: UInt64 = 0
  var pidDescriptor: UInt64 = 0
  var childAddress: UInt64 = 0
  var parentAddress: UInt64 = 0
  var exitSignal: UInt64 = 0
  var stack: UInt64 = 0
  var stackByteCount: UInt64 = 0
  var threadPointer: UInt64 = 0
}

/// clone's flags.
enum CloneFlags {
  static let memory: UInt64 = 0x100
  static let fileSystem: UInt64 = 0x200
  static let files: UInt64 = 0x400
  static let signalHandlers: UInt64 = 0x800
  static let vfork: UInt64 = 0x4000
  static let thread: UInt64 = 0x1_0000
  static let semaphores: UInt64 = 0x4_0000
  static let setThreadPointer: UInt64 = 0x8_0000
  static let parentSetIdentifier: UInt64 = 0x10_0000
  static let childClearIdentifier: UInt64 = 0x20_0000
  static let detached: UInt64 = 0x40_0000
  static let childSetIdentifier: UInt64 = 0x100_0000
  static let clearHandlers: UInt64 = 0x1_0000_0000

  /// What a thread must share with its creator.
  static let ofThreads = memory | fileSystem | files | signalHandlers | thread
  /// What a thread may ask for besides.
  static let optional =
    semaphores | setThreadPointer | parentSetIdentifier | childClearIdentifier | detached | childSetIdentifier

  /// What a process must have: its parent's memory, for as long as that waits.
  static let ofProcesses = memory | vfork
  /// What a process may ask for besides.
  static let optionalOfProcesses =
    fileSystem | files | setThreadPointer | parentSetIdentifier | childClearIdentifier | childSetIdentifier
    | clearHandlers
}

extension SystemCall {
  func clone() throws(Errno) -> Int {
    var arguments = CloneArguments()
    arguments.flags = argument0 & ~0xff
    arguments.exitSignal = argument0 & 0xff
    arguments.stack = argument1
    arguments.parentAddress = argument2
    arguments.childAddress = argument3
    arguments.threadPointer = argument4
    return try makeThread(arguments)
  }

  func clone3() throws(Errno) -> Int {
    guard argument1 >= CloneArguments.byteCount, argument1 <= PageSize.small else { throw .EINVAL }
    var arguments = try UserSpan.read(CloneArguments.self, at: address0)
    if arguments.stack != 0 {
      guard arguments.stackByteCount != 0 else { throw .EINVAL }
      arguments.stack &+= arguments.stackByteCount
    }
    return try makeThread(arguments)
  }

  func vfork() throws(Errno) -> Int {
    var arguments = CloneArguments()
    arguments.flags = CloneFlags.ofProcesses
    arguments.exitSignal = Signal.child.number.u64
    return try makeThread(arguments)
  }

  /// A new process, which has no thread yet.
  private func makeProcess(_ arguments: CloneArguments, identifier: Int32) throws(Errno) -> Process {
    let flags = arguments.flags
    let signal = Signal(arguments.exitSignal.int)
    guard arguments.exitSignal == 0 || signal != nil else { throw .EINVAL }
    let child = try Process(
      childOf: process, identifier: identifier, signal: signal, sharesFiles: flags & CloneFlags.files != 0,
      sharesContext: flags & CloneFlags.fileSystem != 0)
    if flags & CloneFlags.clearHandlers != 0 { child.clearHandlers() }
    if child.hasCPULimit { try child.makeCPULimitTimers() }
    return child
  }

  /// A new thread, of this process or of a new one that this thread waits for.
  private func makeThread(_ arguments: CloneArguments) throws(Errno) -> Int {
    let flags = arguments.flags
    let isProcess = flags & CloneFlags.thread == 0
    let required = isProcess ? CloneFlags.ofProcesses : CloneFlags.ofThreads
    let optional = isProcess ? CloneFlags.optionalOfProcesses : CloneFlags.optional
    guard flags & required == required, flags & ~(required | optional) == 0 else { throw .ENOSYS }
    if flags & CloneFlags.setThreadPointer != 0 {
      guard arguments.threadPointer < AddressMap.programEnd.rawValue else { throw .EPERM }
    }
    #if HOSTED
      throw .ENOSYS
    #else
      // The program itself finds no memory when the reserve is reached, and ends; a thread too many is to fail before that.
      guard Frames.hasRoom || (Reclaim.run(pages: Frames.shortage, .noLocks) && Frames.hasRoom) else { throw .EAGAIN }
      let identifier = TaskNumbers.allocate()
      let process = isProcess ? try makeProcess(arguments, identifier: identifier) : self.process
      let thread = try Thread.createProgram(name: "program", affinity: Thread.current.affinity)
      let child = Task(identifier: identifier, process: process, thread: thread)
      let childFrame = ContextSwitch.programFrame(stackTop: thread.kernelStackTop)
      // SAFETY: the new thread does not run yet, so its stack is ours.
      childFrame.pointee = frame.pointee
      childFrame.pointee.rax = 0
      if arguments.stack != 0 { childFrame.pointee.rsp = arguments.stack }
      thread.threadPointer =
        flags & CloneFlags.setThreadPointer != 0 ? arguments.threadPointer : ThreadPointer.current
      // The control words of x87 and SSE matter.
      Thread.copyExtendedState(to: thread)
      child.blocked = task.blocked
      child.name = task.name
      if isProcess { child.signalStack = task.signalStack }
      if flags & CloneFlags.childClearIdentifier != 0 {
        child.clearChildAddress = VirtualAddress(arguments.childAddress)
      }
      if flags & CloneFlags.parentSetIdentifier != 0 {
        try? UserSpan.write(child.identifier, at: VirtualAddress(arguments.parentAddress))
      }
      if flags & CloneFlags.childSetIdentifier != 0 {
        try? UserSpan.write(child.identifier, at: VirtualAddress(arguments.childAddress))
      }
      guard process.add(child) else {
        // An ending process takes no thread in, and nobody would tell that one of the end. The caller ends on its way back to the program.
        thread.discard()
        throw .EAGAIN
      }
      child.attach(to: thread)
      thread.detach()
      if isProcess {
        self.process.lock.withLock { self.process.children.append(process) }
        // From here on it comes to its end, which stops them.
        if process.hasCPULimit { process.setCPULimitTimers() }
      }
      thread.start()
      if isProcess { self.process.waitForRelease(of: process) }
      return identifier.int
    #endif
  }
}
