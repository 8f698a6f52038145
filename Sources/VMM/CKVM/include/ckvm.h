// The KVM interface as Swift can import it: request numbers as constants (macros that compute do not
// import), ioctl as static-inline calls, and the two instructions the monitor itself needs.
#pragma once
#include <linux/kvm.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#define CKVM_REQUEST(name) static const unsigned long ckvm_##name = name;
CKVM_REQUEST(KVM_GET_API_VERSION)
CKVM_REQUEST(KVM_CREATE_VM)
CKVM_REQUEST(KVM_CHECK_EXTENSION)
CKVM_REQUEST(KVM_GET_VCPU_MMAP_SIZE)
CKVM_REQUEST(KVM_CREATE_VCPU)
CKVM_REQUEST(KVM_ENABLE_CAP)
CKVM_REQUEST(KVM_SET_USER_MEMORY_REGION)
CKVM_REQUEST(KVM_SET_GSI_ROUTING)
CKVM_REQUEST(KVM_SIGNAL_MSI)
CKVM_REQUEST(KVM_IRQFD)
CKVM_REQUEST(KVM_IOEVENTFD)
CKVM_REQUEST(KVM_REGISTER_COALESCED_MMIO)
CKVM_REQUEST(KVM_RUN)
CKVM_REQUEST(KVM_GET_REGS)
CKVM_REQUEST(KVM_SET_REGS)
CKVM_REQUEST(KVM_GET_SREGS)
CKVM_REQUEST(KVM_SET_SREGS)
CKVM_REQUEST(KVM_GET_MSRS)
CKVM_REQUEST(KVM_SET_MSRS)
CKVM_REQUEST(KVM_SET_CPUID2)
CKVM_REQUEST(KVM_SET_XCRS)
CKVM_REQUEST(KVM_SET_MP_STATE)
CKVM_REQUEST(KVM_GET_VCPU_EVENTS)
CKVM_REQUEST(KVM_SET_VCPU_EVENTS)
CKVM_REQUEST(KVM_GET_TSC_KHZ)

/// ioctl with a number (or nothing) as its argument.
static inline int ckvm_ioctl(int descriptor, unsigned long request, unsigned long argument) {
  return ioctl(descriptor, request, argument);
}

/// ioctl with a pointer to its argument.
static inline int ckvm_ioctl_pointer(int descriptor, unsigned long request, void *argument) {
  return ioctl(descriptor, request, argument);
}

/// A new non-blocking event descriptor with the counter 0.
static inline int ckvm_eventfd(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }

/// What `cpuid` answers on the host.
struct ckvm_cpuid_result {
  uint32_t eax, ebx, ecx, edx;
};

static inline struct ckvm_cpuid_result ckvm_cpuid(uint32_t leaf, uint32_t subleaf) {
  struct ckvm_cpuid_result r;
  __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
  return r;
}

/// The host's XCR0; only where CPUID.1:ECX.OSXSAVE says so.
static inline uint64_t ckvm_xgetbv(void) {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return ((uint64_t)high << 32) | low;
}

/// The time-stamp counter, ordered after all earlier loads.
static inline uint64_t ckvm_rdtsc(void) {
  uint32_t low, high;
  __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high)::"memory");
  return ((uint64_t)high << 32) | low;
}

// Words shared with the guest or with a signal handler.
static inline void ckvm_store_release(uint64_t *word, uint64_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
static inline uint64_t ckvm_load_acquire(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline uint64_t ckvm_fetch_or(uint64_t *word, uint64_t bits) {
  return __atomic_fetch_or(word, bits, __ATOMIC_ACQ_REL);
}
static inline uint32_t ckvm_load_acquire_32(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline void ckvm_store_release_32(uint32_t *word, uint32_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/// Names the calling thread for the host's tools (15 bytes at most).
static inline void ckvm_name_thread(const char *name) { prctl(PR_SET_NAME, name, 0, 0, 0); }
