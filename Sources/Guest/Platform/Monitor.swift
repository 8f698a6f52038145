// The monitor port: the few words the kernel has with osv-run outside any device. Each is an exit (25 us on kvm_pvm). Under another monitor
// they go other ways (ForeignMonitor).
import Base
import Instructions
import VirtioABI

#if HOSTED
  import Glibc
#endif

/// Talking to osv-run.
public enum Monitor {
  /// Ends the virtual machine: the program's wait status (exit code in bits 8 to 15, signal in bits 0 to 6).
  public static func exit(_ status: UInt32) -> Never {
    #if HOSTED
      fatalError("Monitor.exit(\(status))")
    #else
      if ForeignMonitor.isThere { ForeignMonitor.exit(status) }
      while true { instruction_out32(BootPort.exit, status) }
    #endif
  }

  /// Ends the virtual machine because the program cannot be started; osv-run says why.
  public static func exit(_ failure: BootFailure) -> Never {
    #if HOSTED
      fatalError("Monitor.exit(\(failure))")
    #else
      if ForeignMonitor.isThere { ForeignMonitor.exit(failure) }
      while true { instruction_out32(BootPort.startFailed, failure.value) }
    #endif
  }

  /// Writes text to osv-run's standard error, at once. For start-up, tests and emergencies.
  public static func text(_ text: StaticString) {
    var line = TextLine()
    line.append(text)
    line.show()
  }

  /// Stops the machine by a signal that the program has stopped by; returns when it was continued.
  public static func stop(_ signal: UInt32) {
    #if GUEST
      // Another monitor cannot be told: the program goes on.
      if !ForeignMonitor.isThere { instruction_out32(BootPort.stop, signal) }
    #endif
  }

  /// Tells osv-run that a phase of the start is over (`--trace boot`).
  public static func phase(_ number: UInt32) {
    #if GUEST
      if !ForeignMonitor.isThere { instruction_out32(BootPort.phase, number) }
    #endif
  }
}

/// A line of text for the monitor, put together without allocation; what does not fit is dropped.
public struct TextLine {
  /// Bytes a line can hold.
  public static let capacity: Int = 240
  private var bytes: InlineArray<256, UInt8>
  private var count: Int

  /// An empty line.
  public init() {
    bytes = InlineArray(repeating: 0)
    count = 0
  }

  /// The bytes so far.
  public var byteCount: Int { count }
  /// Byte `index`.
  public subscript(index: Int) -> UInt8 { bytes[index] }

  /// Appends a byte.
  public mutating func append(byte: UInt8) {
    guard count < Self.capacity else { return }
    bytes[count] = byte
    count &+= 1
  }

  /// Appends text.
  public mutating func append(_ text: StaticString) {
    // SAFETY: a static string's bytes are always there.
    for index in 0..<text.utf8CodeUnitCount { append(byte: text.utf8Start[index]) }
  }

  /// Appends a decimal number.
  public mutating func append(decimal value: UInt64) {
    if value >= 10 { append(decimal: value / 10) }
    append(byte: 48 &+ (value % 10).u8)
  }

  /// Appends a hexadecimal number, with 0x, of at least `digits` digits.
  public mutating func append(hexadecimal value: UInt64, digits: Int = 1) {
    append("0x")
    var shift = 60
    var started = false
    while shift >= 0 {
      let digit = (value &>> shift.u64).u8 & 15
      if digit != 0 || started || shift < digits &* 4 {
        started = true
        append(byte: digit < 10 ? 48 &+ digit : 87 &+ digit)
      }
      shift &-= 4
    }
  }

  /// Writes the line to osv-run's standard error, with a newline.
  public func show() {
    #if HOSTED
      for index in 0..<count { putchar(bytes[index].i32) }
      putchar(10)
    #else
      MonitorText.show(self)
    #endif
  }
}
