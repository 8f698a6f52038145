// References that are given up under RCU: what readers reach without counting is an object that somebody counts for them, and that
// count is given up when they are gone.
//
// Where no other CPU runs a thread that is at once, on the caller's thread; otherwise a call does it later. So whatever ends with
// the object ends when the caller returns, or some tens of microseconds to a millisecond after.
import Base
import Locks
import Pages

extension RCU {
  /// Gives up a counted reference that readers may have seen; what led them there has been changed before. Holds of the caller's that
  /// the object's end would take must not be held.
  public static func release<T: AnyObject>(_ object: Unmanaged<T>) {
    if synchronizeAtOnce() { return object.release() }
    guard let memory = KernelHeap.allocate(byteCount: MemoryLayout<Release>.size) else {
      synchronize()
      return object.release()
    }
    // SAFETY: fresh memory of that size, freed by the call, which has the reference.
    let release = memory.bindMemory(to: Release.self, capacity: 1)
    release.initialize(to: Release(object: object.toOpaque()))
    later(
      withUnsafeMutablePointer(to: &release.pointee.call) { $0 },
      { context in
        let release = context.unsafelyUnwrapped.assumingMemoryBound(to: Release.self)
        let object = release.pointee.object
        release.deinitialize(count: 1)
        KernelHeap.free(UnsafeMutableRawPointer(release))
        Unmanaged<AnyObject>.fromOpaque(object).release()
      }, memory)
  }
}

/// A reference on its way out.
private struct Release: ~Copyable {
  var call = RCU.Call()
  let object: UnsafeMutableRawPointer

  init(object: UnsafeMutableRawPointer) { self.object = object }
}
