// What the bootstrap does to the machine, in few words: memory by physical address, I/O ports, CPUID. Unit tests have a model.
import Base
import VirtioABI

/// The machine before the kernel.
///
/// Physical addresses below 4 GiB are reached as they are: the bootstrap runs in an identity map of that size.
protocol BareMachine {
  /// Bytes of memory that may be looked at and changed, nil if they do not all lie below 4 GiB. (The machine itself does not know what is
  /// RAM there; the monitor is believed.)
  func memory(_ physical: UInt64, count: UInt64) -> UnsafeMutableRawPointer?
  /// A device's register, 1, 2 or 4 bytes. The address is below 4 GiB.
  func readRegister(_ physical: UInt64, count: Int) -> UInt32
  /// The same.
  func writeRegister(_ physical: UInt64, count: Int, _ value: UInt32)
  /// An I/O port, 1, 2 or 4 bytes.
  func readPort(_ port: UInt16, count: Int) -> UInt32
  /// The same.
  func writePort(_ port: UInt16, count: Int, _ value: UInt32)
  /// CPUID.
  func identify(_ leaf: UInt32, _ subleaf: UInt32) -> (a: UInt32, b: UInt32, c: UInt32, d: UInt32)
  /// The time-stamp counter.
  func timeStamp() -> UInt64
  /// Says something to whoever looks, on a line of its own: a sentence in two parts.
  func tell(_ first: StaticString, _ second: StaticString)
  /// 64 random bits of the processor; nil if it has none to give.
  func random() -> UInt64?
}

extension BareMachine {
  /// A little-endian number in RAM of 1 to 8 bytes; nil if it is not all in RAM.
  func load<Number: FixedWidthInteger & BitwiseCopyable>(_ physical: UInt64, as type: Number.Type) -> Number? {
    // SAFETY: so many bytes are RAM.
    memory(physical, count: MemoryLayout<Number>.size.u64)?.loadUnaligned(as: Number.self)
  }

  /// The bytes of a NUL-terminated text before the NUL, at most `limit`; nil if they are not all in RAM.
  func text(_ physical: UInt64, limit: Int) -> UnsafeRawBufferPointer? {
    var count = 0
    while count < limit {
      guard let byte = load(physical &+ count.u64, as: UInt8.self) else { return nil }
      if byte == 0 { break }
      count &+= 1
    }
    // SAFETY: they have just been looked at.
    return memory(physical, count: count.u64).map { UnsafeRawBufferPointer(start: $0, count: count) }
  }
}

/// Why the kernel cannot be started, in a sentence.
struct BootstrapFailure: Error {
  /// The sentence.
  let reason: StaticString
  init(_ reason: StaticString) { self.reason = reason }
}
