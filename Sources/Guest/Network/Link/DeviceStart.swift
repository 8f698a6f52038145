// How an interface of a device comes into use: its driver is started, its queue pairs get their threads, and it asks for its addresses. In a
// thread of its own, beside the program's start.
import Base
import Devices
import Locks
import Platform
import Threads

extension DeviceInterface {
  /// Begins to start the device. The interface must have been entered into its stack and configured.
  /// - Throws: ENOMEM, EAGAIN: there is no thread for it.
  public func begin() throws(Errno) {
    // SAFETY: the thread keeps what it is given until it has ended.
    let argument = Unmanaged.passRetained(self)
    do throws(Errno) {
      try Thread.spawn(
        name: "network start",
        entry: { context in
          guard let context else { return }
          Unmanaged<DeviceInterface>.fromOpaque(context).takeRetainedValue().start()
        }, argument: argument.toOpaque()
      ).detach()
    } catch {
      argument.release()
      throw error
    }
  }

  private func start() {
    // Interrupts lead here for as long as there is a machine: the interface stays as long, with its driver.
    driver.onStatusChange = {
      self.hasStatusChanged.store(true, ordering: .releasing)
      self.driver.poke(0)
    }
    var started = 0
    do throws(Errno) {
      try driver.start()
      while started < driver.pairCount {
        try ReceiveThread.start(stack, self, pair: started)
        started &+= 1
      }
    } catch {
      driver.stop(owned: started)
      return stack.giveUp(self)
    }
    stack.begin(self)
    stack.runDeferred()
  }
}
