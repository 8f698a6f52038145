// Printing. A line goes out as one write; a long text in pieces of the buffer's size.
import Base

/// Bytes of printed text collected for one write.
private let outputBufferByteCount = 4096

/// Text that waits for its line's end.
struct OutputBuffer: ~Copyable {
  var lock = Lock()
  var bytes: UnsafeMutablePointer<UInt8>?
  var count = 0
}

// SAFETY: `lock` is held by whoever touches the rest.
nonisolated(unsafe) private var output = OutputBuffer()

/// Prints values' text, separated by spaces, and an end of line, to standard output.
public func print(_ text: String, terminator: String = "\n") {
  output.lock.lock()
  append(text)
  append(terminator)
  output.lock.unlock()
}

/// Prints a constant text and an end of line to standard output.
public func print(_ text: StaticString) {
  output.lock.lock()
  // SAFETY: a static string is `utf8CodeUnitCount` bytes long and never goes away.
  for index in 0..<text.utf8CodeUnitCount { append(text.utf8Start[index]) }
  append(UInt8(ascii: "\n"))
  output.lock.unlock()
}

/// Prints to standard error, at once.
public func printError(_ text: String) {
  flushOutput()
  var copy = text
  copy.append("\n")
  copy.withUTF8 { _ = try? writeAll(2, UnsafeRawBufferPointer($0)) }
}

/// Writes what has been printed and not been written yet.
public func flushOutput() {
  output.lock.lock()
  flushLocked()
  output.lock.unlock()
}

private func append(_ text: String) { for byte in text.utf8 { append(byte) } }

private func append(_ byte: UInt8) {
  if output.bytes == nil {
    output.bytes = UnsafeMutablePointer<UInt8>.allocate(capacity: outputBufferByteCount)
  }
  output.bytes![output.count] = byte
  output.count &+= 1
  if byte == UInt8(ascii: "\n") || output.count == outputBufferByteCount { flushLocked() }
}

private func flushLocked() {
  guard output.count > 0, let bytes = output.bytes else { return }
  // Nobody can be told that standard output is gone: the text is dropped, as printf does.
  _ = try? writeAll(1, UnsafeRawBufferPointer(start: bytes, count: output.count))
  output.count = 0
}

/// Writes all bytes to a descriptor.
func writeAll(_ descriptor: Int, _ bytes: UnsafeRawBufferPointer) throws(Errno) {
  var done = 0
  while done < bytes.count {
    let rest = UnsafeRawBufferPointer(rebasing: bytes[done...])
    done &+= try writeSome(descriptor, rest)
  }
}

/// Writes at least one byte of a non-empty buffer, by way of the stack if the kernel would not take it from where it is.
func writeSome(_ descriptor: Int, _ bytes: UnsafeRawBufferPointer) throws(Errno) -> Int {
  guard let base = bytes.baseAddress else { return 0 }
  if isProgramMemory(base) { return try checked(call(Call.write, descriptor, argument(base), bytes.count)) }
  var copy: [512 of UInt8] = .init(repeating: 0)
  let count = min(bytes.count, 512)
  let result = withUnsafeMutableBytes(of: &copy) { buffer -> Int in
    buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<count]))
    return call(Call.write, descriptor, argument(buffer.baseAddress), count)
  }
  return try checked(result)
}

#if GUEST
  /// What Swift's own print writes with.
  @c(putchar)
  public func putcharForPrint(_ character: Int32) -> Int32 {
    output.lock.lock()
    append(character.u8)
    output.lock.unlock()
    return character
  }
#endif
