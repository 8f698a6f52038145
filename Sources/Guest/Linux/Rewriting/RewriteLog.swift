// `--log rewrite`: for each mapping with a system call that was made, a line for every site in it and a sum; and a line when
// a site becomes a jump.
import Base
import Memory
import Platform
import VirtioABI

/// The log of rewritten system calls, on the monitor's standard error.
enum RewriteLog {
  /// Whether it is wanted.
  static var isOn: Bool { Boot.logs(BootLog.rewrite) }

  /// How many sites there are of each kind.
  struct Counts {
    var canJump: UInt64 = 0
    var left: UInt64 = 0
    var noSite: UInt64 = 0

    mutating func add(_ outcome: SiteOutcome) {
      switch outcome {
      case .window: canJump &+= 1
      case .left(.notAnInstruction): noSite &+= 1
      case .left: left &+= 1
      }
    }
  }

  /// What can be done with a site.
  static func decided(_ owner: (any MappingOwner)?, _ site: UInt64, _ outcome: SiteOutcome) {
    var line = start(owner, site)
    switch outcome {
    case .window(let window):
      line.append(window.shape == .before ? "can jump before the call" : "can jump in place of the call")
      if window.isPartial { line.append(" (not from everywhere)") }
    case .left(let reason):
      line.append("stays: ")
      line.append(reason.text)
    }
    line.show()
  }

  /// A site jumps from now on.
  static func rewritten(_ owner: (any MappingOwner)?, _ site: UInt64) {
    guard isOn else { return }
    var line = start(owner, site)
    line.append("jumps now")
    line.show()
  }

  /// The sum for a mapping.
  static func summary(_ owner: (any MappingOwner)?, _ counts: Counts) {
    var line = TextLine()
    line.append("rewrite: ")
    append(owner, to: &line)
    line.append(": ")
    line.append(decimal: counts.canJump)
    line.append(" sites can jump, ")
    line.append(decimal: counts.left)
    line.append(" stay, ")
    line.append(decimal: counts.noSite)
    line.append(" are none")
    line.show()
  }

  private static func start(_ owner: (any MappingOwner)?, _ site: UInt64) -> TextLine {
    var line = TextLine()
    line.append("rewrite: ")
    append(owner, to: &line)
    line.append(" ")
    line.append(hexadecimal: site)
    line.append(" ")
    return line
  }

  private static func append(_ owner: (any MappingOwner)?, to line: inout TextLine) {
    owner?.withMappingPath { path in
      var last = 0
      for index in 0..<path.count where path[index] == UInt8(ascii: "/") { last = index &+ 1 }
      for index in last..<min(path.count, last &+ 60) { line.append(byte: path[index]) }
    }
  }
}
