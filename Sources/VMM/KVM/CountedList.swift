// KVM's variable-length arguments: a header of two 32-bit words (a count, then padding or flags) and as many
// entries. C declares them with flexible array members, which Swift does not import.

/// Bytes of the header of `kvm_msrs`, `kvm_cpuid2` and `kvm_irq_routing`.
let countedListHeader = 8

/// Lays `entries` out behind their header and passes the address to `body`; the buffer dies with the call.
func withCountedList<Entry, Result>(
  _ entries: [Entry], _ body: (UnsafeMutableRawPointer) -> Result
) -> Result {
  let stride = MemoryLayout<Entry>.stride
  return withUnsafeTemporaryAllocation(byteCount: countedListHeader + stride * entries.count, alignment: 8) { buffer in
    // SAFETY: the buffer holds the header and every entry; entries are plain C structs of at most 8-byte alignment.
    buffer.storeBytes(of: UInt64(entries.count), as: UInt64.self)
    for (number, entry) in entries.enumerated() {
      buffer.storeBytes(of: entry, toByteOffset: countedListHeader + stride * number, as: Entry.self)
    }
    return body(buffer.baseAddress!)
  }
}
