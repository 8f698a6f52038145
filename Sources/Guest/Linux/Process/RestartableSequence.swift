// Restartable sequences, rseq(2): a thread keeps, in memory that it has registered, the number of its CPU and the description of a
// short piece of code that is to be begun again elsewhere if the thread loses its CPU or takes a signal inside it.
//
// Rules: the memory is looked at and written on the way back to the program only, when the scheduler has left a notice (`Thread.takeNotice`),
// and before a signal's handler is entered. Whatever is wrong with it is SIGSEGV, as on Linux. System calls inside a sequence
// are the program's mistake; the way back from one only tells the CPU.
import Base
import Memory
import Platform
import Threads

/// What a thread has registered.
struct RestartableSequence {
  /// struct rseq, aligned to 32 bytes; zero: nothing is registered.
  var address = VirtualAddress.zero
  /// Its size, as it was registered.
  var byteCount: UInt32 = 0
  /// The word that stands before every place where an aborted sequence goes on.
  var signature: UInt32 = 0

  /// Whether anything is registered.
  var isRegistered: Bool { address != .zero }

  /// The size that every kernel has had, and its alignment.
  static let originalByteCount: UInt32 = 32
  /// Bytes of the fields that are served (AT_RSEQ_FEATURE_SIZE): up to `mm_cid`.
  static let featureByteCount: UInt64 = 28

  // Offsets in struct rseq.
  static let processors: UInt64 = 0
  static let section: UInt64 = 8
  static let node: UInt64 = 20

  /// cpu_id_start and cpu_id; node_id and mm_cid.
  struct Pair: BitwiseCopyable {
    var first: UInt32
    var second: UInt32
  }
}

/// struct rseq_cs: the description of one sequence.
struct CriticalSection: BitwiseCopyable {
  var version: UInt32 = 0
  var flags: UInt32 = 0
  var start: UInt64 = 0
  var byteCount: UInt64 = 0
  var abort: UInt64 = 0

  /// Whether the description makes sense: a version that is known, addresses of the program, the way out not inside.
  var isValid: Bool {
    let end = AddressMap.programEnd.rawValue
    return version == 0 && start < end && byteCount < end && start &+ byteCount < end && abort < end && abort >= 4
      && !contains(abort)
  }

  /// Whether an instruction's address lies in the sequence.
  func contains(_ address: UInt64) -> Bool { address &- start < byteCount }
}

extension Task {
  /// Before the program goes on, after the thread lost its CPU or got another one. Interrupts are enabled.
  func followNotice(_ frame: UnsafeMutablePointer<TrapFrame>) {
    #if !HOSTED
      guard let cpu = thread.takeNotice(), restartable.isRegistered else { return }
      do throws(Errno) {
        try leaveSequence(frame)
        try storeProcessor(start: cpu.u32, cpu: cpu.u32)
      } catch {
        raise(SignalInformation(.segmentation, code: SignalInformation.Code.kernel, address: 0))
      }
    #endif
  }

  /// If the program is inside a sequence, it goes on at its way out.
  /// - Throws: EFAULT, EINVAL (a description that makes no sense).
  func leaveSequence(_ frame: UnsafeMutablePointer<TrapFrame>) throws(Errno) {
    guard restartable.isRegistered, frame.pointee.vector < TrapFrame.systemCallVector else { return }
    let place = VirtualAddress(restartable.address.rawValue &+ RestartableSequence.section)
    let described = try UserSpan.read(UInt64.self, at: place)
    if described == 0 { return }
    let section = try UserSpan.read(CriticalSection.self, at: VirtualAddress(described))
    guard section.isValid else { throw .EINVAL }
    // Behind its end, or not yet begun: a description of the past, cleared so that it is not read again.
    let isInside = section.contains(originalAddress(frame.pointee.rip) ?? frame.pointee.rip)
    if isInside {
      let word = try UserSpan.read(UInt32.self, at: VirtualAddress(section.abort &- 4))
      guard word == restartable.signature else { throw .EINVAL }
    }
    try UserSpan.write(UInt64(0), at: place)
    if isInside { frame.pointee.rip = section.abort }
  }

  /// Stores the CPU's number, twice: for those who begin a sequence and for those who ask (`.max`: nobody keeps it up to date). The
  /// node is 0; the number of concurrency is the CPU's, which no other running thread has.
  fileprivate func storeProcessor(start: UInt32, cpu: UInt32) throws(Errno) {
    let base = restartable.address.rawValue
    try UserSpan.write(
      RestartableSequence.Pair(first: start, second: cpu), at: VirtualAddress(base &+ RestartableSequence.processors))
    try UserSpan.write(
      RestartableSequence.Pair(first: 0, second: start), at: VirtualAddress(base &+ RestartableSequence.node))
  }
}

extension SystemCall {
  /// rseq(2).
  func rseq() throws(Errno) -> Int {
    let byteCount = argument1.u32
    let flags = argument2.i32
    let signature = argument3.u32
    let old = task.restartable
    let unregister: Int32 = 1
    if flags & unregister != 0 {
      guard flags == unregister, old.isRegistered, old.address == address0, old.byteCount == byteCount else {
        throw .EINVAL
      }
      guard old.signature == signature else { throw .EPERM }
      try task.storeProcessor(start: 0, cpu: .max)
      task.restartable = RestartableSequence()
      #if !HOSTED
        Thread.wantNotice(false)
      #endif
      return 0
    }
    guard flags == 0 else { throw .EINVAL }
    if old.isRegistered {
      guard old.address == address0, old.byteCount == byteCount else { throw .EINVAL }
      throw old.signature == signature ? .EBUSY : .EPERM
    }
    guard byteCount >= RestartableSequence.originalByteCount, address0.isAligned(to: 32), address0 != .zero else {
      throw .EINVAL
    }
    guard UserSpan.isProgram(address0, byteCount.int) else { throw .EFAULT }
    task.restartable = RestartableSequence(address: address0, byteCount: byteCount, signature: signature)
    #if !HOSTED
      Thread.wantNotice(true)
    #endif
    return 0
  }
}
