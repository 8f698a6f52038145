// Small writes that follow one another closely: what they cost, when they go out, in what order, and who hears of failures.
import Base
import Devices
import Glibc
import Locks
import Platform
import Testing
import Threads

@Suite struct ConsoleGatheringTests {
  private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

  @Test func smallWritesShareTheirExits() {
    let it = ConsoleBench(gathering: .max)
    var expected: [UInt8] = []
    for number in 0..<1000 {
      let line = bytes("line \(number)\n")
      #expect(it.console.put(.standard, line) == .success(line.count))
      expected += line
    }
    // One for the first, one for a page full; the next buffer is larger.
    #expect((4200..<60_000).contains(expected.count))
    #expect(it.bench.registers.notifications.load(ordering: .relaxed) == 2)
    #expect(it.console.flush() == nil)
    #expect(it.output.take(100_000) == expected)
  }

  @Test func theFirstWriteAndLateOnesGoOutAtOnce() {
    let it = ConsoleBench(gathering: 1)
    for round in 1..<10 {
      #expect(it.console.put(.standard, bytes("x")) == .success(1))
      #expect(it.output.waiting == round)
    }
  }

  @Test func allOutputKeepsItsOrder() {
    let it = ConsoleBench(gathering: .max, sharesOutput: true)
    var expected: [UInt8] = []
    for round in 0..<290 {
      let port: ConsoleDriver.Port = round % 7 < 4 ? .standard : .error
      let part = [UInt8](repeating: UInt8(round % 251), count: round % 5 == 4 ? 1500 : 1 + round % 9)
      #expect(it.console.put(port, part) == .success(part.count))
      expected += part
      if expected.count >= 30_000 {
        #expect(it.console.flush() == nil)
        #expect(it.output.take(65_536) == expected)
        expected = []
      }
    }
    #expect(it.console.flush() == nil)
    // Something is left: there would be nothing to wait for otherwise.
    #expect(!expected.isEmpty && it.output.take(65_536) == expected)
  }

  @Test func whatWaitsGoesOutBeforeInputIsRead() {
    let it = ConsoleBench(gathering: .max)
    _ = it.console.put(.standard, bytes("your "))
    _ = it.console.put(.standard, bytes("name? "))
    #expect(it.output.waiting == 5)
    #expect(it.console.take(9, nonBlocking: true) == .failure(.EAGAIN))
    #expect(it.output.take(100) == bytes("your name? "))
  }

  @Test func whatWaitsGoesOutInTime() throws {
    try WorkQueue.begin()
    let it = ConsoleBench(gathering: 20_000_000)
    for round in 1...3 {
      // On a busy machine one of them may be late, and go out at once.
      _ = it.console.put(.standard, bytes("a"))
      _ = it.console.put(.standard, bytes("b"))
      _ = it.console.put(.standard, bytes("c"))
      #expect(eventually { it.output.waiting == 3 * round })
    }
  }

  @Test func aFailureIsToldAtTheNextWriteAtCloseOrAtTheEnd() {
    let it = ConsoleBench(gathering: .max)
    let full = open("/dev/full", O_WRONLY | O_CLOEXEC)
    defer { close(full) }
    #expect(it.console.put(.standard, bytes("a")) == .success(1))
    #expect(dup2(full, it.output.writer) >= 0)
    #expect(it.console.put(.standard, bytes("b")) == .success(1))
    #expect(throws: Errno.ENOSPC) { try it.console.finishWriting(.standard) }
    #expect(throws: Never.self) { try it.console.finishWriting(.standard) }

    #expect(it.console.put(.standard, bytes("c")) == .success(1))
    #expect(it.console.take(1, nonBlocking: true) == .failure(.EAGAIN))
    #expect(it.console.put(.standard, bytes("d")) == .failure(.ENOSPC))
    #expect(it.console.flush() == nil)

    // After one that has failed, the next is on its own.
    #expect(it.console.put(.standard, bytes("f")) == .failure(.ENOSPC))
    #expect(it.console.put(.standard, bytes("g")) == .failure(.ENOSPC))
    #expect(it.console.flush() == nil)
    #expect(dup2(it.error.writer, it.output.writer) >= 0)
    #expect(it.console.put(.standard, bytes("h")) == .success(1))
    #expect(dup2(full, it.output.writer) >= 0)
    #expect(it.console.put(.standard, bytes("i")) == .success(1))
    #expect(it.console.flush() == .ENOSPC)
    #expect(it.console.flush() == nil)
  }

  @Test func aReaderThatWentAwayIsToldAtTheNextWrite() {
    let it = ConsoleBench(gathering: .max)
    #expect(it.console.put(.standard, bytes("a")) == .success(1))
    it.output.closeReader()
    #expect(it.console.put(.standard, bytes("b")) == .success(1))
    #expect(throws: Never.self) { try it.console.finishWriting(.standard) }
    #expect(it.console.put(.standard, bytes("c")) == .failure(.EPIPE))
    #expect(it.console.flush() == nil)
  }

  /// While nobody reads, no more output waits here than one buffer; and whoever ends waits for it only as long as it wants to.
  @Test func nothingIsGatheredWhileTheReaderIsBehind() {
    let it = ConsoleBench(gathering: .max)
    let written = Atomic<Int>(0)
    let total = 1_000_000
    let writer = TestThread {
      for _ in 0..<total / 100 {
        _ = it.console.put(.standard, [UInt8](repeating: 7, count: 100))
        written.add(100, ordering: .relaxed)
      }
    }
    #expect(eventually { it.output.waiting >= 65_536 - 4096 })
    usleep(20_000)
    #expect(written.load(ordering: .relaxed) <= it.output.waiting + 65_536 + 100)
    #expect(it.console.flush(until: .after(20_000_000, from: Clock.now())) == nil)
    var received = 0
    while received < total - 65_536 { received += it.output.take(65_536).count }
    writer.join()
    #expect(it.console.flush() == nil)
    received += it.output.take(65_536).count
    #expect(received == total)
  }
}
