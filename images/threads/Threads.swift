// Threads, as the kernel offers them to Swift programs: every kind of lock and wait, each checked, and what a switch costs.
//
//   osv-run --cpus 2 .build/images/threads.elf
//
// Prints a line for each check; the status is 0 if all hold.
import GuestAPI

@main struct Threads {
  static func main() {
    var isRight = true
    let checks: [(name: String, run: () throws(Errno) -> Bool)] = [
      ("results, names and affinity", Checks.results), ("mutex", Checks.mutex), ("condition", Checks.condition),
      ("reader-writer lock", Checks.readersAndWriters), ("semaphore with a deadline", Checks.semaphore),
      ("waiting for any of several", Checks.waitingForAny), ("timers", Checks.timers),
      ("read-copy-update", Checks.readCopyUpdate), ("memory regions", Checks.regions),
      ("a thousand threads", Checks.many),
    ]
    for check in checks {
      do throws(Errno) {
        let passed = try check.run()
        print("\(check.name): \(passed ? "ok" : "FAILED")")
        isRight = isRight && passed
      } catch {
        print("\(check.name): FAILED, \(error.message)")
        isRight = false
      }
    }
    do throws(Errno) { try Figures.print() } catch {
      print("figures: FAILED, \(error.message)")
      isRight = false
    }
    exit(isRight ? 0 : 1)
  }
}
