// The processes, as /proc lists them: the first, and what it has made.
import Base
import Files
import Locks
import ProcFS
import Threads

/// All processes.
public final class ProcessTable: ProcessList, Sendable {
  /// The one table. (It holds nothing: processes are found elsewhere.)
  public static let shared = ProcessTable()

  private init() {}

  /// The process of the running thread.
  public var current: (any ProcessView)? { Thread.currentSlot(.task) == nil ? Process.first : Task.current.process }
  /// The running thread's number.
  public var currentThread: Int32 { Thread.currentSlot(.task) == nil ? 1 : Task.current.identifier }

  /// The process with this number.
  public func process(_ identifier: Int32) -> (any ProcessView)? {
    Process.find(identifier)
  }

  /// The lowest number of a process, from `identifier` on.
  public func next(from identifier: Int32) -> Int32? {
    var lowest: Int32?
    Process.first?.forEachDescendant { process in
      guard process.identifier >= identifier else { return }
      if lowest == nil || process.identifier < lowest.unsafelyUnwrapped { lowest = process.identifier }
    }
    return lowest
  }
}

extension Process: ProcessView {
  /// See `ProcessView`.
  public var processIdentifier: Int32 { identifier }
  /// See `ProcessView`.
  public var threadIdentifiers: [Int32] { lock.withLock { tasks.map { $0.identifier } } }
  /// See `ProcessView`.
  public var fileOwner: (userID: UInt32, groupID: UInt32) {
    let credentials = credentials
    return (credentials.effectiveUserID, credentials.effectiveGroupID)
  }
  /// See `ProcessView`.
  public var descriptorTable: DescriptorTable { descriptors }
  /// See `ProcessView`.
  public var fileSystemContext: FileSystemContext { context }
  /// See `ProcessView`.
  public var executableLocation: Location? { executable }
}
