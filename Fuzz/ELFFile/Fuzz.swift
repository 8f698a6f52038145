// The monitor's view of ELF files: what it tells about any bytes, it read within them.
@testable import Machine

/// One input of the fuzzer.
@c(LLVMFuzzerTestOneInput) public func fuzz(_ data: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  let bytes = UnsafeRawBufferPointer(start: data, count: count)
  guard let file = try? ELFFile(bytes) else { return 0 }
  for segment in file.segments where segment.type == 1 {
    precondition(segment.fileOffset + segment.fileCount <= UInt64(count))
    precondition(segment.fileCount <= segment.memoryCount)
  }
  _ = file.interpreter
  return 0
}
