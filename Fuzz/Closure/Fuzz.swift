// What the search for shared libraries reads: dynamic sections, the linker's cache, the linker's own directories.
import Machine

@testable import Closure

/// One input of the fuzzer.
@c(LLVMFuzzerTestOneInput) public func fuzz(_ data: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  let bytes = UnsafeRawBufferPointer(start: data, count: count)
  if let cache = LibraryCache(bytes) {
    let name = Array(bytes.dropFirst(48).prefix(12))
    for wanted in [name, Array("libc.so.6".utf8)] {
      let path = cache.path(for: wanted, levels: { [Array("x86-64-v2".utf8)] })
      precondition(path.map { !$0.isEmpty && $0.count <= count } ?? true)
    }
  }
  for directory in SystemDirectories.longestRun(bytes) { precondition(directory.first == UInt8(ascii: "/")) }
  let text = Array(bytes.prefix(512))
  let written = text.expanded(
    origin: [1, 2], library: { [3] }, platforms: { [[4], [5]] })
  precondition(written.count <= 16)
  guard let file = try? ELFFile(bytes), let dynamic = try? DynamicSection(file) else { return 0 }
  precondition(dynamic.names.count <= DynamicSection.nameLimit)
  for name in dynamic.names { precondition(!name.name.isEmpty && name.name.count < count) }
  return 0
}
