// Places in memory objects where another thread may come between, for tests on the host that put one there. In the kernel there is nothing.

/// Such a place.
enum Interleaving: Equatable {
  /// Bytes of a write are about to be copied to a page, which is held by a reference.
  case copying
  /// Pages have been taken for clean and are about to be sent to the pager.
  case sending
}

extension MemoryObject {
  /// The thread is at the place.
  @inline(__always) func reach(_ place: Interleaving) {
    #if HOSTED
      visitor?(place)
    #endif
  }
}
