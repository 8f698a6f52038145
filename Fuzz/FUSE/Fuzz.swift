// The FUSE server under requests of arbitrary bytes: each input is a sequence of requests to one server over a small tree.
import VirtioFileSystem

// One server for all inputs: state left by one is part of the next one's world.
private let server = try! FUSEServer(path: "/usr/include/linux")

/// One input of the fuzzer.
@c(LLVMFuzzerTestOneInput) public func fuzz(_ data: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  var rest = UnsafeRawBufferPointer(start: data, count: count)
  while rest.count >= 2 {
    let length = min(Int(rest[0]) << 1 | 0x28, rest.count - 1)
    fuzzFUSE(UnsafeRawBufferPointer(rebasing: rest[1..<(1 + length)]), server: server)
    rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(1 + length))
  }
  return 0
}
