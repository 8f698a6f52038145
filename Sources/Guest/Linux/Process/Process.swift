// A process: what its threads share. Nothing a program can change is global; it hangs here.
//
// Locks: `lock` guards the list of tasks, signal actions and queues, changes of credentials, and limits; nothing sleeps or touches
// program memory under it. The descriptor table and the address space have locks of their own.
import Base
import Files
import Locks
import Memory
import Platform
import Synchronization
import Threads

/// A running program.
public final class Process {
  // SAFETY: set once, before the first process has a thread.
  /// The first process: its end is the machine's.
  nonisolated(unsafe) static var first: Process? = nil

  /// Its number (pid), that of its first thread.
  public let identifier: Int32
  /// Its memory.
  public let addressSpace: AddressSpace
  /// The name of `addressSpace` for futexes: to have it without counting.
  let spaceIdentity: UInt
  /// Its open files.
  public let descriptors: DescriptorTable
  /// From where it sees the tree of names.
  public let context: FileSystemContext
  /// Both uncounted: it outlives the system calls of its threads.
  let descriptorsReference: Unmanaged<DescriptorTable>
  let contextReference: Unmanaged<FileSystemContext>

  /// What makes jumps of its system calls; of all that share its memory.
  let rewriter: CodeRewriter
  /// What its parent knows of it; nil for the first process.
  let record: ChildRecord?

  let lock = Mutex()

  // MARK: Guarded by `lock`

  /// Its threads, the first one first.
  private(set) var tasks: [Task] = []
  var actions: [64 of SignalAction] = .init(repeating: SignalAction())
  /// Signals for the process as a whole.
  var pending = PendingSignals()
  /// Records of pending signals, its threads' too.
  var signalCount = SignalCount()
  var capabilities = Capabilities()
  var limits = ResourceLimits()
  var timers = ProcessTimers()
  /// Processes that it has made and not waited for.
  var children: [Process] = []
  /// Tells of signals sent to it or to one of its threads (`SignalFile`).
  let signalSource = PollSource()
  /// What its threads that have ended used, and its children that it has waited for.
  var endedThreads = ResourceUsage()
  var endedChildren = ResourceUsage()
  /// The wait status with which the process ends, once that has been decided.
  private(set) var exitStatus: UInt32?

  /// Goes up when a child has ended, under `lock`; who waits for that sleeps in `childChanges`.
  let changeCount = Atomic<UInt32>(0)
  let childChanges = WaitQueue()

  /// On whose behalf it runs. Read without the lock.
  let identity = SharedIdentity()

  // MARK: Changed by its own threads only, whole words

  /// The descriptor table is nobody else's.
  var ownsDescriptors = true

  /// The program is part of the kernel's image: its code lies outside the programs' half.
  var isImage = false
  /// Process group and session.
  var group: Int32 = 1
  var session: Int32 = 1
  /// When it was started (`Clock.now`).
  let startTime = Clock.now()

  /// How large it may make files (RLIMIT_FSIZE).
  let fileSizeLimit = Atomic<UInt64>(.max)
  /// Whether it has been told that the process ends for want of memory.
  let isOutOfMemory = Atomic<Bool>(false)
  /// What it has registered for with membarrier(2), as its commands' bits.
  let barrierRegistrations = Atomic<UInt32>(0)

  /// The program's file; nil for one that is part of the kernel's image.
  var executable: Location?
  /// Name as ps shows it: the last part of the program's path, at most 15 bytes and a NUL.
  var name: [16 of UInt8] = .init(repeating: 0)
  /// Where argv's and envp's strings lie in program memory, for /proc.
  var argumentRange = VirtualRange(start: .zero, end: .zero)
  var environmentRange = VirtualRange(start: .zero, end: .zero)
  /// The auxiliary vector, likewise.
  var auxiliaryRange = VirtualRange(start: .zero, end: .zero)

  init(
    identifier: Int32, addressSpace: AddressSpace, descriptors: DescriptorTable, context: FileSystemContext,
    rewriter: CodeRewriter = CodeRewriter(), record: ChildRecord? = nil
  ) {
    self.rewriter = rewriter
    self.record = record
    self.identifier = identifier
    self.addressSpace = addressSpace
    spaceIdentity = FutexKey.identity(of: addressSpace)
    self.descriptors = descriptors
    self.context = context
    descriptorsReference = .passUnretained(descriptors)
    contextReference = .passUnretained(context)
    signalCount.limit = limits[ResourceLimits.pendingSignals].current
  }

  /// On whose behalf it runs, at this moment.
  var credentials: Credentials { identity.current }

  /// Whether its end has been decided. `lock` is held, or the answer is a hint.
  var isEnding: Bool { exitStatus != nil }

  /// The wait status of a normal end.
  static func waitStatus(exit status: Int32) -> UInt32 { (status.u32 & 0xff) &<< 8 }
  /// The wait status of death by a signal.
  static func waitStatus(killedBy signal: Signal) -> UInt32 { signal.number.u32 }

  // MARK: Threads

  /// Adds a thread; false if the process is ending.
  func add(_ task: Task) -> Bool {
    lock.withLock {
      guard exitStatus == nil else { return false }
      tasks.append(task)
      descriptors.addUser()
      return true
    }
  }

  /// Removes a thread that has ended, and will use the descriptors no more.
  /// - Returns: whether it was the last one, and whether nobody else has its descriptors.
  func remove(_ task: Task) -> (isLast: Bool, isLastUser: Bool) {
    lock.withLock {
      tasks.removeAll { $0 === task }
      task.pending.drop(&signalCount)
      passOn(pending.set.subtracting(task.blocked), from: task)
      endedThreads.add(task.usage)
      if tasks.isEmpty { pending.drop(&signalCount) }
      // With the lock: of the threads of a process, the last one is also the last to use its descriptors.
      return (tasks.isEmpty, descriptors.removeUser())
    }
  }

  /// The thread with this number.
  func task(_ identifier: Int32) -> Task? {
    lock.withLock {
      for task in tasks where task.identifier == identifier { return task }
      return nil
    }
  }

  /// The thread that a futex names as its owner; nil if there is none, or if it has given up what it had (`Task.end`).
  func owner(_ identifier: UInt32) -> Thread? {
    lock.withLock {
      for task in tasks where task.identifier == identifier.i32 && !task.hasLeftLocks { return task.thread }
      return nil
    }
  }

  /// Decides how the process ends, unless that is decided already, and sends all its threads to their end.
  func end(status: UInt32) {
    lock.lock()
    let isDecided = exitStatus != nil
    if !isDecided { exitStatus = status }
    let others = tasks
    lock.unlock()
    // The end of the first process is the end of the machine: whatever its threads are doing stops with it.
    if !isDecided, self === Process.first { MachineEnd.run(status) }
    for task in others { task.interrupt() }
  }

}
