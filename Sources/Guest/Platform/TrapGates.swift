// The interrupt descriptor table: one gate for each vector, all on a stack of their own (IST), so that the red zone of the
// interrupted program survives.
#if GUEST
  import Base
  import Instructions
  import VirtioABI

  enum TrapGates {
    /// Fills in the table, to which osv-run has pointed IDTR.
    static func install() {
      // SAFETY: osv-run reserved a page for it.
      let table = LinearMap.pointer(PhysicalAddress(Boot.information.pointee.idtPhysical))
        .assumingMemoryBound(to: UInt64.self)
      let stubs = UInt(bitPattern: address_of_trap_stubs()).u64
      for vector in 0..<256 { set(table, vector, entry: stubs &+ vector.u64 &* 16, stack: 1) }
      set(table, 2, entry: UInt(bitPattern: address_of_trap_nmi()).u64, stack: 2)
      set(table, 8, entry: UInt(bitPattern: address_of_trap_double_fault()).u64, stack: 3)
    }

    private static func set(_ table: UnsafeMutablePointer<UInt64>, _ vector: Int, entry: UInt64, stack: UInt64) {
      // An interrupt gate. `int3` and `into` may be called from hardware CPL 3, where all code of kvm_pvm runs.
      let type: UInt64 = vector == 3 || vector == 4 ? 0xee : 0x8e
      table[vector &* 2 &+ 1] = entry &>> 32
      table[vector &* 2] =
        entry & 0xffff | SELECTOR_KERNEL_CODE.u64 &<< 16 | stack &<< 32 | type &<< 40 | (entry &>> 16 & 0xffff) &<< 48
    }
  }
#endif
