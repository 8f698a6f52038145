// SharedIdentity: on whose behalf a process runs: credentials that change as a whole and that every system call looks at.
//
// They lie in an object that never changes; a change publishes another one, under the process' lock. A task keeps an object of
// its own (`Task.credentials`), so it looks at credentials without a lock or a count: it only compares two addresses, and takes the
// new object, counted, when they differ. An address that the task counts is nobody else's, so equal addresses mean the same object.
//
// Who replaces the object gives its count up when no reader under RCU can be about to count it.
//
// SAFETY of all: the word is always the address of an object that is counted until a grace period after another has taken its place.
import Base
import Files
import Locks
import Threads

/// Credentials that never change.
final class IdentityRecord {
  let credentials: Credentials
  init(_ credentials: Credentials) { self.credentials = credentials }
}

/// The credentials of a process.
final class SharedIdentity {
  private let word = LiveWord(SharedIdentity.word(Credentials()))

  private static func word(_ credentials: Credentials) -> UInt {
    UInt(bitPattern: Unmanaged.passRetained(IdentityRecord(credentials)).toOpaque())
  }

  private static func record(_ word: UInt) -> Unmanaged<IdentityRecord> {
    Unmanaged.fromOpaque(UnsafeRawPointer(bitPattern: word).unsafelyUnwrapped)
  }

  deinit { Self.record(word.peek()).release() }

  /// The present ones.
  var current: Credentials { RCU.read { Self.record(word.load()).use { $0.credentials } } }

  /// Makes others the present ones; with the process' lock.
  /// - Returns: the old ones, to be given up (`RCU.release`) without it.
  func replace(with credentials: Credentials) -> Unmanaged<IdentityRecord> {
    Self.record(word.exchange(Self.word(credentials)))
  }

  /// Makes a reference that a task has, counted, one to the present record; nil: it has none.
  @inline(__always) func refresh(_ own: inout Unmanaged<IdentityRecord>?) -> Unmanaged<IdentityRecord> {
    if let own, UInt(bitPattern: own.toOpaque()) == word.load() { return own }
    return replace(&own)
  }

  @inline(never) private func replace(_ own: inout Unmanaged<IdentityRecord>?) -> Unmanaged<IdentityRecord> {
    let fresh = RCU.read { Self.record(word.load()).retain() }
    own?.release()
    own = fresh
    return fresh
  }
}
