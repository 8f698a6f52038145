// Random operations against a naive model: a dictionary of paths.
import Base
import Files
import RamFS
import Testing

/// What a path is in the model; files are numbered, so that links show.
private enum Thing: Equatable {
  case directory
  case file(Int)
}

private struct Model {
  var things: [String: Thing] = ["": .directory]
  var contents: [Int: [UInt8]] = [:]
  var nextFile = 0

  func parent(_ path: String) -> String { String(path[..<path.lastIndex(of: "/")!]) }
  func hasChildren(_ path: String) -> Bool { things.keys.contains { $0.hasPrefix(path + "/") } }

  /// Why the directory of a path cannot be used.
  func parentError(_ path: String) -> Errno? {
    var above = parent(path)
    var error: Errno?
    while true {
      switch things[above] {
      case .directory: break
      case .file: error = .ENOTDIR
      case nil: error = .ENOENT
      }
      guard !above.isEmpty else { return error }
      above = parent(above)
    }
  }

  mutating func mkdir(_ path: String) -> Errno? {
    if let error = parentError(path) { return error }
    if things[path] != nil { return .EEXIST }
    things[path] = .directory
    return nil
  }

  mutating func write(_ path: String, _ bytes: [UInt8]) -> Errno? {
    if let error = parentError(path) { return error }
    switch things[path] {
    case .directory: return .EISDIR
    case .file(let number): contents[number] = bytes
    case nil:
      things[path] = .file(nextFile)
      contents[nextFile] = bytes
      nextFile += 1
    }
    return nil
  }

  mutating func unlink(_ path: String) -> Errno? {
    if let error = parentError(path) { return error }
    switch things[path] {
    case nil: return .ENOENT
    case .directory: return .EISDIR
    case .file: things[path] = nil
    }
    return nil
  }

  mutating func rmdir(_ path: String) -> Errno? {
    if let error = parentError(path) { return error }
    switch things[path] {
    case nil: return .ENOENT
    case .file: return .ENOTDIR
    case .directory:
      if hasChildren(path) { return .ENOTEMPTY }
      things[path] = nil
    }
    return nil
  }

  mutating func link(_ old: String, _ new: String) -> Errno? {
    if let error = parentError(old) { return error }
    guard let thing = things[old] else { return .ENOENT }
    if let error = parentError(new) { return error }
    if things[new] != nil { return .EEXIST }
    if thing == .directory { return .EPERM }
    things[new] = thing
    return nil
  }

  mutating func rename(_ old: String, _ new: String) -> Errno? {
    if let error = parentError(old) { return error }
    if let error = parentError(new) { return error }
    guard let thing = things[old] else { return .ENOENT }
    if thing == .directory, new == old || new.hasPrefix(old + "/") { return new == old ? nil : .EINVAL }
    if old.hasPrefix(new + "/") { return .ENOTEMPTY }
    if let other = things[new] {
      if other == thing, thing != .directory { return nil }
      if thing == .directory, other != .directory { return .ENOTDIR }
      if thing != .directory, other == .directory { return .EISDIR }
      if thing == .directory, hasChildren(new) { return .ENOTEMPTY }
    }
    let below = things.filter { $0.key.hasPrefix(old + "/") }
    things[old] = nil
    for (path, _) in below { things[path] = nil }
    things[new] = thing
    for (path, thing) in below { things[new + path.dropFirst(old.count)] = thing }
    return nil
  }
}

@Suite struct ModelTests {
  @Test(arguments: 1...12 as ClosedRange<UInt64>)
  func randomOperations(seed: UInt64) throws {
    var state = seed &* 0x9e37_79b9_7f4a_7c15
    func random(_ limit: Int) -> Int {
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      return Int(state % UInt64(limit))
    }
    func path() -> String { (0...random(3)).map { _ in "/" + ["a", "b", "c", "d"][random(4)] }.joined() }
    let tree = Tree()
    var model = Model()
    for step in 0..<600 {
      let (one, two) = (path(), path())
      let bytes = [UInt8](repeating: UInt8(step & 255), count: random(9000))
      let (got, expected): (Errno?, Errno?)
      switch random(8) {
      case 0, 1: (got, expected) = (tree.mkdir(one), model.mkdir(one))
      case 2, 3:
        got = tree.write(one, String(decoding: bytes.map { $0 & 127 }, as: UTF8.self))
        expected = model.write(one, bytes.map { $0 & 127 })
      case 4: (got, expected) = (tree.unlink(one), model.unlink(one))
      case 5: (got, expected) = (tree.rmdir(one), model.rmdir(one))
      case 6: (got, expected) = (tree.link(one, two), model.link(one, two))
      default: (got, expected) = (tree.rename(one, two), model.rename(one, two))
      }
      #expect(got == expected, "seed \(seed) step \(step): \(one) \(two)")
      guard got == expected else { return }
    }
    for (path, thing) in model.things {
      switch thing {
      case .directory:
        let children = model.things.keys.filter { !$0.isEmpty && model.parent($0) == path }
        let names = children.map { String($0.split(separator: "/").last!) }.sorted()
        #expect(try tree.list(path.isEmpty ? "/" : path) == names)
        let directories = children.filter { model.things[$0] == .directory }.count
        #expect(try tree.stat(path.isEmpty ? "/" : path).linkCount == directories + 2)
      case .file(let number):
        #expect(try tree.open(path).readAll() == model.contents[number])
        let links = model.things.values.filter { $0 == thing }.count
        #expect(try tree.stat(path).linkCount == links)
      }
    }
  }
}
