// A unikernel in Swift: this program and the kernel are one file.
//
//   osv-run --volume .:/data:ro .build/images/hello.elf /data/README.md
//
// It prints its arguments, works on two threads, and counts the lines of a file of the attached directory.
import GuestAPI

@main struct Hello {
  static func main() {
    print("Hello from Swift, in a machine of its own.")
    var index = 0
    for argument in arguments {
      print("argument \(index): \(argument)")
      index += 1
    }
    countOnTwoThreads()
    if arguments.count > 1 { countLines(of: arguments[1]) }
  }

  /// Adds up a range of numbers, one half on another thread.
  static func countOnTwoThreads() {
    let other = Sum()
    do throws(Errno) {
      let thread = try Thread { other.add(from: 1, to: 50_000) }
      let mine = Sum()
      mine.add(from: 50_001, to: 100_000)
      thread.join()
      print("two threads added up 1 to 100000: \(mine.total + other.total)")
    } catch {
      printError("no thread: \(error.message)")
      exit(1)
    }
  }

  /// Prints how many lines a file has.
  static func countLines(of path: String) {
    do throws(Errno) {
      let file = try File(path)
      var lines = 0
      for byte in try file.readAll() where byte == UInt8(ascii: "\n") { lines += 1 }
      print("\(path) has \(lines) lines")
    } catch {
      printError("\(path): \(error.message)")
      exit(1)
    }
  }
}

/// A sum that a thread works on.
final class Sum {
  private(set) var total = 0

  func add(from first: Int, to last: Int) {
    for number in first...last { total += number }
  }
}
