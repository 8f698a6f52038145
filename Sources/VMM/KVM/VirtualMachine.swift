// One virtual machine: memory slots, interrupt controller and routes, event descriptors, vCPUs.
//
// The order that costs least (measured): interrupt controller, slots, vCPUs, routes; an ioeventfd last and only
// when it pays, since a slot added after one, or a close soon after one, waits for a grace period of milliseconds.

import CKVM

#if canImport(Glibc)
  import Glibc
#endif

/// A KVM virtual machine. Its calls may be made from any thread.
public final class VirtualMachine: Sendable {
  let descriptor: CInt
  let runByteCount: Int

  init(descriptor: CInt, runByteCount: Int) {
    self.descriptor = descriptor
    self.runByteCount = runByteCount
  }

  deinit { close(descriptor) }

  /// The ioctl requests that this module makes once a guest runs; the jail allows no others.
  public static let requestsWhileRunning: [UInt32] = [
    ckvm_KVM_RUN, ckvm_KVM_SIGNAL_MSI, ckvm_KVM_GET_REGS, ckvm_KVM_SET_REGS, ckvm_KVM_GET_SREGS, ckvm_KVM_SET_SREGS,
    ckvm_KVM_SET_MSRS, ckvm_KVM_SET_CPUID2, ckvm_KVM_SET_XCRS, ckvm_KVM_SET_MP_STATE, ckvm_KVM_SET_VCPU_EVENTS,
    ckvm_KVM_SET_USER_MEMORY_REGION, ckvm_KVM_CREATE_VCPU, ckvm_KVM_IRQFD, ckvm_KVM_IOEVENTFD,
    ckvm_KVM_SET_GSI_ROUTING, ckvm_KVM_GET_MSRS,
  ].map { UInt32($0) }

  /// What KVM answers to KVM_CHECK_EXTENSION for this machine.
  public func check(capability: Int32) -> Int {
    Int(max(0, ckvm_ioctl(descriptor, ckvm_KVM_CHECK_EXTENSION, UInt(capability))))
  }

  private func enable(_ capability: Int32, argument: UInt64) throws(KVMError) {
    var request = kvm_enable_cap()
    request.cap = UInt32(capability)
    request.args.0 = argument
    guard ckvm_ioctl_pointer(descriptor, ckvm_KVM_ENABLE_CAP, &request) == 0 else { throw .last(.enableCapability) }
  }

  /// Local APICs in the kernel, I/O APIC and PIC absent, `routes` interrupt routes; 32-bit APIC ids.
  public func enableSplitInterruptController(routes: Int) throws(KVMError) {
    try enable(KVM_CAP_SPLIT_IRQCHIP, argument: UInt64(routes))
    // KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK
    try enable(KVM_CAP_X2APIC_API, argument: 3)
  }

  /// How long KVM polls for a wake-up before a halted vCPU sleeps, in nanoseconds.
  public func setHaltPolling(nanoseconds: UInt64) throws(KVMError) {
    try enable(KVM_CAP_HALT_POLL, argument: nanoseconds)
  }

  /// Puts `byteCount` bytes of this process's memory at guest-physical address `physical`.
  ///
  /// All three numbers are multiples of 4096. The memory must stay mapped as long as the machine lives; a write of
  /// the guest to a `readOnly` slot exits as an MMIO write.
  public func setMemory(
    slot: UInt32, physical: UInt64, host: UnsafeMutableRawPointer, byteCount: UInt64, readOnly: Bool = false
  ) throws(KVMError) {
    var region = kvm_userspace_memory_region()
    region.slot = slot
    region.flags = readOnly ? UInt32(KVM_MEM_READONLY) : 0
    region.guest_phys_addr = physical
    region.memory_size = byteCount
    region.userspace_addr = UInt64(UInt(bitPattern: host))
    guard ckvm_ioctl_pointer(descriptor, ckvm_KVM_SET_USER_MEMORY_REGION, &region) == 0 else {
      throw .last(.setMemory)
    }
  }

  /// Makes vCPU `index`.
  public func createVCPU(index: Int) throws(KVMError) -> VCPU {
    let vcpu = ckvm_ioctl(descriptor, ckvm_KVM_CREATE_VCPU, UInt(index))
    guard vcpu >= 0 else { throw .last(.createVCPU) }
    let page = mmap(nil, runByteCount, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0)
    guard let page, page != MAP_FAILED else {
      let error = KVMError.last(.mapRun)
      close(vcpu)
      throw error
    }
    return VCPU(index: index, descriptor: vcpu, run: page, runByteCount: runByteCount)
  }

  /// Replaces all interrupt routes: route i (also called GSI i) delivers `messages[i]`.
  public func setRoutes(_ messages: [InterruptMessage]) throws(KVMError) {
    var entries: [kvm_irq_routing_entry] = []
    for (index, message) in messages.enumerated() {
      var entry = kvm_irq_routing_entry()
      entry.gsi = UInt32(index)
      entry.type = UInt32(KVM_IRQ_ROUTING_MSI)
      entry.u.msi.address_lo = message.addressLow
      entry.u.msi.address_hi = message.addressHigh
      entry.u.msi.data = message.data
      entries.append(entry)
    }
    let result = withCountedList(entries) { ckvm_ioctl_pointer(descriptor, ckvm_KVM_SET_GSI_ROUTING, $0) }
    guard result == 0 else { throw .last(.setRouting) }
  }

  /// Delivers one message at once, with no route.
  public func signal(_ message: InterruptMessage) throws(KVMError) {
    var msi = kvm_msi()
    msi.address_lo = message.addressLow
    msi.address_hi = message.addressHigh
    msi.data = message.data
    guard ckvm_ioctl_pointer(descriptor, ckvm_KVM_SIGNAL_MSI, &msi) >= 0 else { throw .last(.signalMSI) }
  }

  /// From now on a write to `event` raises route `route`.
  public func attach(event: EventDescriptor, toRoute route: UInt32) throws(KVMError) {
    var request = kvm_irqfd()
    request.fd = UInt32(event.descriptor)
    request.gsi = route
    guard ckvm_ioctl_pointer(descriptor, ckvm_KVM_IRQFD, &request) == 0 else { throw .last(.irqfd) }
  }

  /// From now on a 16-bit guest write of `value` to `address` signals `event` in the kernel instead of exiting.
  public func attach(event: EventDescriptor, toMMIOWrite address: UInt64, value: UInt16) throws(KVMError) {
    try attach(descriptor: event.descriptor, toMMIOWrite: address, value: value)
  }

  /// The same with an eventfd that the caller keeps open as long as the machine lives.
  public func attach(descriptor: CInt, toMMIOWrite address: UInt64, value: UInt16) throws(KVMError) {
    var request = kvm_ioeventfd()
    request.addr = address
    request.len = 2
    request.fd = descriptor
    request.datamatch = UInt64(value)
    request.flags = 1 << UInt32(kvm_ioeventfd_flag_nr_datamatch)
    guard ckvm_ioctl_pointer(descriptor, ckvm_KVM_IOEVENTFD, &request) == 0 else { throw .last(.ioeventfd) }
  }

  /// Guest writes to these bytes are queued by KVM in the ring that `VCPU.drainCoalescedWrites` empties.
  public func coalesceWrites(at address: UInt64, byteCount: UInt32) throws(KVMError) {
    var zone = kvm_coalesced_mmio_zone()
    zone.addr = address
    zone.size = byteCount
    guard ckvm_ioctl_pointer(descriptor, ckvm_KVM_REGISTER_COALESCED_MMIO, &zone) == 0 else {
      throw .last(.coalescedMMIO)
    }
  }
}

/// A message-signalled interrupt: what a device writes, and where, to interrupt a CPU.
public struct InterruptMessage: Equatable, Sendable {
  /// Low half of the address: 0xfee00000 and the low 8 bits of the destination in bits 12 to 19.
  public var addressLow: UInt32
  /// High half of the address: the upper 24 bits of the destination's x2APIC id, in place.
  public var addressHigh: UInt32
  /// Vector and delivery mode.
  public var data: UInt32

  /// A message from the words of an MSI-X table entry.
  public init(addressLow: UInt32, addressHigh: UInt32, data: UInt32) {
    self.addressLow = addressLow
    self.addressHigh = addressHigh
    self.data = data
  }

  /// Fixed delivery of `vector` to the CPU with x2APIC id `cpu`.
  public init(vector: UInt32, cpu: UInt32) {
    self.init(addressLow: 0xfee0_0000 | (cpu & 0xff) << 12, addressHigh: cpu & ~0xff, data: vector)
  }
}

/// A Linux eventfd. Closed when the last reference goes.
public final class EventDescriptor: Sendable {
  /// The file descriptor, for poll and the like; owned by this object.
  public let descriptor: CInt

  /// A new counter of 0, non-blocking.
  public init() throws(KVMError) {
    descriptor = ckvm_eventfd()
    guard descriptor >= 0 else { throw .last(.eventDescriptor) }
  }

  deinit { close(descriptor) }

  /// Adds one to the counter. Safe in a signal handler.
  public func signal() {
    var one: UInt64 = 1
    _ = write(descriptor, &one, 8)
  }

  /// Takes the counter back to 0; false if it was 0.
  @discardableResult public func clear() -> Bool {
    var count: UInt64 = 0
    return read(descriptor, &count, 8) == 8
  }
}
