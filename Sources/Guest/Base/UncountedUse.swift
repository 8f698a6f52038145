// Using an object without counting it.
//
// The standard library's `_withUnsafeGuaranteedRef` does the same for bodies whose errors have no type, which the kernel has not.

extension Unmanaged {
  /// Runs a body with the object, which somebody else must keep alive until it returns.
  @inline(__always) public func use<R: ~Copyable, E: Error>(_ body: (Instance) throws(E) -> R) throws(E) -> R {
    // SAFETY: a word that holds the object's address is what a variable that holds the object is; nothing is copied, so nothing counted.
    var address = toOpaque()
    return try withUnsafeMutablePointer(to: &address) { (pointer) throws(E) -> R in
      try body(UnsafeRawPointer(pointer).assumingMemoryBound(to: Instance.self).pointee)
    }
  }
}
