// The split virtqueue over guest memory whose every byte the fuzzer chose: rings, descriptors, indirect tables. Whatever is handed out
// lies within guest memory, and the work is bounded.
import Glibc
import VirtioQueue

private let memoryByteCount = 1 << 14
// SAFETY: allocated once, never freed; the fuzzer's inputs are taken one at a time.
nonisolated(unsafe) private let memory = UnsafeMutableRawPointer.allocate(byteCount: memoryByteCount, alignment: 4096)
private let map: GuestMemoryMap = {
  let map = GuestMemoryMap()
  map.add(start: GuestAddress(0x1000), byteCount: UInt64(memoryByteCount), host: memory)
  return map
}()
nonisolated(unsafe) private let chain = DescriptorChain()

/// One input of the fuzzer.
@c(LLVMFuzzerTestOneInput) public func fuzz(_ data: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  guard count >= 4 else { return 0 }
  memset(memory, 0, memoryByteCount)
  memcpy(memory, data + 4, min(count - 4, memoryByteCount))
  // Bits 28 and 29: indirect descriptors and event indices. Bit 32: version 1.
  let features = UInt64(data[0] & 3) << 28 | 1 << 32
  let size = UInt16(1) << UInt16(data[1] % 8)
  let configuration = SplitQueue.Configuration(
    size: size, descriptors: GuestAddress(0x1000),
    available: GuestAddress(0x1000 + UInt64(data[2] & 0x3f) << 4 + 0x800),
    used: GuestAddress(0x3000), features: features)
  guard let queue = try? SplitQueue(configuration, memory: map) else { return 0 }
  for round in 0..<3 {
    var taken = 0
    while queue.pop(into: chain) {
      taken += 1
      precondition(taken <= Int(size), "more requests than entries")
      for piece in Array(chain.readable) + Array(chain.writable) {
        let start = UnsafeMutableRawPointer(piece.iov_base!)
        precondition(start >= memory && start + Int(piece.iov_len) <= memory + memoryByteCount, "outside memory")
      }
      // The fuzzer's bytes come in here too: the device writes what it was told, over rings and tables if it must.
      let written = min(chain.writableByteCount, Int(data[3]))
      _ = chain.write(at: 0, from: UnsafeRawBufferPointer(start: data, count: min(written, count)))
      queue.push(chain, written: written)
      if round == 1 { break }
    }
    _ = queue.takeInterrupt()
    _ = queue.rearm()
    // Memory changes under the device between two kicks.
    for offset in stride(from: 4, to: min(count, 64), by: 3) {
      memory.storeBytes(of: data[offset], toByteOffset: 0x800 + offset, as: UInt8.self)
    }
  }
  return 0
}
