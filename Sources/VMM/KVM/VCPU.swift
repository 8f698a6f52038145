// One virtual CPU: its registers, and running it until it has something for us.
//
// `run` is called by one thread at a time; `requestExit` by any.

import CKVM

#if canImport(Glibc)
  import Glibc
#endif

// SAFETY: the run page is of the one thread that calls `run`; others store `immediate_exit` alone, one byte.
/// A virtual CPU and the run page it shares with KVM.
public final class VCPU: @unchecked Sendable {
  /// Its number, which is also its x2APIC id.
  public let index: Int
  let descriptor: CInt
  // SAFETY: KVM's run page, mapped for as long as this object lives; KVM writes it only during KVM_RUN.
  let page: UnsafeMutableRawPointer
  let pageByteCount: Int
  private var state: UnsafeMutablePointer<kvm_run> { page.assumingMemoryBound(to: kvm_run.self) }

  init(index: Int, descriptor: CInt, run: UnsafeMutableRawPointer, runByteCount: Int) {
    self.index = index
    self.descriptor = descriptor
    page = run
    pageByteCount = runByteCount
  }

  deinit {
    munmap(page, pageByteCount)
    close(descriptor)
  }

  /// Enters the guest and stays there until it exits. Interruptions by signals are an exit, not an error.
  public func run() throws(KVMError) -> Exit {
    if ckvm_ioctl(descriptor, ckvm_KVM_RUN, 0) != 0 {
      switch errno {
      case EINTR, EAGAIN: return .interrupted
      case EFAULT: return .memoryFault
      default: throw .last(.run)
      }
    }
    return Exit(state)
  }

  /// Makes the current or the next `run` return soon: the former only together with a signal to its thread.
  public func requestExit() { state.pointee.immediate_exit = 1 }

  /// Takes `requestExit` back.
  public func clearExitRequest() { state.pointee.immediate_exit = 0 }

  /// Answers the MMIO or port read that `run` has just reported.
  public func complete(read value: UInt64) {
    // SAFETY: KVM keeps both data fields inside the run page; at most 8 bytes are stored.
    switch state.pointee.exit_reason {
    case UInt32(KVM_EXIT_MMIO):
      withUnsafeMutableBytes(of: &state.pointee.mmio.data) { $0.storeBytes(of: value, as: UInt64.self) }
    case UInt32(KVM_EXIT_IO):
      let offset = Int(state.pointee.io.data_offset)
      let size = Int(state.pointee.io.size)
      guard size <= 4, offset + 4 <= pageByteCount else { return }
      withUnsafeBytes(of: value) { (page + offset).copyMemory(from: $0.baseAddress!, byteCount: size) }
    default: break
    }
  }

  /// General registers, RIP and RFLAGS.
  public var registers: kvm_regs {
    get throws(KVMError) {
      var value = kvm_regs()
      guard ckvm_ioctl_pointer(descriptor, ckvm_KVM_GET_REGS, &value) == 0 else { throw .last(.registers) }
      return value
    }
  }

  /// Sets general registers, RIP and RFLAGS.
  public func set(registers: kvm_regs) throws(KVMError) {
    var value = registers
    guard ckvm_ioctl_pointer(descriptor, ckvm_KVM_SET_REGS, &value) == 0 else { throw .last(.registers) }
  }

  /// Segments, control registers, EFER, APIC base.
  public var systemRegisters: kvm_sregs {
    get throws(KVMError) {
      var value = kvm_sregs()
      guard ckvm_ioctl_pointer(descriptor, ckvm_KVM_GET_SREGS, &value) == 0 else { throw .last(.systemRegisters) }
      return value
    }
  }

  /// Sets segments, control registers, EFER, APIC base.
  public func set(systemRegisters: kvm_sregs) throws(KVMError) {
    var value = systemRegisters
    guard ckvm_ioctl_pointer(descriptor, ckvm_KVM_SET_SREGS, &value) == 0 else { throw .last(.systemRegisters) }
  }

  /// Sets model-specific registers, all or an error.
  public func set(msrs: [(index: UInt32, value: UInt64)]) throws(KVMError) {
    let entries = msrs.map { kvm_msr_entry(index: $0.index, reserved: 0, data: $0.value) }
    let done = withCountedList(entries) { ckvm_ioctl_pointer(descriptor, ckvm_KVM_SET_MSRS, $0) }
    guard done == msrs.count else { throw KVMError(.msrs, code: done < 0 ? errno : 0) }
  }

  /// The value of one model-specific register, nil where KVM does not know it.
  public func msr(_ index: UInt32) -> UInt64? {
    withCountedList([kvm_msr_entry(index: index, reserved: 0, data: 0)]) { buffer -> UInt64? in
      guard ckvm_ioctl_pointer(descriptor, ckvm_KVM_GET_MSRS, buffer) == 1 else { return nil }
      return (buffer + countedListHeader).load(as: kvm_msr_entry.self).data
    }
  }

  /// What `cpuid` answers to the guest.
  public func set(cpuid entries: [kvm_cpuid_entry2]) throws(KVMError) {
    let result = withCountedList(entries) { ckvm_ioctl_pointer(descriptor, ckvm_KVM_SET_CPUID2, $0) }
    guard result == 0 else { throw .last(.cpuid) }
  }

  /// Sets XCR0: which extended state components the guest may use.
  public func set(xcr0: UInt64) throws(KVMError) {
    var request = kvm_xcrs()
    request.nr_xcrs = 1
    request.xcrs.0.xcr = 0
    request.xcrs.0.value = xcr0
    guard ckvm_ioctl_pointer(descriptor, ckvm_KVM_SET_XCRS, &request) == 0 else { throw .last(.extendedControl) }
  }

  /// Makes a secondary vCPU run from its registers instead of waiting for INIT and SIPI.
  public func setRunnable() throws(KVMError) {
    var state = kvm_mp_state(mp_state: UInt32(KVM_MP_STATE_RUNNABLE))
    guard ckvm_ioctl_pointer(descriptor, ckvm_KVM_SET_MP_STATE, &state) == 0 else { throw .last(.events) }
  }

  /// Delivers an exception before the next guest instruction.
  public func inject(exception vector: UInt8, errorCode: UInt32?) throws(KVMError) {
    var events = kvm_vcpu_events()
    events.exception.injected = 1
    events.exception.nr = vector
    events.exception.has_error_code = errorCode == nil ? 0 : 1
    events.exception.error_code = errorCode ?? 0
    guard ckvm_ioctl_pointer(descriptor, ckvm_KVM_SET_VCPU_EVENTS, &events) == 0 else { throw .last(.events) }
  }

  /// Frequency of the guest's time-stamp counter in kHz, 0 if KVM does not say.
  public var timeStampKilohertz: UInt64 { UInt64(max(0, ckvm_ioctl(descriptor, ckvm_KVM_GET_TSC_KHZ, 0))) }

  /// Empties the ring of coalesced writes, which all vCPUs of the machine share: the caller holds the lock that
  /// orders device accesses. The ring lies in the guest's reach only through KVM, yet its indices are checked.
  public func drainCoalescedWrites(_ body: (_ address: UInt64, _ value: UInt64, _ byteCount: Int) -> Void) {
    let ring = page + Int(KVM_COALESCED_MMIO_PAGE_OFFSET) * 4096
    guard pageByteCount >= Int(KVM_COALESCED_MMIO_PAGE_OFFSET + 1) * 4096 else { return }
    let entries = (4096 - 8) / MemoryLayout<kvm_coalesced_mmio>.stride
    // SAFETY: the ring is one page of the run mapping: first, last, then `entries` records.
    let first = ring.assumingMemoryBound(to: UInt32.self)
    let last = (ring + 4).assumingMemoryBound(to: UInt32.self)
    var position = first.pointee
    while true {
      let end = ckvm_load_acquire_32(last)
      guard position != end, Int(position) < entries, Int(end) < entries else { return }
      let record = (ring + 8 + Int(position) * MemoryLayout<kvm_coalesced_mmio>.stride).load(
        as: kvm_coalesced_mmio.self)
      let value = withUnsafeBytes(of: record.data) { $0.load(as: UInt64.self) }
      position = (position + 1) % UInt32(entries)
      ckvm_store_release_32(first, position)
      body(record.phys_addr, value, Int(min(record.len, 8)))
    }
  }
}
