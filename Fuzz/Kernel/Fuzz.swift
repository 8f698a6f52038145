// Loading other kernels (bzImage, PVH): whatever the file says, nothing is written outside the guest's memory, and nothing waits.
@testable import Machine

nonisolated(unsafe) private let memory = try? GuestMemory(byteCount: 32 << 20)

/// One input of the fuzzer: two thirds kernel, a third RAM disk.
@c(LLVMFuzzerTestOneInput) public func fuzz(_ data: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  let bytes = UnsafeRawBufferPointer(start: data, count: count)
  let kernel = UnsafeRawBufferPointer(rebasing: bytes[..<(count - count / 3)])
  let disk = UnsafeRawBufferPointer(rebasing: bytes[(count - count / 3)...])
  guard let memory else { fatalError("no memory") }
  let image = ForeignKernel(image: kernel, initialDisk: disk, commandLine: [UInt8(ascii: "x")])
  guard let entry = try? image.load(into: memory, rootPointer: 0xe0000) else { return 0 }
  precondition(entry.address >= 1 << 20)
  return 0
}
