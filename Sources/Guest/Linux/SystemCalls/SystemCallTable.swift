// The table of system calls: number to handler. The switch compiles to a jump table with direct calls.
//
// What is not in it does not exist here: ENOSYS, and a line under `--log syscalls`.
import Base

extension SystemCall {
  /// Runs the handler of call `number`.
  /// - Throws: what the handler throws; ENOSYS for numbers without one.
  func dispatch(_ number: UInt64) throws(Errno) -> Int {
    switch number {
    // Files: SystemCallsReadWrite, SystemCallsDescriptors
    case 0: try read()
    case 1: try write()
    case 2: try open()
    case 3: try close()
    case 8: try lseek()
    case 16: try ioctl()
    case 17: try pread64()
    case 18: try pwrite64()
    case 19: try readv()
    case 20: try writev()
    case 22: try pipe()
    case 32: try dup()
    case 33: try dup2()
    case 40: try sendfile()
    case 72: try fcntl()
    case 73: try flock()
    case 74, 75: try fsync()
    case 77: try ftruncate()
    case 162: sync()
    case 257: try openat()
    case 285: try fallocate()
    case 292: try dup3()
    case 293: try pipe2()
    case 295: try preadv()
    case 296: try pwritev()
    case 326: try copy_file_range()
    case 436: try close_range()
    // SystemCallsPaths
    case 4: try stat()
    case 5: try fstat()
    case 6: try lstat()
    case 21: try access()
    case 76: try truncate()
    case 79: try getcwd()
    case 80: try chdir()
    case 81: try fchdir()
    case 82: try rename()
    case 83: try mkdir()
    case 84: try rmdir()
    case 85: try creat()
    case 86: try link()
    case 87: try unlink()
    case 88: try symlink()
    case 89: try readlink()
    case 90: try chmod()
    case 91: try fchmod()
    case 92: try chown()
    case 93: try fchown()
    case 94: try lchown()
    case 132: try utime()
    case 133: try mknod()
    case 137: try statfs()
    case 138: try fstatfs()
    case 161: try chroot()
    case 191, 192, 193: try getxattr()
    case 194, 195, 196: try listxattr()
    case 217: try getdents64()
    case 235: try utimes()
    case 258: try mkdirat()
    case 259: try mknodat()
    case 260: try fchownat()
    case 262: try newfstatat()
    case 263: try unlinkat()
    case 264: try renameat()
    case 265: try linkat()
    case 266: try symlinkat()
    case 267: try readlinkat()
    case 268: try fchmodat()
    case 269: try faccessat()
    case 280: try utimensat()
    case 316: try renameat2()
    case 332: try statx()
    case 439: try faccessat2()
    // SystemCallsPoll
    case 7: try poll()
    case 23: try select()
    case 213: try epoll_create()
    case 232: try epoll_wait()
    case 233: try epoll_ctl()
    case 270: try pselect6()
    case 271: try ppoll()
    case 281: try epoll_pwait()
    case 283: try timerfd_create()
    case 284: try eventfd()
    case 286: try timerfd_settime()
    case 287: try timerfd_gettime()
    case 290: try eventfd2()
    case 291: try epoll_create1()
    // SystemCallsMemory
    case 9: try mmap()
    case 10: try mprotect()
    case 11: try munmap()
    case 12: try brk()
    case 25: try mremap()
    case 26: try msync()
    case 27: try mincore()
    case 28: try madvise()
    case 149, 150, 151, 152, 325: 0  // mlock and its kin: nothing is ever paged out.
    // SystemCallsSignals
    case 13: try rt_sigaction()
    case 14: try rt_sigprocmask()
    case 15: rt_sigreturn()
    case 34: try pause()
    case 62: try kill()
    case 127: try rt_sigpending()
    case 128: try rt_sigtimedwait()
    case 129: try rt_sigqueueinfo()
    case 130: try rt_sigsuspend()
    case 131: try sigaltstack()
    case 200: try tkill()
    case 234: try tgkill()
    // SystemCallsTime
    case 35: try nanosleep()
    case 96: try gettimeofday()
    case 100: try times()
    case 201: try time()
    case 228: try clock_gettime()
    case 229: try clock_getres()
    case 230: try clock_nanosleep()
    // SystemCallsProcess, SystemCallsClone
    case 24: sched_yield()
    case 39: getpid()
    case 56: try clone()
    case 60: exit()
    case 61: try wait4()
    case 63: try uname()
    case 97: try getrlimit()
    case 98: try getrusage()
    case 99: try sysinfo()
    case 109: try setpgid()
    case 110: getppid()
    case 111: getpgrp()
    case 112: try setsid()
    case 121: try getpgid()
    case 124: try getsid()
    case 135: personality()
    case 143: try sched_getparam()
    case 145: try sched_getscheduler()
    case 146: try sched_get_priority_max()
    case 147: try sched_get_priority_min()
    case 157: try prctl()
    case 158: try arch_prctl()
    case 160: try setrlimit()
    case 186: gettid()
    case 202: try futex()
    case 203: try sched_setaffinity()
    case 204: try sched_getaffinity()
    case 218: set_tid_address()
    case 231: exit_group()
    case 247: try wait4()
    case 273: try set_robust_list()
    case 274: try get_robust_list()
    case 302: try prlimit64()
    case 309: try getcpu()
    case 318: try getrandom()
    case 324: try membarrier()
    case 435: try clone3()
    // SystemCallsIdentity
    case 95: umask()
    case 102: getuid()
    case 104: getgid()
    case 105: setuid()
    case 106: setgid()
    case 107: geteuid()
    case 108: getegid()
    case 113, 117: setresuid()
    case 114, 119: setresgid()
    case 115: try getgroups()
    case 116: try setgroups()
    case 118: try getresuid()
    case 120: try getresgid()
    default: throw .ENOSYS
    }
  }

  /// Whether a call works when memory is out: those that give some back, or end something.
  static func needsNoMemory(_ number: UInt64) -> Bool {
    switch number {
    // write, close, munmap, rt_sigprocmask, rt_sigreturn, writev, madvise, exit, futex, exit_group
    case 1, 3, 11, 14, 15, 20, 28, 60, 202, 231: true
    default: false
    }
  }

  /// Whether a call that a signal cut short may be repeated behind a handler with SA_RESTART (signal(7)). Waits with a
  /// time-out, and those for readiness, are not.
  static func mayRestart(_ number: UInt64) -> Bool {
    switch number {
    // read, write, open, ioctl, readv, writev, wait4, fcntl, flock, futex, openat, waitid, preadv, pwritev, getrandom
    case 0, 1, 2, 16, 17, 18, 19, 20, 61, 72, 73, 202, 257, 247, 295, 296, 318: true
    default: false
    }
  }
}
