import Locks
import ModelChecker
import Testing

@Suite struct TaggedStackTests {
  /// Some nodes, and a stack or two of them.
  private final class Shared {
    let links: UnsafeMutablePointer<ModelWord>
    let count: Int
    let stack = TaggedStack<ModelWord>()
    let other = TaggedStack<ModelWord>()
    /// Who has each node: 1 while a thread does.
    let held: UnsafeMutablePointer<ModelWord>

    init(count: Int, in stack: Range<UInt32>) {
      self.count = count
      links = .allocate(capacity: count)
      held = .allocate(capacity: count)
      for index in 0..<count {
        (links + index).initialize(to: ModelWord(0))
        (held + index).initialize(to: ModelWord(0))
      }
      for node in stack { self.stack.push(node, links) }
    }

    deinit {
      links.deinitialize(count: count)
      held.deinitialize(count: count)
      links.deallocate()
      held.deallocate()
    }

    func take(_ stack: borrowing TaggedStack<ModelWord>) -> UInt32? {
      guard let node = stack.pop(links) else { return nil }
      ModelChecker.check(held[Int(node)].exchange(1) == 0, "one node, two holders")
      return node
    }

    func put(_ node: UInt32, on stack: borrowing TaggedStack<ModelWord>) {
      held[Int(node)].store(0)
      stack.push(node, links)
    }

    /// What is left in both stacks, in order.
    func rest() -> [UInt32] {
      var nodes: [UInt32] = []
      while let node = stack.pop(links) { nodes.append(node) }
      while let node = other.pop(links) { nodes.append(node) }
      return nodes
    }
  }

  private func expectComplete(_ result: Exploration, _ location: SourceLocation = #_sourceLocation) {
    #expect(result.violation == nil, sourceLocation: location)
    #expect(result.isComplete, "\(result.schedules) schedules", sourceLocation: location)
  }

  @Test func lastInFirstOut() {
    let links = UnsafeMutablePointer<LiveWord>.allocate(capacity: 3)
    defer { links.deallocate() }
    for index in 0..<3 { (links + index).initialize(to: LiveWord(0)) }
    let stack = TaggedStack<LiveWord>()
    let first = stack.pop(links)
    #expect(first == nil)
    for node: UInt32 in 0..<3 { stack.push(node, links) }
    for node: UInt32 in [2, 1, 0] {
      let popped = stack.pop(links)
      #expect(popped == node)
    }
    let isEmpty = stack.isEmpty()
    #expect(isEmpty)
  }

  /// The history that a stack without tags does not survive: one is about to pop while another pops two and puts the first back.
  @Test func everyScheduleOfAPopWhileTheTopGoesAndComesBack() {
    expectComplete(
      ModelChecker.explore {
        let shared = Shared(count: 3, in: 0..<3)
        return ModelProgram(threads: [
          { _ = shared.take(shared.stack) },
          {
            let one = shared.take(shared.stack)
            _ = shared.take(shared.stack)
            if let one { shared.put(one, on: shared.stack) }
          },
        ]) { ModelChecker.check(shared.rest().count == 1, "nodes are lost") }
      })
  }

  @Test func everyScheduleOfTwoThatExchange() {
    // As the depots do: a full one for an empty one, and the other way round.
    expectComplete(
      ModelChecker.explore {
        let shared = Shared(count: 2, in: 0..<2)
        let body = {
          if let node = shared.take(shared.stack) { shared.put(node, on: shared.other) }
          if let node = shared.take(shared.other) { shared.put(node, on: shared.stack) }
        }
        return ModelProgram(threads: [body, body]) {
          ModelChecker.check(shared.rest().sorted() == [0, 1], "nodes are lost")
        }
      })
  }

  @Test func threeThreadsWithFewPreemptions() {
    expectComplete(
      ModelChecker.explore(preemptionBound: 2) {
        let shared = Shared(count: 3, in: 0..<3)
        let body = {
          for _ in 0..<2 {
            if let node = shared.take(shared.stack) { shared.put(node, on: shared.stack) }
          }
        }
        return ModelProgram(threads: [body, body, body]) {
          ModelChecker.check(shared.rest().sorted() == [0, 1, 2], "nodes are lost")
        }
      })
  }

  /// The same structure without the tag, to see that the tests above would tell.
  @Test func theCheckerSeesWhatTheTagIsFor() {
    let result = ModelChecker.explore {
      let shared = Shared(count: 3, in: 0..<0)
      let head = Box(0)
      func push(_ node: UInt) {
        while true {
          let old = head.word.load()
          shared.links[Int(node)].store(old)
          if head.word.compareExchange(old, node + 1) { return }
        }
      }
      func pop() -> UInt? {
        while true {
          let old = head.word.load()
          if old == 0 { return nil }
          let below = shared.links[Int(old) - 1].load()
          if head.word.compareExchange(old, below) {
            ModelChecker.check(shared.held[Int(old) - 1].exchange(1) == 0, "one node, two holders")
            return old - 1
          }
        }
      }
      for node: UInt in 0..<3 { push(node) }
      return ModelProgram(threads: [
        {
          _ = pop()
          _ = pop()
        },
        {
          let one = pop()
          _ = pop()
          if let one {
            shared.held[Int(one)].store(0)
            push(one)
          }
        },
      ])
    }
    #expect(result.violation?.hasPrefix("one node, two holders") == true)
  }

  @Test func hostThreadsInParallel() {
    final class Pool: @unchecked Sendable {
      let links = UnsafeMutablePointer<LiveWord>.allocate(capacity: 8)
      let holders = UnsafeMutablePointer<LiveWord>.allocate(capacity: 8)
      let full = TaggedStack<LiveWord>()
      let empty = TaggedStack<LiveWord>()
      let mistakes = LiveWord(0)
    }
    let pool = Pool()
    for index in 0..<8 {
      (pool.links + index).initialize(to: LiveWord(0))
      (pool.holders + index).initialize(to: LiveWord(0))
      pool.full.push(UInt32(index), pool.links)
    }
    HostThreads.run(4) { number in
      for round in 0..<50_000 {
        let isEven = (round + number) % 2 == 0
        guard let node = isEven ? pool.full.pop(pool.links) : pool.empty.pop(pool.links) else { continue }
        if pool.holders[Int(node)].exchange(1) != 0 { _ = pool.mistakes.add(1) }
        pool.holders[Int(node)].store(0)
        if isEven { pool.empty.push(node, pool.links) } else { pool.full.push(node, pool.links) }
      }
    }
    let mistakes = pool.mistakes.load()
    #expect(mistakes == 0)
    var count = 0
    while pool.full.pop(pool.links) != nil { count += 1 }
    while pool.empty.pop(pool.links) != nil { count += 1 }
    #expect(count == 8)
    pool.links.deallocate()
    pool.holders.deallocate()
  }
}
