// A check of the real heap: enums over class references keep their tag in pointer bits 62 and 63, so every object must lie
// in the lower half of the address space. If that ever broke, references would be corrupted silently; better not to start.
import Platform

private final class HeapProbe {
  let number: Int
  init(_ number: Int) { self.number = number }
}

private enum HeapChoice {
  case first(HeapProbe), second(HeapProbe), third(HeapProbe), none

  var value: Int {
    switch self {
    case .first(let probe): probe.number
    case .second(let probe): probe.number &* 10
    case .third(let probe): probe.number &* 100
    case .none: 0
    }
  }
}

/// The check of objects and tagged references.
enum HeapCheck {
  /// Makes objects of both kinds and takes them apart again; panics if anything comes back changed.
  static func run() {
    guard sum(choose(HeapProbe(1)), choose(HeapProbe(2)), choose(HeapProbe(3))) == 321 else {
      panic("enums over classes do not survive on this heap")
    }
  }

  @inline(never) private static func choose(_ probe: HeapProbe) -> HeapChoice {
    switch probe.number {
    case 1: .first(probe)
    case 2: .second(probe)
    case 3: .third(probe)
    default: .none
    }
  }

  @inline(never) private static func sum(_ a: HeapChoice, _ b: HeapChoice, _ c: HeapChoice) -> Int {
    a.value &+ b.value &+ c.value
  }
}
