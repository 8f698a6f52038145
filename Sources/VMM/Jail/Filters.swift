// Which system calls each kind of thread may make once the guest can run.

/// The kinds of threads of a monitor.
public enum ThreadKind: CaseIterable, Sendable {
  /// Every thread: the main one, which is CPU 0 and serves devices inline, and those that add memory and CPUs.
  case process
  /// A thread that serves a device's queues.
  case device
  /// A thread that moves frames between a network device and the host.
  case network
  /// A thread that reads standard input, or waits for room in an output.
  case console
  /// The thread that answers commands on the control socket.
  case control
}

extension FilterRule {
  private static let protExec: UInt32 = 4
  /// CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD: a thread, never a process.
  private static let threadFlags: UInt32 = 0x0001_0f00

  /// What the C library needs in any thread: memory that is not executable, locks, time, ending.
  private static let everywhere: [FilterRule] = [
    FilterRule(202),  // futex
    FilterRule(1),  // write
    FilterRule(20),  // writev
    FilterRule(328),  // pwritev2
    FilterRule(0),  // read
    FilterRule(3),  // close
    FilterRule(24),  // sched_yield
    FilterRule(9, .hasNone(of: protExec, argument: 2)),  // mmap
    FilterRule(10, .hasNone(of: protExec, argument: 2)),  // mprotect
    FilterRule(11),  // munmap
    FilterRule(12),  // brk
    FilterRule(25),  // mremap
    FilterRule(28),  // madvise
    FilterRule(13),  // rt_sigaction
    FilterRule(14),  // rt_sigprocmask
    FilterRule(15),  // rt_sigreturn
    FilterRule(35),  // nanosleep
    FilterRule(230),  // clock_nanosleep
    FilterRule(228),  // clock_gettime, where the vDSO cannot
    FilterRule(7),  // poll
    FilterRule(271),  // ppoll
    FilterRule(39),  // getpid
    FilterRule(186),  // gettid
    FilterRule(111),  // getpgrp: whether the terminal is ours
    FilterRule(234),  // tgkill
    FilterRule(219),  // restart_syscall
    FilterRule(318),  // getrandom
    FilterRule(60),  // exit
    FilterRule(231),  // exit_group
    FilterRule(131),  // sigaltstack
    FilterRule(273),  // set_robust_list
    FilterRule(334),  // rseq
    FilterRule(157, .isOne(of: [15], argument: 0)),  // prctl: PR_SET_NAME
    FilterRule(203),  // sched_setaffinity
    FilterRule(204),  // sched_getaffinity
  ]

  /// What the file server needs: opening beneath a directory, reading, looking.
  private static let files: [FilterRule] = [
    FilterRule(437),  // openat2
    FilterRule(257),  // openat
    FilterRule(332),  // statx
    FilterRule(5),  // fstat
    FilterRule(262),  // newfstatat
    FilterRule(138),  // fstatfs
    FilterRule(137),  // statfs
    FilterRule(217),  // getdents64
    FilterRule(17),  // pread64
    FilterRule(295),  // preadv
    FilterRule(327),  // preadv2
    FilterRule(19),  // readv
    FilterRule(8),  // lseek
    FilterRule(267),  // readlinkat
    FilterRule(269),  // faccessat
    FilterRule(439),  // faccessat2
    FilterRule(193),  // fgetxattr
    FilterRule(196),  // flistxattr
    FilterRule(191),  // getxattr (through /proc/self/fd)
    FilterRule(194),  // listxattr
    FilterRule(72),  // fcntl
    FilterRule(221),  // fadvise64
    FilterRule(187),  // readahead
  ]

  /// Device files are marked by this bit, other files have not got it: S_IFCHR, which S_IFBLK contains.
  private static let deviceFile: UInt32 = 0x2000
  private static let renameWhiteout: UInt32 = 4

  /// What changing files takes: only where a directory is shared for writing.
  private static let changes: [FilterRule] = [
    FilterRule(296),  // pwritev
    FilterRule(77),  // ftruncate
    FilterRule(285),  // fallocate
    FilterRule(326),  // copy_file_range
    FilterRule(74),  // fsync
    FilterRule(75),  // fdatasync
    FilterRule(306),  // syncfs
    FilterRule(258),  // mkdirat
    FilterRule(259, .hasNone(of: deviceFile, argument: 2)),  // mknodat
    FilterRule(266),  // symlinkat
    FilterRule(265),  // linkat
    FilterRule(263),  // unlinkat
    FilterRule(316, .hasNone(of: renameWhiteout, argument: 4)),  // renameat2
    FilterRule(268),  // fchmodat
    FilterRule(260),  // fchownat
    FilterRule(280),  // utimensat
    FilterRule(190),  // fsetxattr
    FilterRule(199),  // fremovexattr
  ]

  /// What making threads, event descriptors and the last account take.
  private static let machine: [FilterRule] = [
    FilterRule(56, .hasAll(of: threadFlags, argument: 0)),  // clone
    FilterRule(435, .absent),  // clone3: its flags lie behind a pointer; the C library falls back to clone
    FilterRule(290),  // eventfd2
    FilterRule(27),  // mincore
    FilterRule(98),  // getrusage
    FilterRule(317),  // seccomp: a thread of another kind narrows itself; filters only ever add up
  ]

  /// The requests that a running machine makes: KVM's, and the terminal's.
  private static func ioctls(_ requests: [UInt32]) -> FilterRule {
    FilterRule(16, .isOne(of: requests, argument: 1))
  }

  /// Sending and receiving frames on these sockets, and ending them with the process behind them.
  private static func packets(on sockets: [CInt]) -> [FilterRule] {
    if sockets.isEmpty { return [] }
    let numbers = sockets.map { UInt32(bitPattern: $0) }
    return [
      FilterRule(45, .isOne(of: numbers, argument: 0)),  // recvfrom
      FilterRule(46, .isOne(of: numbers, argument: 0)),  // sendmsg
      FilterRule(48, .isOne(of: numbers, argument: 0)),  // shutdown
      FilterRule(61),  // wait4
    ]
  }

  /// Reading these files at a place: the account of a vCPU's time.
  private static func reading(_ accounts: [CInt]) -> [FilterRule] {
    // pread64
    accounts.isEmpty ? [] : [FilterRule(17, .isOne(of: accounts.map { UInt32(bitPattern: $0) }, argument: 0))]
  }

  /// accept4 of that one socket, and of nothing where there is none.
  private static func accepting(_ listener: CInt?) -> [FilterRule] {
    listener.map { [FilterRule(288, .isOne(of: [UInt32(bitPattern: $0)], argument: 0))] } ?? []
  }

  /// The rules of a kind of thread; `requests` are the ioctl numbers it may make, `listener` is the control socket; `writesFiles`:
  /// a directory is shared for writing; `sockets` carry frames; `accounts` are the files that tell of a vCPU's time.
  public static func rules(
    for kind: ThreadKind, requests: [UInt32], listener: CInt? = nil, writesFiles: Bool = false,
    sockets: [CInt] = [], accounts: [CInt] = []
  ) -> [FilterRule] {
    let files = writesFiles ? files + changes : files
    return switch kind {
    case .process: [ioctls(requests)] + everywhere + files + machine + accepting(listener) + packets(on: sockets)
    case .device: [ioctls(requests)] + everywhere + files
    case .network: [ioctls(requests), FilterRule(19)] + everywhere + packets(on: sockets) + reading(accounts)  // readv
    case .console: [ioctls(requests), FilterRule(19)] + everywhere  // readv
    // It reads the account of memory, and interrupts the guest.
    case .control: [ioctls(requests), FilterRule(17)] + everywhere + accepting(listener)  // pread64
    }
  }
}
