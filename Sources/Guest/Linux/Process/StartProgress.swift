// What the start is at, so that a failure of it can be told as what it is. Only the boot thread writes and reads it.
import VirtioABI

/// How far the start of the machine has come.
public enum StartProgress {
  // SAFETY: the boot thread alone touches these two, until the program runs.
  /// The step that is being taken.
  nonisolated(unsafe) public static var step = BootFailure.Step.machine
  /// Which of several: of mounts, the place in the boot information.
  nonisolated(unsafe) public static var index: UInt32 = 0
}
