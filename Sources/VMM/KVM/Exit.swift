// Why a vCPU came back to us.

import CKVM

/// The reasons for which `VCPU.run` returns.
public enum Exit: Equatable, Sendable {
  /// The guest wrote `value` to an I/O port.
  case portWrite(port: UInt16, value: UInt32, byteCount: Int)
  /// The guest reads an I/O port; answer with `VCPU.complete(read:)`.
  case portRead(port: UInt16, byteCount: Int)
  /// The guest wrote to an address that is no memory.
  case mmioWrite(address: UInt64, value: UInt64, byteCount: Int)
  /// The guest reads such an address; answer with `VCPU.complete(read:)`.
  case mmioRead(address: UInt64, byteCount: Int)
  /// A signal or `requestExit` ended the run.
  case interrupted
  /// The guest halted and no interrupt controller in the kernel could wake it.
  case halted
  /// A triple fault.
  case shutdown
  /// KVM could not run an instruction: its bytes, as far as KVM gives them.
  case internalError(suberror: UInt32, instruction: [UInt8])
  /// The processor refused the guest's state.
  case entryFailure(reason: UInt64)
  /// The host could not provide a page behind a memory slot (a mapped file was truncated).
  case memoryFault
  /// Anything else: KVM's number for it.
  case other(UInt32)

  /// Reads the reason from the run page after a successful KVM_RUN.
  init(_ run: UnsafeMutablePointer<kvm_run>) {
    switch Int32(bitPattern: run.pointee.exit_reason) {
    case KVM_EXIT_IO:
      let io = run.pointee.io
      guard io.count == 1 else {
        self = .other(UInt32(KVM_EXIT_IO))
        return
      }
      if io.direction == UInt8(KVM_EXIT_IO_IN) {
        self = .portRead(port: io.port, byteCount: Int(io.size))
      } else {
        // SAFETY: KVM places the data inside the run mapping.
        let data = UnsafeRawPointer(run) + Int(io.data_offset)
        let value: UInt32 =
          switch io.size {
          case 1: UInt32(data.load(as: UInt8.self))
          case 2: UInt32(data.load(as: UInt16.self))
          default: data.load(as: UInt32.self)
          }
        self = .portWrite(port: io.port, value: value, byteCount: Int(io.size))
      }
    case KVM_EXIT_MMIO:
      let mmio = run.pointee.mmio
      let count = Int(min(mmio.len, 8))
      if mmio.is_write != 0 {
        let whole = withUnsafeBytes(of: mmio.data) { $0.load(as: UInt64.self) }
        let value = count == 8 ? whole : whole & (1 << (8 * UInt64(count)) - 1)
        self = .mmioWrite(address: mmio.phys_addr, value: value, byteCount: count)
      } else {
        self = .mmioRead(address: mmio.phys_addr, byteCount: count)
      }
    case KVM_EXIT_INTR, KVM_EXIT_UNKNOWN: self = .interrupted
    case KVM_EXIT_HLT: self = .halted
    case KVM_EXIT_SHUTDOWN: self = .shutdown
    case KVM_EXIT_FAIL_ENTRY: self = .entryFailure(reason: run.pointee.fail_entry.hardware_entry_failure_reason)
    case KVM_EXIT_INTERNAL_ERROR:
      let record = run.pointee.internal
      var bytes: [UInt8] = []
      // Words 1 and 2 hold a length byte and up to 15 bytes of the instruction.
      if record.suberror == 1, record.ndata >= 3 {
        var words = (record.data.1, record.data.2)
        bytes = withUnsafeBytes(of: &words) { Array($0[1..<(1 + min(15, Int($0[0])))]) }
      }
      self = .internalError(suberror: record.suberror, instruction: bytes)
    default: self = .other(run.pointee.exit_reason)
    }
  }
}
