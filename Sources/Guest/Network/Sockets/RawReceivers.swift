// The raw sockets of a machine, each of which gets a copy of every packet that it wants (raw(7)).
//
// The list is read and changed with `lock`, under which a receiver's lock is taken: few machines have raw sockets, and those that have
// none for a protocol look at one word (`wants`).
import Base
import Devices
import Locks

/// Who takes whole packets.
final class SocketRawReceivers: RawReceivers {
  private let lock = Mutex()
  /// Protocols that somebody wants, a bit each for those below 64, and one for all others.
  private let wanted = Atomic<UInt64>(0)
  private let wantsOthers = Atomic<Bool>(false)
  // Guarded by `lock`.
  private var receivers: [RawReceiver] = []

  func add(_ receiver: RawReceiver) {
    lock.withLock {
      receivers.append(receiver)
      note()
    }
  }

  func remove(_ receiver: RawReceiver) {
    lock.withLock {
      receivers.removeAll { $0 === receiver }
      note()
    }
  }

  /// With the lock.
  private func note() {
    var bits: UInt64 = 0
    var hasOthers = false
    for receiver in receivers {
      let number = receiver.protocolNumber
      if number < 64 { bits |= 1 &<< number.u64 } else { hasOthers = true }
    }
    wanted.store(bits, ordering: .relaxed)
    wantsOthers.store(hasOthers, ordering: .relaxed)
  }

  override func wants(_ protocolNumber: UInt8) -> Bool {
    protocolNumber < 64
      ? wanted.load(ordering: .relaxed) &>> protocolNumber.u64 & 1 != 0 : wantsOthers.load(ordering: .relaxed)
  }

  override func deliver(_ packet: borrowing Packet, _ header: InternetHeader) -> Bool {
    var isTaken = false
    lock.lock()
    for receiver in receivers where receiver.wants(packet, header) {
      isTaken = true
      guard let copy = packet.clone() else { continue }
      receiver.take(copy)
      receiver.tell()
    }
    lock.unlock()
    return isTaken
  }
}
