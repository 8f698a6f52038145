// /dev/kvm itself: whether it is there, how old it is, and making virtual machines.

import CKVM

#if canImport(Glibc)
  import Glibc
#endif

/// An open /dev/kvm. Closed when the value is destroyed.
public struct System: ~Copyable {
  let descriptor: CInt

  /// Opens /dev/kvm.
  ///
  /// Throws the open's error (ENOENT, EACCES, …) with operation `.open`, or `.version` with code 0 when the
  /// interface is not version 12 (the only one there has been since 2007).
  public init(path: String = "/dev/kvm") throws(KVMError) {
    descriptor = open(path, O_RDWR | O_CLOEXEC)
    guard descriptor >= 0 else { throw .last(.open) }
    guard ckvm_ioctl(descriptor, ckvm_KVM_GET_API_VERSION, 0) == KVM_API_VERSION else {
      let code = errno == ENOTTY ? 0 : errno
      close(descriptor)
      throw KVMError(.version, code: code)
    }
  }

  deinit { close(descriptor) }

  /// What KVM answers to KVM_CHECK_EXTENSION: 0 if it lacks `capability`, else a positive number.
  public func check(capability: Int32) -> Int {
    Int(max(0, ckvm_ioctl(descriptor, ckvm_KVM_CHECK_EXTENSION, UInt(capability))))
  }

  /// Makes a virtual machine without memory, vCPUs or interrupt controller.
  public func createVirtualMachine() throws(KVMError) -> VirtualMachine {
    while true {
      let vm = ckvm_ioctl(descriptor, ckvm_KVM_CREATE_VM, 0)
      if vm >= 0 {
        let runSize = ckvm_ioctl(descriptor, ckvm_KVM_GET_VCPU_MMAP_SIZE, 0)
        guard runSize >= MemoryLayout<kvm_run>.size else {
          close(vm)
          throw .last(.mapRun)
        }
        return VirtualMachine(descriptor: vm, runByteCount: Int(runSize))
      }
      if errno != EINTR { throw .last(.createVM) }
    }
  }
}
