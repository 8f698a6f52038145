// The I/O APIC (Intel 82093AA): lines to messages. With local APICs in KVM and nothing else there ("split"), this half is ours.
//
// Only edges are delivered: no device of the little PC holds a line. A masked line's edge is lost, as in the original.
import Synchronization
import VirtioPCI

/// An I/O APIC of 24 lines.
final class IOInterruptController: Sendable {
  static let lineCount = 24

  private struct State {
    var select: UInt8 = 0
    var identity: UInt32 = 0
    /// Masked at first.
    var entries = [UInt64](repeating: 1 << 16, count: IOInterruptController.lineCount)
  }

  private let state = Mutex(State())
  private let interrupt: @Sendable (MSIMessage) -> Void

  /// A controller whose messages `interrupt` delivers.
  init(interrupt: @escaping @Sendable (MSIMessage) -> Void) { self.interrupt = interrupt }

  /// A line goes up.
  func raise(_ line: Int) {
    let message = state.withLock { state -> MSIMessage? in
      guard state.entries.indices.contains(line), state.entries[line] & 1 << 16 == 0 else { return nil }
      return Self.message(state.entries[line])
    }
    if let message { interrupt(message) }
  }

  /// What an entry of the redirection table sends.
  static func message(_ entry: UInt64) -> MSIMessage {
    let vector = UInt32(truncatingIfNeeded: entry & 0xff)
    let mode = UInt32(truncatingIfNeeded: entry >> 8 & 7)
    let isLogical = entry >> 11 & 1
    let destination = entry >> 56
    // Lowest priority is a redirection hint of the message.
    let hint: UInt64 = mode == 1 ? 1 : 0
    return MSIMessage(
      address: PCLayout.localInterruptController | destination << 12 | hint << 3 | isLogical << 2,
      data: vector | mode << 8)
  }

  /// A read of the 4 KiB at `PCLayout.interruptController`.
  func read(_ offset: UInt64) -> UInt32 {
    state.withLock { state in
      switch offset {
      case 0x00: return UInt32(state.select)
      case 0x10: break
      default: return 0
      }
      switch state.select {
      case 0, 2: return state.identity
      case 1: return UInt32(Self.lineCount - 1) << 16 | 0x11
      case 0x10..<UInt8(0x10 + 2 * Self.lineCount):
        let entry = state.entries[Int(state.select - 0x10) / 2]
        return UInt32(truncatingIfNeeded: state.select & 1 == 0 ? entry : entry >> 32)
      default: return 0
      }
    }
  }

  /// A write there.
  func write(_ offset: UInt64, _ value: UInt32) {
    state.withLock { state in
      switch offset {
      case 0x00: return state.select = UInt8(truncatingIfNeeded: value)
      case 0x10: break
      default: return
      }
      switch state.select {
      case 0: state.identity = value & 0x0f00_0000
      case 0x10..<UInt8(0x10 + 2 * Self.lineCount):
        let index = Int(state.select - 0x10) / 2
        let old = state.entries[index]
        // Delivery status and remote IRR (bits 12 and 14) cannot be written, and are never set.
        state.entries[index] =
          state.select & 1 == 0
          ? old & ~0xffff_ffff | UInt64(value & 0x1_afff)
          : old & 0xffff_ffff | UInt64(value & 0xff00_0000) << 32
      default: break
      }
    }
  }
}
