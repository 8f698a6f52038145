// The guest's ELF parser: any bytes give an image whose promises hold, or an error.
@testable import Linux

/// Bytes in memory, as the parser wants them.
private struct Bytes: ByteSource {
  let bytes: UnsafeRawBufferPointer
  var byteCount: UInt64 { UInt64(bytes.count) }
  func read(at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) -> Bool {
    guard offset <= byteCount, UInt64(buffer.count) <= byteCount - offset else { return false }
    buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[Int(offset)..<(Int(offset) + buffer.count)]))
    return true
  }
}

/// One input of the fuzzer.
@c(LLVMFuzzerTestOneInput) public func fuzz(_ data: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  guard let image = try? ELFImage(Bytes(bytes: UnsafeRawBufferPointer(start: data, count: count))) else { return 0 }
  for index in 0..<16 {
    let segment = image.segments[index]
    guard segment.memoryByteCount > 0 else { continue }
    precondition(segment.fileByteCount <= segment.memoryByteCount)
    precondition(segment.fileOffset + segment.fileByteCount <= UInt64(count))
    precondition(segment.address + segment.memoryByteCount <= ELFImage.addressLimit)
  }
  return 0
}
