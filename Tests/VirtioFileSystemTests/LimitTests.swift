// Bounds: descriptors, nodes and handles whatever the tree's size; large directories; counts of lookups.
import Glibc
import Testing
import VirtioABI

@testable import VirtioFileSystem

@Suite(.serialized) struct LimitTests {
  let host = TestDirectory()

  /// Descriptors that this process has open beneath the test's directory: other tests run beside this one.
  func descriptors() -> Int {
    var count = 0
    for descriptor in 0..<4096 {
      let target = withUnsafeTemporaryAllocation(of: CChar.self, capacity: 4096) { buffer in
        let length = readlink("/proc/self/fd/\(descriptor)", buffer.baseAddress!, buffer.count)
        return String(
          decoding: UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[..<max(length, 0)]), as: UTF8.self)
      }
      if target.hasPrefix(host.path) { count += 1 }
    }
    return count
  }

  @Test func aTreeIsWalkedWithinItsDescriptors() throws {
    for a in 0..<12 {
      host.directory("\(a)")
      for b in 0..<12 {
        host.directory("\(a)/\(b)")
        host.file("\(a)/\(b)/file", "\(a).\(b)")
      }
    }
    var configuration = FUSEServer.Configuration()
    configuration.descriptorLimit = 4
    let client = try TestClient(host.path, features: TestClient.ours, configuration: configuration)
    let before = descriptors()
    var files: [(UInt64, String)] = []
    for a in client.list(1).entries {
      for b in client.list(a.entry!.nodeID).entries {
        for file in client.list(b.entry!.nodeID).entries { files.append((file.entry!.nodeID, "\(a.name).\(b.name)")) }
      }
    }
    #expect(files.count == 144)
    for (node, content) in files { #expect(client.read(node, 0, 100).body == Array(content.utf8)) }
    for (node, content) in files.reversed() { #expect(client.read(node, 0, 100).body == Array(content.utf8)) }
    #expect(descriptors() - before <= 4)
    #expect(client.server.statistics.descriptors <= 4)
    #expect(client.server.statistics.nodes == 1 + 12 + 144 + 144)
  }

  @Test func largeDirectoriesStream() throws {
    for index in 0..<10_000 { close(open(host["entry-\(index)"], O_CREAT | O_WRONLY, 0o600)) }
    let client = try TestClient(host.path, features: TestClient.ours)
    var all: [Entry] = []
    for size in [16_384, 1 << 20] {
      let (entries, messages) = client.list(1, size: size)
      #expect(entries.count == 10_000)
      #expect(Set(entries.map(\.name)).count == 10_000)
      #expect(messages <= 10_000 * 176 / (size - 512) + 2)
      all = entries
    }
    #expect(client.list(1, plus: false).entries.count == 10_000)
    // A cookie leads to the same place again, from any call.
    let middle = client.entries(1, all[4_999].offset, 65_536).entries
    #expect(middle.first?.name == all[5_000].name)
  }

  @Test func smallDirectoriesTakeOneMessage() throws {
    for index in 0..<100 { host.file("f\(index)") }
    let client = try TestClient(host.path, features: TestClient.ours)
    #expect(client.list(1, size: 65_536).messages == 1)
  }

  @Test func forgetIsExact() throws {
    host.directory("dir")
    host.file("dir/file")
    let client = try TestClient(host.path)
    func forget(_ node: UInt64, _ count: UInt64) {
      var one = FUSEForgetIn()
      one.lookupCount = count
      #expect(client.call(FUSEOpcode.forget, node, bytes(one)).length == 0)
    }
    let directory = client.node("dir")
    let file = client.lookup(directory, "file").entry.nodeID
    _ = client.lookup(directory, "file")
    #expect(client.server.statistics.nodes == 3)
    forget(file, 1)
    #expect(client.getattr(file).error == 0)
    // A parent outlives its own lookups while a child needs its name.
    forget(directory, 1)
    #expect(client.getattr(file).error == 0)
    forget(file, 1)
    #expect(client.server.statistics.nodes == 1)
    #expect(client.getattr(file).error == ESTALE)
    #expect(client.node("dir") != directory)
    // Too many, of nodes that are not there, and of the root.
    forget(client.node("dir"), 1000)
    forget(12_345, 1)
    forget(0, 1)
    forget(1, 1000)
    #expect(client.server.statistics.nodes == 1)
    #expect(client.getattr(1).error == 0)
  }

  @Test func batchForget() throws {
    for index in 0..<50 { host.file("f\(index)") }
    let client = try TestClient(host.path)
    let nodes = client.list(1).entries.map { $0.entry!.nodeID }
    #expect(client.server.statistics.nodes == 51)
    var body = FUSEBatchForgetIn()
    body.count = UInt32.max  // More than there are bytes for.
    var request = bytes(body)
    for node in nodes {
      var one = FUSEForgetOne()
      one.nodeID = node
      one.lookupCount = 1
      request += bytes(one)
    }
    #expect(client.call(FUSEOpcode.batchForget, 0, request).length == 0)
    #expect(client.server.statistics.nodes == 1)
  }

  @Test func nodesAndHandlesAreBounded() throws {
    for index in 0..<20 { host.file("f\(index)") }
    var configuration = FUSEServer.Configuration()
    configuration.nodeLimit = 8
    configuration.handleLimit = 2
    let client = try TestClient(host.path, configuration: configuration)
    var errors = 0
    for index in 0..<20 where client.lookup(1, "f\(index)").error == ENFILE { errors += 1 }
    #expect(errors == 13)
    let node = client.node("f0")
    #expect(client.open(node).error == 0)
    #expect(client.open(node).error == 0)
    #expect(client.open(node).error == ENFILE)
    #expect(client.call(FUSEOpcode.destroy, 0).error == 0)
    #expect(client.server.statistics == (1, 0, 0, 0))
  }

  @Test func deepPathsBeyondTheKernelsLimit() throws {
    let name = String(repeating: "d", count: 200)
    // No shell gets there: made one directory at a time, each beneath the last.
    var directory = open(host.path, O_RDONLY)
    for _ in 0..<30 {
      #expect(mkdirat(directory, name, 0o755) == 0)
      let next = openat(directory, name, O_RDONLY)
      close(directory)
      directory = next
    }
    let file = openat(directory, "file", O_CREAT | O_WRONLY, 0o644)
    #expect(write(file, "deep", 4) == 4)
    close(file)
    close(directory)
    var configuration = FUSEServer.Configuration()
    configuration.descriptorLimit = 1
    let client = try TestClient(host.path, features: TestClient.ours, configuration: configuration)
    let node = client.node(String(repeating: name + "/", count: 30) + "file")
    #expect(client.read(node, 0, 100).body == Array("deep".utf8))
  }

  @Test func hardLinksAreOneNode() throws {
    host.file("one", "x")
    link(host["one"], host["two"])
    let client = try TestClient(host.path, features: TestClient.ours)
    #expect(client.node("one") == client.node("two"))
    unlink(host["two"])
    // The newest name is gone: stale until the other is looked up.
    #expect(client.getattr(client.lookup(1, "one").entry.nodeID).attributes.linkCount == 1)
  }

  @Test func requestsFromManyThreads() throws {
    for a in 0..<8 {
      host.directory("\(a)")
      for b in 0..<20 { host.file("\(a)/\(b)", "\(a).\(b)") }
    }
    var configuration = FUSEServer.Configuration()
    configuration.descriptorLimit = 3
    let client = try TestClient(host.path, features: TestClient.ours, configuration: configuration)
    final class Worker: @unchecked Sendable {
      let server: FUSEServer
      init(_ server: FUSEServer) { self.server = server }
      func run() {
        let client = TestClient(sharing: server)
        for _ in 0..<5 {
          for a in client.list(1).entries {
            for b in client.list(a.entry!.nodeID, size: 1024).entries {
              #expect(client.read(b.entry!.nodeID, 0, 100).body == Array("\(a.name).\(b.name)".utf8))
            }
          }
        }
      }
    }
    let worker = Worker(client.server)
    var threads: [pthread_t] = []
    for _ in 0..<4 {
      var thread = pthread_t()
      pthread_create(
        &thread, nil,
        {
          Unmanaged<Worker>.fromOpaque($0!).takeUnretainedValue().run()
          return nil
        }, Unmanaged.passUnretained(worker).toOpaque())
      threads.append(thread)
    }
    for thread in threads { pthread_join(thread, nil) }
    #expect(client.server.statistics.nodes == 1 + 8 + 160)
  }
}
