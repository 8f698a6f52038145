// The processes, as /proc lists them. There is one: the first.
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
    guard let first = Process.first, first.identifier == identifier else { return nil }
    return first
  }

  /// The lowest number of a process, from `identifier` on.
  public func next(from identifier: Int32) -> Int32? {
    guard let first = Process.first, first.identifier >= identifier else { return nil }
    return first.identifier
  }
}

extension Process: ProcessView {
  /// See `ProcessView`.
  public var processIdentifier: Int32 { identifier }
  /// See `ProcessView`.
  public var threadIdentifiers: [Int32] { lock.withLock { tasks.map { $0.identifier } } }
  /// See `ProcessView`.
  public var fileOwner: (userID: UInt32, groupID: UInt32) {
    lock.withLock { (credentials.effectiveUserID, credentials.effectiveGroupID) }
  }
  /// See `ProcessView`.
  public var descriptorTable: DescriptorTable { descriptors }
  /// See `ProcessView`.
  public var fileSystemContext: FileSystemContext { context }
  /// See `ProcessView`.
  public var executableLocation: Location? { executable }
}
