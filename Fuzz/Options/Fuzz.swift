// The option parser: any argument vector gives options or a failure that is one sentence.
@testable import Command

/// One input of the fuzzer.
@c(LLVMFuzzerTestOneInput) public func fuzz(_ data: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  let arguments = UnsafeBufferPointer(start: data, count: count)
    .split(separator: 0, omittingEmptySubsequences: false).map(Array.init)
  _ = try? Options(parsing: arguments)
  return 0
}
