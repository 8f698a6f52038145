// The phases of the kernel's start, as `--trace boot` names them: the kernel writes a phase's number to `BootPort.phase`
// when it is over.

/// A part of the kernel's start.
public enum BootPhase: UInt32, CaseIterable {
  /// Traps, interrupt controller, clock.
  case platform = 1
  /// Frames, heap, page tables.
  case memory = 2
  /// The scheduler runs its first thread.
  case threads = 3
  /// Drivers have been started.
  case devices = 4
  /// The root, /dev, /proc and the attached directories are there.
  case fileSystems = 5
  /// The other CPUs schedule.
  case processors = 6
  /// The program is mapped and has its stack.
  case program = 7

  /// Its name, for people.
  public var name: StaticString {
    switch self {
    case .platform: "platform"
    case .memory: "memory"
    case .threads: "threads"
    case .devices: "devices"
    case .fileSystems: "file systems"
    case .processors: "processors"
    case .program: "program loaded"
    }
  }
}
