// Where a Swift image begins: the kernel calls `osv_main`, which keeps what it was given and calls the program's `main`.
import Base

/// What the program was started with; set once, before `main`.
struct Invocation {
  var argumentCount = 0
  var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?
  var environment: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?
}

// SAFETY: written before the program's first instruction and never again.
nonisolated(unsafe) var invocation = Invocation()

#if GUEST
  @_extern(c, "main")
  private func programMain(_ count: Int32, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?) -> Int32

  /// The entry that the kernel looks for: with it, the image is a program of its own.
  @c(osv_main)
  public func osvMain(
    _ count: Int32, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?,
    _ environment: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?
  ) -> Int32 {
    invocation = Invocation(argumentCount: count.int, arguments: arguments, environment: environment)
    beginReaderSlots()
    let status = programMain(count, arguments)
    flushOutput()
    return status
  }
#endif

/// The program's arguments; the first one is its name.
public var arguments: [String] {
  var all: [String] = []
  all.reserveCapacity(invocation.argumentCount)
  for index in 0..<invocation.argumentCount {
    if let text = invocation.arguments?[index] { all.append(String(cString: text)) }
  }
  return all
}

/// The value of an environment variable, nil if it is not set.
public func environment(_ name: String) -> String? {
  var index = 0
  while let entry = invocation.environment?[index] {
    index &+= 1
    var at = 0
    var matches = true
    for byte in name.utf8 {
      guard entry[at] != 0, UInt8(bitPattern: entry[at]) == byte else {
        matches = false
        break
      }
      at &+= 1
    }
    if matches, UInt8(bitPattern: entry[at]) == UInt8(ascii: "=") { return String(cString: entry + at + 1) }
  }
  return nil
}

/// Ends the program, all its threads included. Printed text is written out first.
/// - Parameter status: what the caller of osv-run gets, modulo 256.
public func exit(_ status: Int32) -> Never {
  flushOutput()
  while true { _ = call(Call.exitGroup, status.int) }
}
