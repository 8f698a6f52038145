// The clock page: how the guest turns its time-stamp counter into time.

import CKVM
import KVM
import VirtioABI

#if canImport(Glibc)
  import Glibc
#endif

extension ClockPage {
  /// A page whose monotonic time starts at 0 now. `platform` decides whose counter the guest reads.
  init(vcpu: VCPU, platform: Platform) {
    self.init()
    let kilohertz = vcpu.timeStampKilohertz
    var real = timespec()
    clock_gettime(CLOCK_REALTIME, &real)
    // kvm_pvm shows the host's counter; hardware KVM adds an offset, which the register includes.
    baseTSC = platform == .softwarePVM ? ckvm_rdtsc() : (vcpu.msr(0x10) ?? ckvm_rdtsc())
    realtimeOffset = UInt64(real.tv_sec) * 1_000_000_000 + UInt64(real.tv_nsec)
    frequency = kilohertz * 1000
    multiplier = kilohertz == 0 ? 0 : (1_000_000 << 32) / kilohertz
  }
}
