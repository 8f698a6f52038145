// The way into the kernel: one function with the C ABI that takes Linux's system-call numbers and arguments.
//
// In an image it is a jump into the kernel that lies in the same file. Compiled for the host (unit tests) it is
// Linux itself, so that everything above it can be tried there.
import Base

#if HOSTED
  import Glibc

  @_silgen_name("syscall")
  private func hostSystemCall(_ number: Int, _ a: Int, _ b: Int, _ c: Int, _ d: Int, _ e: Int, _ f: Int) -> Int
#else
  @_extern(c, "osv_gate")
  private func osv_gate(_ number: Int, _ a: Int, _ b: Int, _ c: Int, _ d: Int, _ e: Int, _ f: Int) -> Int
#endif

/// Error numbers, as Linux has them.
public typealias Errno = Base.Errno

/// Numbers of the system calls used here.
enum Call {
  static let read = 0
  static let write = 1
  static let close = 3
  static let lseek = 8
  static let mmap = 9
  static let mprotect = 10
  static let munmap = 11
  static let schedYield = 24
  static let madvise = 28
  static let nanosleep = 35
  static let sendto = 44
  static let socket = 41
  static let recvfrom = 45
  static let shutdown = 48
  static let bind = 49
  static let listen = 50
  static let getsockname = 51
  static let setsockopt = 54
  static let exit = 60
  static let clone = 56
  static let gettid = 186
  static let prctl = 157
  static let futex = 202
  static let schedSetaffinity = 203
  static let clockGettime = 228
  static let exitGroup = 231
  static let epollWait = 232
  static let epollControl = 233
  static let openat = 257
  static let accept4 = 288
  static let epollCreate1 = 291
  static let getrandom = 318
}

/// Calls the kernel; the result is negative for an error (minus its number).
@inline(never)
func call(_ number: Int, _ a: Int = 0, _ b: Int = 0, _ c: Int = 0, _ d: Int = 0, _ e: Int = 0, _ f: Int = 0) -> Int {
  #if HOSTED
    let result = hostSystemCall(number, a, b, c, d, e, f)
    return result == -1 ? Int(-errno) : result
  #else
    return osv_gate(number, a, b, c, d, e, f)
  #endif
}

/// The result of `call` as a value or an error.
func checked(_ result: Int) throws(Errno) -> Int {
  guard result < 0, result >= -4095 else { return result }
  throw Errno(rawValue: (0 &- result).i32) ?? .EIO
}

/// A pointer as an argument.
func argument(_ pointer: UnsafeRawPointer?) -> Int { Int(bitPattern: pointer) }

/// Whether the kernel accepts pointers to here: it takes those of programs' memory, which the image itself is not.
func isProgramMemory(_ pointer: UnsafeRawPointer) -> Bool {
  #if HOSTED
    return true
  #else
    return UInt(bitPattern: pointer).u64 < AddressMap.programEnd.rawValue
  #endif
}
