// What the end of the machine means to the network. The connections of its programs are closed, as the end of a process closes them, and what programs have
// sent is delivered. A kernel that outlives its programs goes on with that for minutes; here the end waits for it: while peers acknowledge,
// and seconds for those who do not.
import Base
import Devices
import Locks
import Platform
import Threads

extension NetworkStack {
  /// How long no peer may acknowledge anything, and how long all of it may take, ns.
  private static var patience: (still: UInt64, all: UInt64) { (2_000_000_000, 60_000_000_000) }
  /// The same if the program was killed: whoever did that does not wait for long.
  private static var patienceOfKilled: (still: UInt64, all: UInt64) { (200_000_000, 1_000_000_000) }
  /// How long devices may take, ns.
  private static var devicePatience: UInt64 { 20_000_000 }
  /// Between two looks, ns: less than most peers take for an answer.
  private static var pause: UInt64 { 50_000 }

  /// Closes all connections and waits until what was sent has been acknowledged and has left the devices, as far as somebody takes it:
  /// datagrams, too, that wait for their neighbour's address. Thread context; the machine ends then.
  /// - Parameter isKilled: a signal has ended the program.
  public func finishSending(isKilled: Bool) {
    let patience = isKilled ? Self.patienceOfKilled : Self.patience
    finishConnections(patience: patience)
    let start = Clock.now()
    while neighbours.hasWaiting, Clock.now() &- start < patience.still { _ = Thread.sleep(until: .after(Self.pause)) }
    let end = Clock.now() &+ Self.devicePatience
    for interface in interfaces {
      guard let device = interface as? DeviceInterface else { continue }
      while device.driver.reapTransmitted() > 0, Clock.now() < end { _ = Thread.sleep(until: .after(Self.pause)) }
    }
  }

  /// Closes all connections, and waits until their peers have acknowledged everything.
  func finishConnections(patience: (still: UInt64, all: UInt64)) {
    var open: [TCPSocket] = []
    for socket in sockets.all(ofProtocol: TCPSocket.number) {
      guard let socket = socket as? TCPSocket else { continue }
      if !socket.lock.withLock({ socket.isClosed }) { socket.close(waits: false) }
      open.append(socket)
    }
    let start = Clock.now()
    var (moved, places) = (start, 0 as UInt64)
    while true {
      let now = Clock.now()
      var sum: UInt64 = 0
      open.removeAll { socket in
        guard let place = socket.unfinished() else { return true }
        sum &+= place.u64
        return false
      }
      if open.isEmpty || now &- start >= patience.all { return }
      if sum != places { (moved, places) = (now, sum) }
      if now &- moved >= patience.still { return }
      _ = Thread.sleep(until: .after(Self.pause))
    }
  }
}
