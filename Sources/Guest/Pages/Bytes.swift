// Clearing and copying whole stretches of kernel memory.
#if HOSTED
  import Glibc
#endif

/// Makes `byteCount` bytes zero.
@inline(__always)
public func clearMemory(_ start: UnsafeMutableRawPointer, byteCount: Int) {
  #if HOSTED
    memset(start, 0, byteCount)
  #else
    // The compiler makes one call of the kernel's memset of it.
    start.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
  #endif
}
