// Two connections over bad networks: whatever happens to packets, the bytes arrive, in order, once, and both ends close.
import Base
import Testing

@testable import Network

@Suite(.timeLimit(.minutes(15))) struct TCPSimulationTests {
  /// Sends `count` bytes to the server and half as many back, closes, and checks it all.
  @discardableResult
  func transfer(
    _ model: NetworkModel, seed: UInt64, count: Int = 200_000, settings: TCPSettings = TCPSettings(),
    largestSend: Int = 65_000, limit: UInt64 = 3_600_000_000_000, readChunk: Int = 100_000
  ) -> TCPSimulation {
    let simulation = TCPSimulation(model, seed: seed, settings: settings, largestSend: largestSend)
    let back = count / 2
    let (up, down) = (pattern(count), pattern(back, from: 7))
    var sent = (0, 0)
    simulation.programs = { s in
      if s.client.events.contains(.connected), sent.0 < count {
        let piece = min(1 + s.chance.below(20_000), count - sent.0)
        sent.0 += s.client.write(Array(up[sent.0..<sent.0 + piece]), isSlice: piece > 2000)
        if sent.0 == count {
          s.client.core.finishSending(now: s.now)
          s.client.settle()
        }
      }
      if s.server.events.contains(.connected), sent.1 < back {
        let piece = min(1 + s.chance.below(20_000), back - sent.1)
        sent.1 += s.server.write(Array(down[sent.1..<sent.1 + piece]))
        if sent.1 == back {
          s.server.core.finishSending(now: s.now)
          s.server.settle()
        }
      }
      s.client.read(1 + s.chance.below(readChunk))
      s.server.read(1 + s.chance.below(readChunk))
    }
    simulation.open()
    let isOver: (TestConnection) -> Bool = {
      ($0.core.state == .timeWait || $0.core.state == .closed) && $0.core.unconsumed == 0
    }
    simulation.run(limit: limit) { isOver($0.client) && isOver($0.server) }
    let (isThere, isBack) = (simulation.server.received == up, simulation.client.received == down)
    #expect(isThere, "server has \(simulation.server.received.count) of \(count) bytes, seed \(seed), \(model)")
    #expect(isBack, "client has \(simulation.client.received.count) of \(back) bytes, seed \(seed), \(model)")
    let errors = (simulation.client.core.error, simulation.server.core.error)
    #expect(errors.0 == nil && errors.1 == nil, "\(errors), seed \(seed), \(model)")
    #expect(isOver(simulation.client) && isOver(simulation.server), "seed \(seed), \(model)")
    return simulation
  }

  @Test func cleanNetwork() {
    let simulation = transfer(NetworkModel(), seed: 1)
    #expect(simulation.client.core.statistics.retransmissions == 0)
    #expect(simulation.server.core.statistics.retransmissions == 0)
  }

  static let losses = [0, 10, 50, 150]

  @Test(arguments: losses, [0, 300]) func matrix(loss: Int, reordering: Int) {
    var seed = UInt64(loss * 1000 + reordering)
    for duplication in [0, 50] {
      for delay in [50_000, 5_000_000, 100_000_000] as [UInt64] {
        for buffer in [4096, 65_536, 1 << 20] {
          let settings = TCPSettings()
          settings.receiveBuffer = (4096, buffer * 2, max(buffer * 2, 131_072))
          settings.sendBuffer = (4096, buffer, max(buffer, 65_536))
          seed += 1
          var model = NetworkModel(loss: loss, duplication: duplication, reordering: reordering, delay: delay)
          model.jitter = delay
          transfer(model, seed: seed, count: 60_000, settings: settings)
        }
      }
    }
  }

  /// Every set of options, on a bad network.
  @Test(arguments: 0..<32) func options(bits: Int) {
    let settings = TCPSettings()
    settings.offersSelective = bits & 1 != 0
    settings.offersTimestamps = bits & 2 != 0
    settings.offersScaling = bits & 4 != 0
    settings.congestionAlgorithm = bits & 8 != 0 ? .cubic : .newReno
    settings.congestionNotification = bits & 16 != 0 ? 1 : 0
    for loss in [0, 20, 100] {
      var model = NetworkModel(loss: loss, duplication: 20, reordering: 100, marking: 20, delay: 10_000_000)
      model.jitter = 4_000_000
      transfer(
        model, seed: UInt64(bits * 10 + loss), count: 100_000, settings: settings,
        largestSend: bits & 4 != 0 ? 65_000 : 0)
    }
  }

  /// A reader that takes a little at a time: the window closes and opens.
  @Test func slowReader() {
    for seed in 1...4 as ClosedRange<UInt64> {
      transfer(NetworkModel(loss: seed == 1 ? 0 : 30), seed: seed, count: 150_000, readChunk: 300)
    }
  }

  /// A link with a queue that overflows.
  @Test(arguments: CongestionAlgorithm.all) func bottleneck(algorithm: CongestionAlgorithm) {
    let settings = TCPSettings()
    settings.congestionAlgorithm = algorithm
    var model = NetworkModel(delay: 10_000_000)
    (model.rate, model.queue) = (50_000_000, 60_000)
    let simulation = transfer(model, seed: 5, count: 6_000_000, settings: settings, readChunk: 10_000_000)
    #expect(simulation.lostCount > 0, "slow start overflows the queue")
    // 6 MB over 50 Mbit/s take 0.96 s; with half as much the other way, acknowledgements and losses a little more.
    let time = Double(simulation.now - 1_000_000_000) / 1e9
    #expect(time < 1.8, "took \(time) s")
    #expect(simulation.client.core.statistics.retransmissions < 800)
  }
}
