// The executable osv-run: all it does is call Command.
import Command

@main struct OSVRun {
  static func main() { Command.main() }
}
