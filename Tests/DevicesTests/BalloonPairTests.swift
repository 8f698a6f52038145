// The balloon's driver against the real device, with the tests' physical memory between them.
import Base
import Glibc
import Memory
import Pages
import Platform
import Testing
import VirtioABI
import VirtioBalloon
import VirtioQueue

@testable import Devices

/// The memory that devices of the bench see, for a device that has to be made before its bench.
private func arena() -> GuestMemoryMap {
  HostedArena.prepare()
  let map = GuestMemoryMap()
  map.add(start: GuestAddress(0), byteCount: HostedArena.managedByteCount, host: LinearMap.pointer(PhysicalAddress(0)))
  return map
}

/// A machine with a balloon that runs until it is stopped.
private final class BalloonMachine {
  let device = VirtioBalloon(memory: arena())
  let bench: Bench
  let driver: BalloonDriver

  init(wanted: UInt64 = 0) throws {
    device.setWanted(byteCount: wanted)
    bench = Bench(device)
    driver = try BalloonDriver(bench.driver)
    try driver.start()
  }

  /// Stops the device: the driver lets everything go.
  func end() {
    driver.function.stop()
    driver.wakeToAdjust()
    #expect(eventually { self.stashed == 0 })
  }

  var stashed: Int {
    driver.lock.lock()
    defer { driver.lock.unlock() }
    return driver.stash.frameCount
  }
  var actual: UInt64 { device.report.actualByteCount }
}

/// Whether the host has memory for all (or none) of a block.
private func isPresent(_ frame: PhysicalAddress, byteCount: Int) -> (all: Bool, none: Bool) {
  var state = [UInt8](repeating: 0, count: byteCount / 4096)
  #expect(mincore(LinearMap.pointer(frame), byteCount, &state) == 0)
  return (state.allSatisfy { $0 & 1 != 0 }, state.allSatisfy { $0 & 1 == 0 })
}

// One driver at a time is the machine's.
@Suite(.serialized) struct BalloonPairTests {
  @Test func theBalloonTakesTheSizeThatIsWanted() throws {
    let machine = try BalloonMachine(wanted: 9 << 20)
    defer { machine.end() }
    for wanted: UInt64 in [9 << 20, 33 << 20, 4096 * 77, 5 << 20, 0, 1 << 20] {
      machine.device.setWanted(byteCount: wanted)
      #expect(eventually { machine.actual == wanted }, "\(machine.actual) of \(wanted)")
      #expect(machine.stashed == Int(wanted >> 12))
    }
  }

  @Test func memoryOfTheBalloonIsNotCountedAndTheHostHasIt() throws {
    let machine = try BalloonMachine()
    defer { machine.end() }
    let total = Frames.statistics.total
    machine.device.setWanted(byteCount: 16 << 20)
    #expect(eventually { machine.actual == 16 << 20 })
    #expect(Frames.statistics.total == total - 4096)
    machine.driver.lock.lock()
    defer { machine.driver.lock.unlock() }
    guard let block = machine.driver.stash.pop(maximumOrder: 9) else { return #expect(Bool(false), "empty") }
    #expect(isPresent(block.frame, byteCount: 4096 << block.order).none)
    machine.driver.stash.push(block.frame, order: block.order)
  }

  @Test func whoIsOutOfMemoryGetsTheBalloon() throws {
    let machine = try BalloonMachine(wanted: 8 << 20)
    defer { machine.end() }
    #expect(eventually { machine.actual == 8 << 20 })
    let given = BalloonDriver.giveBack(pages: 700)
    #expect(given >= 700 && given <= 1024)
    #expect(machine.stashed == 2048 - given)
    // The host hears of it at once, and has its way again some time later.
    #expect(eventually { machine.actual == UInt64(2048 - given) << 12 })
    #expect(eventually { machine.actual == 8 << 20 })
    #expect(BalloonDriver.giveBack(pages: 1 << 30) == 2048)
  }

  @Test func surplusMemoryIsReportedAndComesBackAsZeros() throws {
    let machine = try BalloonMachine()
    defer { machine.end() }
    var blocks: [PhysicalAddress] = []
    for _ in 0..<8 {
      guard let block = Frames.allocate(order: 9, use: .program) else { return #expect(Bool(false), "no memory") }
      memset(LinearMap.pointer(block), 0x77, 2 << 20)
      blocks.append(block)
    }
    #expect(blocks.allSatisfy { isPresent($0, byteCount: 2 << 20).all })
    for block in blocks { Frames.free(block, order: 9) }
    Frames.noticeSurplus()
    // Others of this process may use some of it, but hardly all.
    #expect(eventually { blocks.count { isPresent($0, byteCount: 2 << 20).none } >= 6 })
    // A report is counted once all its pieces are gone.
    #expect(eventually { machine.device.report.reportedByteCount >= 12 << 20 })
    let again = (0..<8).compactMap { _ in Frames.allocate(order: 9, zeroed: true) }
    for block in again {
      let words = LinearMap.pointer(block).assumingMemoryBound(to: UInt64.self)
      #expect((0..<(1 << 18)).allSatisfy { words[$0] == 0 })
    }
    for block in again { Frames.free(block, order: 9) }
  }

  @Test func statisticsAreThoseOfNow() throws {
    let machine = try BalloonMachine()
    defer { machine.end() }
    #expect(eventually { machine.device.report.statisticsNumber == 1 })
    for round in 2..<6 {
      machine.device.requestStatistics()
      #expect(eventually { machine.device.report.statisticsNumber == round })
    }
    let statistics = machine.device.report.statistics
    let total = statistics[Int(VirtioBalloonStatistic.total)]
    #expect(total == UInt64(Frames.statistics.total) << 12)
    #expect(statistics[Int(VirtioBalloonStatistic.free)].map { $0 > 0 && $0 < total! } == true)
    #expect(statistics[Int(VirtioBalloonStatistic.swapIn)] == nil)
  }

  @Test func aDeviceThatIsGoneLeavesNothingInTheBalloon() throws {
    let machine = try BalloonMachine(wanted: 4 << 20)
    #expect(eventually { machine.actual == 4 << 20 })
    machine.end()
    #expect(BalloonDriver.giveBack(pages: 1) == 0)
    machine.device.setWanted(byteCount: 8 << 20)
    #expect(machine.stashed == 0)
  }
}
