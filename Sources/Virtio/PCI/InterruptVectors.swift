// MSI-X: the table, its masks and pending bits, and which entry queues and configuration changes use.
//
// The lock is a leaf: nothing is called with it held, the interrupt closure least of all.
import Synchronization
import VirtioABI

/// A message-signalled interrupt: what is written where.
public struct MSIMessage: Equatable, Sendable {
  /// Address, in the local APICs' range.
  public var address: UInt64
  /// Vector and delivery mode.
  public var data: UInt32

  /// A message.
  public init(address: UInt64, data: UInt32) {
    self.address = address
    self.data = data
  }

  /// Fixed delivery of `vector` to the CPU with x2APIC id `cpu`.
  public init(vector: UInt32, cpu: UInt32) {
    self.init(address: UInt64(cpu & ~0xff) << 32 | 0xfee0_0000 | UInt64(cpu & 0xff) << 12, data: vector)
  }
}

/// The interrupts of one function.
final class InterruptVectors: Sendable {
  /// One for each queue, and one for configuration changes.
  let count: Int

  private struct Entry {
    var message = MSIMessage(address: 0, data: 0)
    var isMasked = true
    var isPending = false
  }

  private struct State {
    var entries: [Entry]
    /// Table entry of each source; the last source is the configuration.
    var vectors: [UInt16]
    var presets: [UInt16]
    var isEnabled = false
    var isFunctionMasked = false
    /// The legacy status register: bit 0 a queue, bit 1 the configuration. Only without MSI-X.
    var status: UInt8 = 0
  }

  private let state: Mutex<State>
  private let interrupt: @Sendable (MSIMessage) -> Void

  init(queueCount: Int, interrupt: @escaping @Sendable (MSIMessage) -> Void) {
    count = queueCount + 1
    self.interrupt = interrupt
    let none = [UInt16](repeating: VirtioPCI.noVector, count: count)
    state = Mutex(State(entries: Array(repeating: Entry(), count: count), vectors: none, presets: none))
  }

  /// Programs and enables everything, as a driver would: source i uses entry i.
  func preset(_ messages: [MSIMessage]) {
    precondition(messages.count == count, "one message for each queue and one for the configuration")
    state.withLock {
      for (index, message) in messages.enumerated() {
        $0.entries[index] = Entry(message: message, isMasked: false)
        $0.presets[index] = UInt16(index)
      }
      $0.vectors = $0.presets
      $0.isEnabled = true
    }
  }

  /// As at the device's reset. The table is the bus's, and stays.
  func reset() {
    state.withLock {
      $0.vectors = $0.presets
      $0.status = 0
      for index in $0.entries.indices { $0.entries[index].isPending = false }
    }
  }

  func vector(of source: Int) -> UInt16 {
    state.withLock { source < $0.vectors.count ? $0.vectors[source] : VirtioPCI.noVector }
  }

  func setVector(of source: Int, _ vector: UInt16) {
    state.withLock {
      if source < $0.vectors.count { $0.vectors[source] = Int(vector) < count ? vector : VirtioPCI.noVector }
    }
  }

  /// Interrupts the guest for a source: a queue's index, or `count` - 1 for the configuration.
  func raise(_ source: Int) {
    let message = state.withLock { state -> MSIMessage? in
      guard state.isEnabled else {
        state.status |= source == count - 1 ? 2 : 1
        return nil
      }
      let vector = Int(state.vectors[source])
      guard vector < count else { return nil }
      if state.isFunctionMasked || state.entries[vector].isMasked {
        state.entries[vector].isPending = true
        return nil
      }
      return state.entries[vector].message
    }
    if let message { interrupt(message) }
  }

  /// The legacy status register, cleared by reading.
  func takeStatus() -> UInt8 {
    state.withLock { state in
      defer { state.status = 0 }
      return state.status
    }
  }

  /// Bits 14 and 15 of the capability's message control.
  var control: UInt16 {
    get { state.withLock { ($0.isEnabled ? 0x8000 : 0) | ($0.isFunctionMasked ? 0x4000 : 0) } }
    set {
      state.withLock {
        $0.isEnabled = newValue & 0x8000 != 0
        $0.isFunctionMasked = newValue & 0x4000 != 0
      }
      deliverPending()
    }
  }

  private func deliverPending() {
    let messages = state.withLock { state -> [MSIMessage] in
      guard state.isEnabled, !state.isFunctionMasked else { return [] }
      var messages: [MSIMessage] = []
      for index in state.entries.indices where state.entries[index].isPending && !state.entries[index].isMasked {
        state.entries[index].isPending = false
        messages.append(state.entries[index].message)
      }
      return messages
    }
    for message in messages { interrupt(message) }
  }

  /// Reads 32 bits of the table, at an offset that is a multiple of 4.
  func readTable(at offset: Int) -> UInt32 {
    state.withLock {
      guard offset / 16 < count else { return 0 }
      let entry = $0.entries[offset / 16]
      return switch offset % 16 {
      case 0: UInt32(truncatingIfNeeded: entry.message.address)
      case 4: UInt32(truncatingIfNeeded: entry.message.address >> 32)
      case 8: entry.message.data
      default: entry.isMasked ? 1 : 0
      }
    }
  }

  /// Writes 32 bits of the table likewise.
  func writeTable(at offset: Int, _ value: UInt32) {
    state.withLock {
      guard offset / 16 < count else { return }
      let index = offset / 16
      switch offset % 16 {
      case 0:
        $0.entries[index].message.address = $0.entries[index].message.address & ~0xffff_ffff | UInt64(value & ~3)
      case 4:
        $0.entries[index].message.address =
          $0.entries[index].message.address & 0xffff_ffff | UInt64(value) << 32
      case 8: $0.entries[index].message.data = value
      default: $0.entries[index].isMasked = value & 1 != 0
      }
    }
    if offset % 16 == 12 { deliverPending() }
  }

  /// The pending bits.
  var pending: UInt64 {
    state.withLock { state in
      state.entries.indices.reduce(0) { $0 | (state.entries[$1].isPending ? 1 << UInt64($1) : 0) }
    }
  }
}
