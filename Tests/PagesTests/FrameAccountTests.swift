// The accounts of frames add up at any moment, whatever threads do meanwhile.
import Base
import Dispatch
import Platform
import Synchronization
import Testing

@testable import Pages

@Suite struct FrameAccountTests {
  static var uses: [FrameUse] { [.kernel, .table, .stack, .heap, .program, .file, .shared, .packet] }

  static func sum(_ account: FrameAccount) -> Int {
    uses.reduce(account.free + account.inMagazines) { $0 + account[$1] }
  }

  @Test func theyAddUpAtAnyMoment() {
    let isDone = Atomic<Bool>(false)
    let exact = Atomic<Int>(0)
    let wrong = Atomic<Int>(0)
    DispatchQueue.concurrentPerform(iterations: 4) { number in
      if number == 0 {
        for _ in 0..<3000 {
          let account = Frames.account()
          guard account.isExact else { continue }
          exact.add(1, ordering: .relaxed)
          if Self.sum(account) != account.total { wrong.add(1, ordering: .relaxed) }
        }
        isDone.store(true, ordering: .relaxed)
        return
      }
      var random = Generator(state: number.u64)
      var held: [(frame: PhysicalAddress, order: Int)] = []
      var objects: [UnsafeMutableRawPointer] = []
      while !isDone.load(ordering: .relaxed) {
        switch Int.random(in: 0..<5, using: &random) {
        case 0, 1:
          let order = Int.random(in: 0..<4, using: &random) == 0 ? Int.random(in: 1...5, using: &random) : 0
          let use = Self.uses.randomElement(using: &random)!
          if held.count < 200, let frame = Frames.allocate(order: order, use: use) { held.append((frame, order)) }
        case 2:
          guard !held.isEmpty else { continue }
          let block = held.remove(at: Int.random(in: 0..<held.count, using: &random))
          if block.order > 0 && block.order < 3 {
            // Given back in parts.
            Frames.split(block.frame, order: block.order)
            for index in 0..<1 << block.order { Frames.release(block.frame + index * 4096) }
          } else {
            Frames.free(block.frame, order: block.order)
          }
        case 3:
          if objects.count < 300, let object = KernelHeap.allocate(byteCount: Int.random(in: 1...9000, using: &random))
          {
            objects.append(object)
          }
        default:
          if !objects.isEmpty { KernelHeap.free(objects.remove(at: Int.random(in: 0..<objects.count, using: &random))) }
        }
      }
      for block in held { Frames.free(block.frame, order: block.order) }
      for object in objects { KernelHeap.free(object) }
    }
    #expect(wrong.load(ordering: .relaxed) == 0)
    #expect(exact.load(ordering: .relaxed) > 1000)
  }

  /// Memory of its own, so that nobody else changes the numbers.
  @Test func eachUseIsCounted() throws {
    let start = HostedArena.place(byteCount: 64 << 20)
    let state = FrameState.make(start: start, end: start + 64 << 20, cpuCount: 1)
    let empty = state.account()
    #expect(empty.isExact && Self.sum(empty) == empty.total)
    for use in Self.uses { #expect(empty[use] == 0) }
    let single = state.popFrame(.table)
    let block = try #require(state.take(order: 3, .file))
    let account = state.account()
    #expect(account[.table] == 1 && account[.file] == 8 && account[.program] == 0)
    #expect(account.inMagazines == 31 && Self.sum(account) == account.total)
    // In parts it is still what it was.
    state.pointee.allocator.split(block.frame, order: 3)
    state.pushFrame(block.frame + 3, isZero: false)
    #expect(state.account()[.file] == 7)
    state.pushFrame(single & ~FrameState.zeroBit, isZero: false)
    let last = state.account()
    #expect(last[.table] == 0 && Self.sum(last) == last.total)
    let (reserve, low, high) = (state.pointee.reserve, state.pointee.lowMark, state.pointee.highMark)
    #expect(0 < reserve && reserve < low && low < high && high < last.total / 2)
  }
}
