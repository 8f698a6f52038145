// What a word of shared memory is known by, whoever looks at it.
import Base

extension AddressSpace {
  /// The object that is mapped shared at an address, as a number that no other object has meanwhile, and the offset in it;
  /// nil for private memory and where nothing is mapped.
  public func sharedIdentity(of address: VirtualAddress) -> (object: UInt, offset: UInt64)? {
    withReadLock {
      guard let region = regions.find(address.rawValue), region.pointee.flags.contains(.shared),
        let object = region.pointee.object
      else { return nil }
      return (
        // SAFETY: a number, never followed; the region keeps the object while the lock is held, and as long as it is mapped
        // no other has its address.
        UInt(bitPattern: Unmanaged.passUnretained(object).toOpaque()), region.pointee.objectOffset(address.rawValue)
      )
    }
  }
}
