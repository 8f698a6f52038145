// A program that wants to reach somebody else on a machine without a network is told what is missing, once.
import Base
import Platform

/// The sentence.
enum NetworkAbsence {
  private static let isTold = Atomic<Bool>(false)

  /// Says it on the monitor's standard error, the first time.
  static func tell() {
    if isTold.exchange(true, ordering: .relaxed) { return }
    var line = TextLine()
    line.append(
      "the program tries to reach the network, and this machine has none: give it one with --net user or --net tap")
    line.show()
  }
}
