// TCP within one machine with a thread at each end, blocking calls, in real time.
import Base
import Devices
import Files
import Locks
import Memory
import ModelChecker
import Platform
import Testing

@testable import Network

@Suite(.serialized) struct TCPThreadTests {
  let program = SocketClient()

  private func machine() -> NetworkStack {
    TestThreads.begin()
    return NetworkStack(environment: RealEnvironment(), key: SipKey(3, 4))
  }

  private func blocking(_ stack: NetworkStack) throws -> TCPSocket {
    let result = try program.tcp(stack)
    result.setFlags([])
    return result
  }

  private func listener(_ stack: NetworkStack, backlog: Int = 100) throws -> TCPSocket {
    let result = try program.listener(stack, .loopback4, 0, backlog: backlog)
    result.setFlags([])
    return result
  }

  /// Whether it is so within some seconds.
  private func becomes(_ condition: () -> Bool) -> Bool {
    for _ in 0..<500 {
      if condition() { return true }
      _ = HostedSleep.milliseconds(10)
    }
    return condition()
  }

  /// A stream each way at once, with small buffers.
  @Test func streams() throws {
    let stack = machine()
    let listener = try listener(stack)
    let bytes = someBytes(4_000_000)
    let shared = UncheckedBox((stack, listener, bytes, program))
    let failures = Atomic<Int>(0)
    HostThreads.run(2) { index in
      let (stack, listener, _, program) = shared.value
      do {
        let socket: TCPSocket
        if index == 0 {
          socket = try #require(try listener.accept(flags: []) as? TCPSocket)
        } else {
          socket = try program.tcp(stack)
          socket.setFlags([])
          try program.connect(socket, .loopback4, listener.port)
        }
        let end = UncheckedBox(socket)
        HostThreads.run(2) { direction in
          let (_, _, bytes, program) = shared.value
          do {
            if direction == 0 {
              var sent = 0
              while sent < bytes.count {
                sent += try program.send(end.value, Array(bytes[sent..<min(sent + 123_457, bytes.count)]))
              }
              try end.value.shutdown(receiving: false, sending: true)
            } else {
              var got = 0
              while true {
                let part = try program.receive(end.value, 50_000)
                if part.message.count == 0 { break }
                if part.bytes != Array(bytes[got..<got + part.message.count]) {
                  failures.wrappingAdd(1, ordering: .relaxed)
                }
                got += part.message.count
              }
              if got != bytes.count { failures.wrappingAdd(1, ordering: .relaxed) }
            }
          } catch {
            Issue.record("\(index) \(direction): \(error)")
          }
        }
        socket.closed()
      } catch {
        Issue.record("\(index): \(error)")
      }
    }
    #expect(failures.load(ordering: .relaxed) == 0)
    listener.closed()
    #expect(becomes { stack.flows.count == 0 })
  }

  /// Many connections, each with a question and an answer.
  @Test func storms() throws {
    let stack = machine()
    let listener = try listener(stack)
    let shared = UncheckedBox((stack, listener, program))
    let good = Atomic<Int>(0)
    HostThreads.run(4) { index in
      let (stack, listener, program) = shared.value
      do {
        for round in 0..<200 {
          if index < 2 {
            let server = try listener.accept(flags: [])
            let question = try program.receive(server, 100)
            try program.send(server, question.bytes)
            server.closed()
          } else {
            let client = try program.tcp(stack)
            client.setFlags([])
            try program.connect(client, .loopback4, listener.port)
            try program.send(client, [UInt8(index), UInt8(round)])
            // Less than was asked for, since the end comes behind it.
            let answer = try program.receive(client, 100, .all)
            if answer.bytes == [UInt8(index), UInt8(round)] { good.wrappingAdd(1, ordering: .relaxed) }
            client.closed()
          }
        }
      } catch {
        Issue.record("\(index): \(error)")
      }
    }
    #expect(good.load(ordering: .relaxed) == 400)
    listener.closed()
    #expect(becomes { stack.flows.count == 0 })
    #expect(becomes { stack.transmission.orphanCount.load(ordering: .relaxed) == 0 })
  }

  /// Who waits is told when the socket is shut down or closed by another thread.
  @Test func waitersAreWoken() throws {
    let stack = machine()
    let listener = try listener(stack)
    let client = try blocking(stack)
    try program.connect(client, .loopback4, listener.port)
    let server = try listener.accept(flags: [])
    let shared = UncheckedBox((client, listener, program))
    HostThreads.run(3) { index in
      let (client, listener, program) = shared.value
      switch index {
      case 0: #expect((try? program.receive(client, 10))?.message.count == 0)
      case 1: #expect(throws: Errno.EINVAL) { try listener.accept(flags: []) }
      default:
        _ = HostedSleep.milliseconds(30)
        try? client.shutdown(receiving: true, sending: true)
        listener.closed()
      }
    }
    server.closed()
    client.closed()
    #expect(becomes { stack.flows.count == 0 })
  }

  /// SO_LINGER: close waits until everything has arrived.
  @Test func lingering() throws {
    let stack = machine()
    let listener = try listener(stack)
    let client = try blocking(stack)
    try program.connect(client, .loopback4, listener.port)
    let server = try listener.accept(flags: [])
    try program.set(client, OptionLevel.socket, SocketOption.linger, 1, 5)
    let bytes = someBytes(60_000)
    #expect(try program.send(client, bytes) == 60_000)
    let shared = UncheckedBox((client, server, program))
    HostThreads.run(2) { index in
      let (client, server, program) = shared.value
      if index == 0 {
        client.closed()
      } else {
        var got = 0
        while let part = try? program.receive(server, 5000), part.message.count > 0 { got += part.message.count }
        #expect(got == 60_000)
        server.closed()
      }
    }
    listener.closed()
    #expect(becomes { stack.flows.count == 0 })
  }
}

/// What threads of a test share; they see to it themselves.
final class UncheckedBox<Value>: @unchecked Sendable {
  let value: Value
  init(_ value: Value) { self.value = value }
}

/// The host's time.
final class RealEnvironment: NetworkEnvironment {
  private let seed = Atomic<UInt64>(1)
  override func random() -> UInt64 { SipKey(21, 22).hash(seed.wrappingAdd(1, ordering: .relaxed).newValue) }
}

enum HostedSleep {
  static func milliseconds(_ count: UInt64) -> WaitResult {
    Parking.park(until: .after(count * 1_000_000, from: Clock.now()))
  }
}
