// SignalFile: signals as something to read (signalfd).
//
// A read takes signals of the set that are pending for the thread that reads, or for its process; they should be blocked, or a handler
// may be quicker. Whoever sends a signal tells `Process.signalSource` of the process it is for. An open file stays with the
// source of the process that has made it.
import Base
import Files
import Locks
import Memory
import Threads

/// struct signalfd_siginfo.
struct SignalRecord: BitwiseCopyable {
  var number: UInt32 = 0
  var error: Int32 = 0
  var code: Int32 = 0
  var process: UInt32 = 0
  var user: UInt32 = 0
  var descriptor: Int32 = 0
  var timer: UInt32 = 0
  var band: UInt32 = 0
  var overrun: UInt32 = 0
  var trap: UInt32 = 0
  var status: Int32 = 0
  var integer: Int32 = 0
  var pointer: UInt64 = 0
  var userTime: UInt64 = 0
  var systemTime: UInt64 = 0
  var address: UInt64 = 0
  var rest: [6 of UInt64] = .init(repeating: 0)

  /// What a signal's information says, as far as its kind has it.
  init(_ information: SignalInformation) {
    number = information.number.u32
    error = information.error
    code = information.code
    let isOfKernel = code > SignalInformation.Code.user && code < SignalInformation.Code.kernel
    switch (isOfKernel, number) {
    case (true, 4), (true, 5), (true, 7), (true, 8), (true, 11): address = information.first
    case (true, 17):
      setSender(information)
      status = information.second.i32
    default:
      if code == -2 {
        timer = information.first.u32
        overrun = (information.first &>> 32).u32
      } else {
        setSender(information)
      }
      guard code < 0 else { return }
      integer = information.second.i32
      pointer = information.second
    }
  }

  private mutating func setSender(_ information: SignalInformation) {
    process = information.first.u32
    user = (information.first &>> 32).u32
  }
}

/// Signals of a set, to read.
final class SignalFile: OpenFile {
  private let source: PollSource
  private let set: Atomic<UInt64>

  init(_ set: SignalSet, of process: Process, flags: OpenFlags) {
    source = process.signalSource
    self.set = Atomic(set.subtracting(.unblockable).bits)
    let vnode = AnonymousVnode(type: .unknown, mode: 0o600)
    super.init(
      vnode: vnode, location: AnonymousFileSystem.location(of: vnode, prefix: "anon_inode:[signalfd]"),
      flags: flags.intersection(.nonBlocking).union(.readWrite))
  }

  /// Which signals can be read.
  var signals: SignalSet {
    get { SignalSet(bits: set.load(ordering: .acquiring)) }
    set {
      set.store(newValue.subtracting(.unblockable).bits, ordering: .releasing)
      source.notify(.readable)
    }
  }

  override func describe(_ text: inout TextBuffer) {
    text.append("sigmask:\t")
    text.append(hexadecimal: signals.bits, width: 16)
    text.append("\n")
  }

  private func take() -> SignalInformation? {
    let (task, set) = (Task.current, signals)
    let process = task.process
    let taken = process.lock.withLock { process.take(set, for: task) }
    return taken?.told()
  }

  private var isEmpty: Bool {
    let (task, set) = (Task.current, signals)
    let process = task.process
    return process.lock.withLock { task.pending.set.union(process.pending.set).intersection(set).isEmpty }
  }

  /// Reads whole records; waits for the first.
  override func readData(at offset: UInt64, into transfer: inout Transfer) throws(Errno) -> Int {
    let size = MemoryLayout<SignalRecord>.size
    guard transfer.remaining >= size else { throw .EINVAL }
    let before = transfer.copied
    while transfer.remaining >= size {
      guard let information = take() else {
        if transfer.copied > before { break }
        if isNonBlocking { throw .EAGAIN }
        let result = source.wait { isEmpty }
        if result != .woken { throw .EINTR }
        continue
      }
      let record = SignalRecord(information)
      do throws(Errno) {
        _ = try withUnsafeBytes(of: record) { (bytes) throws(Errno) in try transfer.copyOut(from: bytes) }
      } catch {
        if transfer.copied &- before < size { throw error }
        break
      }
    }
    return (transfer.copied &- before) / size &* size
  }

  override func writeData(at offset: UInt64, from transfer: inout Transfer) throws(Errno) -> Int { throw .EINVAL }

  override var readyMask: ReadyMask {
    guard Thread.currentSlot(.task) != nil else { return [] }
    return isEmpty ? [] : .readable
  }
  override var pollSource: PollSource? { source }
}
