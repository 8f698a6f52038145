// How often something that was in vain is left out before it is tried again: a number of times that doubles, until it has been of use.

/// The times that a try is left out.
public struct Backoff: Sendable {
  /// Most times in a row that it is left out.
  public static let largestPause = 64

  private var pause = 0
  private var left = 0

  /// Nothing has been tried yet.
  public init() {}

  /// Whether this time is left out.
  public mutating func isLeftOut() -> Bool {
    guard left > 0 else { return false }
    left -= 1
    return true
  }

  /// A try was in vain, or may have been.
  public mutating func wasInVain() {
    pause = min(Self.largestPause, max(1, 2 * pause))
    left = pause
  }

  /// It was of use, or there is no need of it any more.
  public mutating func wasOfUse() { pause = 0 }
}
