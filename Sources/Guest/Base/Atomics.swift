// Atomics for every layer: the parts of Synchronization that Embedded Swift has.
//
// Import Base, not Synchronization: the whole module would bring a second `Mutex` into scope on the host.

@_exported import struct Synchronization.Atomic
@_exported import struct Synchronization.WordPair
@_exported import func Synchronization.atomicMemoryFence
