// The name cache: what it remembers, for how long, and what it forgets. And a file system that counts what it is asked.
import Base
import Platform
import Testing

@testable import Files

/// Files named by numbers below 1000, whose lookups are counted.
private final class CountingDirectory: Vnode {
  var lookups = 0
  var validity: UInt64 = .max
  private var children: [[UInt8]: Vnode] = [:]

  init(_ fileSystem: FileSystem, inode: UInt64 = 1) {
    super.init(fileSystem: fileSystem, inode: inode, type: .directory)
  }

  override func getAttributes() throws(Errno) -> StatInformation {
    var result = StatInformation()
    result.mode = 0o40755
    return result
  }

  override func lookup(_ name: PathBytes) throws(Errno) -> LookupResult {
    lookups += 1
    guard let number = name.decimal, number < 1000 else { return LookupResult(nil, validity: validity) }
    let child = children[name.copy] ?? CountingDirectory(fileSystem, inode: number.u64 + 2)
    children[name.copy] = child
    return LookupResult(child, validity: validity)
  }

  func forget(_ name: String) { children[Array(name.utf8)] = nil }
}

@Suite struct DentryCacheTests {
  private func make() -> (FileSystemContext, CountingDirectory) {
    let fileSystem = FileSystem(kind: "counting", magic: 0)
    let root = CountingDirectory(fileSystem)
    fileSystem.setRoot(root)
    return (FileSystemContext(mounts: MountTable(root: fileSystem)), root)
  }

  private func find(_ context: FileSystemContext, _ path: String) throws -> Location {
    try Array(path.utf8).withPath { (p) throws(Errno) in try context.find(p, from: context.root, Credentials()) }
  }

  @Test func namesAreAskedForOnce() throws {
    let (context, root) = make()
    for _ in 0..<3 { _ = try find(context, "/1") }
    #expect(root.lookups == 1)
    for _ in 0..<3 { #expect(throws: Errno.ENOENT) { try find(context, "/none") } }
    #expect(root.lookups == 2)
    #expect(try find(context, "/1/2/3/../../..") == context.root)
    #expect(root.lookups == 2)
  }

  @Test func timeRunsOut() throws {
    let (context, root) = make()
    root.validity = 20_000_000
    let first = try find(context, "/1").dentry
    #expect(try find(context, "/1").dentry === first)
    let asked = root.lookups
    let end = Clock.now() + 25_000_000
    while Clock.now() < end {}
    // The same file: the same entry, believed anew.
    #expect(try find(context, "/1").dentry === first)
    #expect(root.lookups == asked + 1)
    // Never believed: asked for every time, and the same entry for the same file.
    root.validity = 0
    let second = try find(context, "/2").dentry
    let before = root.lookups
    #expect(try find(context, "/2").dentry === second)
    #expect(root.lookups == before + 1)
    root.forget("2")
    #expect(try find(context, "/2").dentry !== second)
    #expect(throws: Errno.ENOENT) { try find(context, "/none") }
    #expect(throws: Errno.ENOENT) { try find(context, "/none") }
    #expect(root.lookups == before + 4)
    // Another file under the same name.
    root.validity = 1
    let old = try find(context, "/3")
    root.forget("3")
    #expect(try find(context, "/3").vnode !== old.vnode)
  }

  /// A volume of cache=none: what is mounted in it is found though nothing of it is believed.
  @Test func mountsAreFoundWhereNothingIsBelieved() throws {
    let (context, root) = make()
    root.validity = 0
    let first = try find(context, "/1")
    let second = try find(context, "/1/2")
    (first.vnode as? CountingDirectory)?.validity = 0
    (second.vnode as? CountingDirectory)?.validity = 0
    let inner = FileSystem(kind: "inner", magic: 0)
    inner.setRoot(CountingDirectory(inner))
    let point = try find(context, "/1/2/3")
    try context.mounts.mount(inner, on: point)
    #expect(try find(context, "/1/2/3").mount.fileSystem === inner)
    #expect(try find(context, "/1/2/3/7").mount.fileSystem === inner)
    #expect(try find(context, "/1/2/3/..") == find(context, "/1/2"))
    // The directories above are asked for all the same.
    let asked = root.lookups
    _ = try find(context, "/1/2/3")
    #expect(root.lookups == asked + 1)
    // Who was in one of them before finds it as well, and what he mounts is found from above.
    #expect(
      try Array("3".utf8).withPath { (p) throws(Errno) in try context.find(p, from: second, Credentials()) }.mount
        .fileSystem === inner)
    let another = FileSystem(kind: "another", magic: 0)
    another.setRoot(CountingDirectory(another))
    try context.mounts.mount(
      another, on: Array("8".utf8).withPath { (p) throws(Errno) in try context.find(p, from: second, Credentials()) })
    #expect(try find(context, "/1/2/8").mount.fileSystem === another)
    // Memory that runs short takes nothing of it.
    for _ in 0..<3 { _ = context.root.mount.fileSystem.shrink(.max) }
    #expect(try find(context, "/1/2/3").mount.fileSystem === inner)
    // Another place, and none.
    let other = try find(context, "/5/6")
    try context.mounts.move(find(context, "/1/2/3"), to: other)
    #expect(try find(context, "/5/6").mount.fileSystem === inner)
    #expect(try find(context, "/1/2/3").mount.fileSystem !== inner)
    try context.mounts.unmount(find(context, "/5/6"))
    #expect(try find(context, "/5/6").mount.fileSystem !== inner)
    // Another directory of that name on the host: it is another place.
    root.forget("5")
    #expect(try find(context, "/5").vnode !== other.vnode)
  }

  @Test func theCacheStaysSmall() throws {
    let (context, _) = make()
    let cache = DentryCache(limit: 128)
    let root = context.root.dentry
    let kept = cache.enter(root, PathBytes("kept"), LookupResult(nil))
    for number in 0..<5000 {
      Array("n\(number)".utf8).withPath { _ = cache.enter(root, $0, LookupResult(nil)) }
    }
    #expect(cache.count <= 160)
    #expect(cache.find(root, PathBytes("kept")) === kept)
    #expect(cache.find(root, PathBytes("n4999")) != nil)
  }

  @Test func whatNobodyUsesIsForgottenWhenMemoryIsShort() throws {
    let (context, root) = make()
    let cache = context.root.mount.fileSystem.names
    for number in 0..<300 { _ = try find(context, "/\(number)") }
    let held = try find(context, "/7/8/9")
    #expect(cache.count == 302)
    // The first look takes the marks away, the second one what was not found since; parents of what is held stay.
    var given = context.root.mount.fileSystem.shrink(.max)
    _ = try find(context, "/33")
    given += context.root.mount.fileSystem.shrink(.max)
    #expect(given == 298 && cache.count == 4)
    let asked = root.lookups
    #expect(try find(context, "/33") == find(context, "/33") && find(context, "/7/8/9") == held)
    #expect(root.lookups == asked)
    _ = try find(context, "/34")
    #expect(root.lookups == asked + 1)
    for number in 0..<300 { _ = try find(context, "/\(number)") }
    for _ in 0..<3 { _ = cache.shrink(10) }
    #expect(cache.count > 200)
  }

  @Test func movesAndRemovals() throws {
    let (context, root) = make()
    let cache = context.root.mount.fileSystem.names
    let one = try find(context, "/1").dentry
    let two = try find(context, "/2").dentry
    let inner = try find(context, "/1/5").dentry
    cache.move(inner, to: two, PathBytes("new"))
    #expect(cache.find(one, PathBytes("5")) == nil)
    #expect(cache.find(two, PathBytes("new")) === inner)
    #expect(cache.parent(of: inner) === two)
    #expect(cache.isAncestor(two, of: inner) && !cache.isAncestor(one, of: inner))
    cache.exchange(one, inner)
    #expect(cache.find(two, PathBytes("new")) === one)
    #expect(cache.find(context.root.dentry, PathBytes("1")) === inner)
    cache.remove(inner)
    #expect(inner.isUnlinked)
    #expect(cache.find(context.root.dentry, PathBytes("1")) == nil)
    _ = root
  }

  @Test func pathBytes() {
    #expect(PathBytes("12").decimal == 12)
    #expect(PathBytes("012").decimal == nil)
    #expect(PathBytes("0").decimal == 0)
    #expect(PathBytes("").decimal == nil)
    #expect(PathBytes("4294967296").decimal == nil)
    #expect(PathBytes("2147483647").decimal == 2_147_483_647)
    var text = TextBuffer()
    text.append(hexadecimal: 0x1a, width: 4)
    text.append(" ")
    text.append(Int64.min)
    text.append(" ")
    text.append(7, width: 3)
    text.append(hundredths: 1205)
    text.append(escaping: Array(" a\\b".utf8))
    #expect(String(decoding: text.bytes, as: UTF8.self) == "001a -9223372036854775808   712.05\\040a\\134b")
    #expect(DeviceNumber.major(DeviceNumber.make(259, 70_000)) == 259)
    #expect(DeviceNumber.minor(DeviceNumber.make(259, 70_000)) == 70_000)
  }
}
