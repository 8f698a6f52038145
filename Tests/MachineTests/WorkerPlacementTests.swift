// When a worker and its vCPU change places: with times made up.
import Glibc
import Testing

@testable import Machine

struct WorkerPlacementTests {
  private let window = PlacementRule.window.lowerBound

  /// How many looks pass until each of `count` moves, where the vCPU waits for that part of the time.
  private func pauses(_ count: Int, share: UInt64) -> [Int] {
    var rule = PlacementRule()
    var (now, waited): (UInt64, UInt64) = (window * 1000, 0)
    _ = rule.shouldMove(now: now, waited: waited)
    return (0..<count).map { _ in
      for looks in 0..<1000 {
        now += window
        waited += window / share
        if rule.shouldMove(now: now, waited: waited) { return looks }
      }
      return -1
    }
  }

  @Test func whoWaitsIsMovedEverMoreSeldomIfItDoesNotHelp() {
    #expect(pauses(9, share: 2) == [0, 1, 2, 4, 8, 16, 32, 64, 64])
  }

  @Test func whoHardlyWaitsStays() { #expect(pauses(1, share: PlacementRule.tolerated) == [-1]) }

  @Test func aMoveThatHelpedIsForgotten() {
    var rule = PlacementRule()
    var (now, waited): (UInt64, UInt64) = (window * 1000, 0)
    func look(_ share: UInt64) -> Bool {
      now += window
      waited += share
      return rule.shouldMove(now: now, waited: waited)
    }
    _ = look(0)
    #expect(look(window))
    #expect(!look(0) && !look(0))
    #expect(look(window))
    #expect(!look(window) && look(window))
  }

  @Test func aLongTimeWithoutWorkTellsNothing() {
    var rule = PlacementRule()
    #expect(rule.isDue(now: window) && !rule.isDue(now: window - 1))
    let moves = [(100, 90), (200, 190), (201, 191)].map { (now: UInt64, waited: UInt64) in
      rule.shouldMove(now: window * now, waited: window * waited)
    }
    #expect(moves == [false, false, true])
  }

  @Test(
    arguments: [
      ("12 345 6\n", 1, 345), ("12 345 6\n", 2, 6), ("12 345 6\n", 3, nil), ("", 0, nil),
      ("7 (a) b) (c) S 1 22\n", 0, nil),
      ("7 (a) b) (c) 5 1 22\n", 2, 22), ("7 (abc)", 0, nil), ("12 99999999999999999999 6\n", 1, nil),
    ] as [(String, Int, UInt64?)]) func linesAreRead(line: String, number: Int, value: UInt64?)
  {
    #expect(Array(line.utf8).withUnsafeBytes { ProcessLine.field(number, in: $0) } == value)
  }

  /// The set of this very thread, narrowed and put back.
  @Test func setsAreWhatTheHostSays() throws {
    let all = try #require(ProcessorSet(of: 0))
    let first = try #require((0..<1024).first { all.removing($0) != all })
    #expect(all.removing(first).count == all.count - 1)
    #expect(ProcessorSet(first).apply(to: 0))
    #expect(ProcessorSet(of: 0) == ProcessorSet(first))
    #expect(all.apply(to: 0) && ProcessorSet(of: 0) == all)
    #expect(!all.removing(first).apply(to: 0x7fff_ffff))
  }

  // MARK: Moving

  /// A host that is made up.
  private final class MadeUpHost: PlacementHost {
    var (vcpu, worker) = (0, 1)
    var (vcpuSet, workerSet) = (ProcessorSet(0, 1), ProcessorSet(0, 1))
    var total: UInt64 = 0
    var refuses = false

    func waited() -> UInt64? { total }
    func processors() -> (vcpu: Int, worker: Int) { (vcpu, worker) }
    func sets() -> (vcpu: ProcessorSet, worker: ProcessorSet)? { (vcpuSet, workerSet) }
    func place(vcpu set: ProcessorSet) -> Bool {
      if refuses { return false }
      vcpuSet = set
      if !set.contains(vcpu) { vcpu = (0..<8).first { set.contains($0) }! }
      return true
    }
    func place(worker set: ProcessorSet) -> Bool {
      if refuses { return false }
      workerSet = set
      if !set.contains(worker) { worker = (0..<8).first { set.contains($0) }! }
      return true
    }
  }

  /// Lets the vCPU wait until there has been a move, or should have been.
  private func wait(_ placement: WorkerPlacement<MadeUpHost>, _ host: MadeUpHost, _ now: inout UInt64) {
    for _ in 0..<2 {
      now += window
      host.total += window / 2
      placement.look(now: now)
    }
  }

  @Test func whoSharesWithOthersChangesPlaces() throws {
    let host = MadeUpHost()
    let placement = try #require(WorkerPlacement(cpuCount: 1, host: host))
    var now = window * 1000
    wait(placement, host, &now)
    #expect(host.vcpu == 1 && host.worker == 0)
    #expect(host.vcpuSet == ProcessorSet(0, 1) && host.workerSet == ProcessorSet(0))
    #expect(!placement.isOff)
  }

  @Test func theWorkerLeavesItsVCPU() throws {
    let host = MadeUpHost()
    host.worker = 0
    let placement = try #require(WorkerPlacement(cpuCount: 1, host: host))
    var now = window * 1000
    wait(placement, host, &now)
    #expect(host.vcpu == 0 && host.worker == 1 && host.workerSet == ProcessorSet(1))
  }

  /// Whoever sets an affinity is obeyed, and the worker's is put back if it is still ours.
  @Test func affinitiesOfOthersHold() throws {
    for isWorkers in [false, true] {
      let host = MadeUpHost()
      let placement = try #require(WorkerPlacement(cpuCount: 1, host: host))
      var now = window * 1000
      wait(placement, host, &now)
      let before = (host.vcpu, host.worker)
      if isWorkers { host.workerSet = ProcessorSet(1) } else { host.vcpuSet = ProcessorSet(1) }
      for _ in 0..<4 { wait(placement, host, &now) }
      #expect(placement.isOff && (host.vcpu, host.worker) == before)
      #expect(host.workerSet == (isWorkers ? ProcessorSet(1) : ProcessorSet(0, 1)))
    }
  }

  @Test func aHostThatRefusesIsNotAskedAgain() throws {
    let host = MadeUpHost()
    let placement = try #require(WorkerPlacement(cpuCount: 1, host: host))
    host.refuses = true
    var now = window * 1000
    wait(placement, host, &now)
    #expect(placement.isOff)
    host.refuses = false
    for _ in 0..<4 { wait(placement, host, &now) }
    #expect((host.vcpu, host.worker) == (0, 1) && host.workerSet == ProcessorSet(0, 1))
  }

  @Test func aHostThatDoesNotSayIsLeftAlone() throws {
    let host = MadeUpHost()
    let placement = try #require(WorkerPlacement(cpuCount: 1, host: host))
    host.vcpu = -1
    var now = window * 1000
    wait(placement, host, &now)
    #expect(placement.isOff && host.worker == 1)
    #expect(WorkerPlacement(cpuCount: 2, host: MadeUpHost()) == nil)
  }
}
