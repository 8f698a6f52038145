// The page tables of an address space live until the last CPU has left them: a kernel thread keeps whatever tables its
// predecessor had, so that going to sleep and back costs no switch.
import Base
import Locks
import Pages
import Platform
import Synchronization

/// A root and its users: the address space itself, and each CPU on which it is active.
struct AddressSpaceTables: ~Copyable {
  let table: PageTable
  let users = Atomic<Int>(1)

  init(table: PageTable) { self.table = table }
}

typealias AddressSpaceTablesPointer = UnsafeMutablePointer<AddressSpaceTables>

extension UnsafeMutablePointer where Pointee == AddressSpaceTables {
  /// New tables that share the kernel's part; nil if memory is out.
  static func make() -> AddressSpaceTablesPointer? {
    guard let memory = KernelHeap.allocate(byteCount: MemoryLayout<AddressSpaceTables>.stride) else { return nil }
    guard let table = PageTable.create(sharing: KernelMappings.kernelTable) else {
      KernelHeap.free(memory)
      return nil
    }
    // SAFETY: fresh heap memory of the right size, aligned to 16.
    let pointer = memory.bindMemory(to: AddressSpaceTables.self, capacity: 1)
    pointer.initialize(to: AddressSpaceTables(table: table))
    return pointer
  }

  /// Makes this CPU use the tables. Interrupts are off.
  func activate() {
    let old = CPU.slot(.addressSpace)
    guard old != UnsafeMutableRawPointer(self) else { return }
    pointee.users.add(1, ordering: .relaxed)
    CPU.setSlot(.addressSpace, UnsafeMutableRawPointer(self))
    TLB.setRoot(pointee.table.root)
    // SAFETY: the slot holds nothing else, and what it holds has a user for it.
    old?.assumingMemoryBound(to: AddressSpaceTables.self).release()
  }

  /// One user less; the last one frees the tables.
  func release() {
    guard pointee.users.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 else { return }
    pointee.table.destroy()
    deinitialize(count: 1)
    KernelHeap.free(UnsafeMutableRawPointer(self))
  }

  /// One user more, which `release` takes back.
  func retain() { pointee.users.add(1, ordering: .relaxed) }

  /// Runs `body`, a flush, for these tables. With preemption off.
  ///
  /// On kvm_pvm a flush brings the translations of the CPU's own tables in line, on all CPUs; those of tables that the CPU has not stay as
  /// they were. So it gets them for that long.
  func withFlushes(_ body: () -> Void) {
    let current = CPU.slot(.addressSpace)
    guard TLB.flushesEverywhere, current != UnsafeMutableRawPointer(self) else { return body() }
    TLB.setRoot(pointee.table.root)
    body()
    // SAFETY: as in `activate`.
    let old = current?.assumingMemoryBound(to: AddressSpaceTables.self).pointee.table ?? KernelMappings.kernelTable
    TLB.setRoot(old.root)
  }
}
