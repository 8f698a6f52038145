// Opening with limits, files without names, extended attributes, holes, sizes of file systems, and changes of what is mounted.
import Base
import Files
import Glibc
import Memory
import ModelChecker
import RamFS
import Testing

@Suite(.timeLimit(.minutes(15))) struct PlacesTests {
  func resolved(_ tree: Tree, _ name: String, _ flags: ResolveFlags) -> Errno? {
    tree.failure { () throws(Errno) in
      try tree.path(name) { (p) throws(Errno) in
        _ = try tree.context.open(p, from: tree.here, .pathOnly, tree.credentials, resolve: flags)
      }
    }
  }

  @Test func limitedWalks() throws {
    let tree = Tree()
    #expect(tree.mkdir("/d") == nil && tree.mkdir("/d/e") == nil && tree.write("/out", "x") == nil)
    #expect(tree.write("/d/f", "x") == nil)
    for (target, name) in [("f", "in"), ("../out", "up"), ("/f", "absolute"), ("e/../f", "round")] {
      #expect(tree.symlink(target, "/d/\(name)") == nil)
    }
    #expect(tree.chdir("/d") == nil)
    let expected: [(String, Errno?, Errno?, Errno?)] = [
      // Beneath, in root, no links.
      ("f", nil, nil, nil), ("in", nil, nil, .ELOOP), ("up", .EXDEV, .ENOENT, .ELOOP),
      ("absolute", .EXDEV, nil, .ELOOP),
      ("round", nil, nil, .ELOOP), ("e/..", nil, nil, nil), ("..", .EXDEV, nil, nil), ("/f", .EXDEV, nil, .ENOENT),
      ("e/../../out", .EXDEV, .ENOENT, nil), ("../d/f", .EXDEV, .ENOENT, nil),
    ]
    for (name, beneath, inRoot, noLinks) in expected {
      #expect(resolved(tree, name, .beneath) == beneath, "\(name)")
      #expect(resolved(tree, name, .inRoot) == inRoot, "\(name)")
      #expect(resolved(tree, name, .noLinks) == noLinks, "\(name)")
    }
    #expect(resolved(tree, "nobody/asked", .cached) == .EAGAIN)
    #expect(resolved(tree, "f", .cached) == nil)
    _ = try tree.context.mounts.mount(RamFileSystem(), on: try tree.find("/d/e"))
    #expect(resolved(tree, "e", .noMounts) == .EXDEV && resolved(tree, "e", .beneath) == nil)
    #expect(tree.chdir("/d/e") == nil)
    #expect(resolved(tree, "..", .noMounts) == .EXDEV && resolved(tree, ".", .noMounts) == nil)
  }

  @Test func filesWithoutNames() throws {
    let tree = Tree()
    #expect(tree.mkdir("/d") == nil)
    #expect(tree.openFailure("/d", [.temporary, .directory]) == .EINVAL)
    let file = try tree.open("/d", [.temporary, .directory, .readWrite])
    _ = try file.write(bytes: [1, 2, 3])
    #expect(try file.getAttributes().linkCount == 0)
    #expect(try tree.list("/d") == [])
    func link(_ file: OpenFile, _ name: String) -> Errno? {
      tree.failure { () throws(Errno) in
        try tree.path(name) { (p) throws(Errno) in
          try tree.context.link(
            PathBytes(""), from: file.location, to: p, from: tree.here, flags: .emptyPath, tree.credentials)
        }
      }
    }
    #expect(link(file, "/d/a") == nil)
    #expect(try tree.stat("/d/a").linkCount == 1 && tree.open("/d/a").readAll() == [1, 2, 3])
    #expect(tree.unlink("/d/a") == nil)
    // Only once, if its names are all gone again.
    #expect(link(file, "/d/b") == .ENOENT)
    let other = try tree.open("/d", [.temporary, .directory, .readWrite, .exclusive])
    #expect(link(other, "/d/b") == .ENOENT)
  }

  @Test func extendedAttributes() throws {
    let tree = Tree()
    #expect(tree.write("/f", "x") == nil)
    let place = try tree.find("/f")
    func set(_ name: String, _ count: Int, _ mode: AttributeSetting = .any) -> Errno? {
      let value = [UInt8](repeating: 7, count: count)
      return tree.failure { () throws(Errno) in
        try tree.path(name) { (n) throws(Errno) in
          try value.withUnsafeBufferPointer { (v) throws(Errno) in
            try tree.context.setExtendedAttribute(place, n, UnsafeRawBufferPointer(v), mode, tree.credentials)
          }
        }
      }
    }
    func size(_ name: String) -> Int? {
      try? tree.path(name) { (n) throws(Errno) in
        try tree.context.getExtendedAttribute(place, n, tree.credentials).count
      }
    }
    #expect(set("user.a", 3) == nil && set("user.a", 4, .create) == .EEXIST && set("user.b", 4, .replace) == .ENODATA)
    #expect(set("user.a", 10, .replace) == nil && size("user.a") == 10 && size("user.b") == nil)
    #expect(set("user.empty", 0) == nil && size("user.empty") == 0)
    #expect(set("other.a", 1) == .EOPNOTSUPP && set("user.", 1) == .EINVAL && set("", 1) == .ERANGE)
    #expect(set("trusted.a", 1) == nil)
    var count = 0
    while set("user.n\(count)", 60_000) == nil { count += 1 }
    #expect(count == 2)
    #expect(set("user.n0", 10) == nil && set("user.n2", 60_000) == nil)
    tree.credentials = Credentials(userID: 5, groupID: 5)
    #expect(
      set("user.c", 1) == .EACCES && set("trusted.a", 1) == .EPERM && size("trusted.a") == nil && size("user.a") == 10)
  }

  /// Holes and data as lseek tells of them, against a model by pages.
  @Test func holes() throws {
    let tree = Tree()
    let file = try tree.open("/f", [.create, .readWrite])
    let pages = 40
    var present = [Bool](repeating: false, count: pages)
    try file.truncate(to: UInt64(pages * 4096))
    for _ in 0..<300 {
      let page = Int.random(in: 0..<pages)
      let count = Int.random(in: 1...(pages - page))
      if Bool.random() {
        _ = try file.write(bytes: [1], at: UInt64(page * 4096 + 5))
        present[page] = true
      } else {
        try file.allocate(mode: 3, offset: UInt64(page * 4096), byteCount: UInt64(count * 4096))
        for index in page..<page + count { present[index] = false }
      }
      let start = Int.random(in: 0..<pages * 4096)
      let from = start / 4096
      let data = (from..<pages).first { present[$0] }.map { UInt64(max($0 * 4096, start)) }
      let hole = UInt64(max(((from..<pages).first { !present[$0] } ?? pages) * 4096, start))
      if let data {
        #expect(try file.seek(Int64(start), from: .data) == data)
      } else {
        #expect(throws: Errno.ENXIO) { _ = try file.seek(Int64(start), from: .data) }
      }
      #expect(try file.seek(Int64(start), from: .hole) == hole)
    }
    // Zeroes within and behind the end.
    _ = try file.write(bytes: [UInt8](repeating: 9, count: 8192), at: 0)
    try file.allocate(mode: 0x10, offset: 100, byteCount: 5000)
    #expect(try file.read(8192, at: 0).filter { $0 == 9 }.count == 3192)
    try file.allocate(mode: 0x10, offset: UInt64(pages * 4096), byteCount: 10)
    #expect(try file.getAttributes().byteCount == UInt64(pages * 4096 + 10))
    #expect(throws: Errno.EOPNOTSUPP) { try file.allocate(mode: 8, offset: 0, byteCount: 4096) }
    #expect(throws: Errno.EOPNOTSUPP) { try file.allocate(mode: 2, offset: 0, byteCount: 4096) }
  }

  @Test func fileSystemsHaveSizes() throws {
    let tree = Tree(RamFileSystem(byteLimit: 10 * 4096))
    let file = try tree.open("/f", [.create, .readWrite])
    #expect(try file.write(bytes: [UInt8](repeating: 1, count: 50_000)) == 40_960)
    #expect(throws: Errno.ENOSPC) { _ = try file.write(bytes: [1]) }
    #expect(tree.write("/g", "x") == .ENOSPC)
    try file.truncate(to: 4096)
    #expect(tree.write("/g", "x") == nil)
    #expect(try tree.find("/").mount.fileSystem.statistics().freeBlockCount == 8)
    try file.truncate(to: 1 << 20)
    var options = MemoryFileSystemOptions()
    try options.parse(PathBytes("mode=711,size=3m,uid=4,gid=5"))
    #expect(options.mode == 0o711 && options.byteLimit == 3 << 20 && options.userID == 4 && options.groupID == 5)
    for wrong in ["mode=9", "size=", "size=k", "what=1", "size=-1", "mode"] {
      #expect(throws: Errno.EINVAL) { try Array(wrong.utf8).withPath { (p) throws(Errno) in try options.parse(p) } }
    }
  }

  @Test func mountsChange() throws {
    let tree = Tree()
    let mounts = tree.context.mounts
    for name in ["/a", "/b", "/c"] { #expect(tree.mkdir(name) == nil) }
    try mounts.mount(RamFileSystem(), on: try tree.find("/a"))
    #expect(tree.mkdir("/a/in") == nil)
    try mounts.mount(RamFileSystem(), on: try tree.find("/a/in"))
    #expect(tree.write("/a/in/f", "deep") == nil)
    try mounts.bind(try tree.find("/a"), on: try tree.find("/b"), isRecursive: true)
    #expect(try tree.read("/b/in/f") == "deep")
    try mounts.bind(try tree.find("/a"), on: try tree.find("/c"), isRecursive: false)
    #expect(tree.statFailure("/c/in/f") == .ENOENT)
    // Read-only through one of them.
    let reader = try tree.open("/b/in/f")
    let writer = try tree.open("/b/in/f", .readWrite)
    #expect(tree.failure { () throws(Errno) in try mounts.remount(try tree.find("/b/in"), flags: .readOnly) } == .EBUSY)
    let table = DescriptorTable()
    try table.close(try table.install(writer))
    withExtendedLifetime(writer) {}
    #expect(tree.failure { () throws(Errno) in try mounts.unmount(try tree.find("/b/in")) } == .EBUSY)
    #expect(tree.failure { () throws(Errno) in try mounts.unmount(try tree.find("/b")) } == .EBUSY)
    #expect(tree.failure { () throws(Errno) in try mounts.unmount(try tree.find("/b/in/f")) } == .EINVAL)
    try mounts.move(try tree.find("/b"), to: try tree.find("/c"))
    #expect(try tree.read("/c/in/f") == "deep" && tree.statFailure("/b/in") == .ENOENT)
    #expect(
      tree.failure { () throws(Errno) in try mounts.move(try tree.find("/c"), to: try tree.find("/c/in")) } == .ELOOP)
    try mounts.unmount(try tree.find("/c"), isLazy: true)
    #expect(tree.statFailure("/c/in/f") == .ENOENT)
    #expect(try reader.readAll() == Array("deep".utf8))
    // Another root.
    #expect(tree.mkdir("/a/old") == nil)
    try tree.context.exchangeRoot(try tree.find("/a"), puttingOldAt: try tree.find("/a/old"), tree.credentials)
    #expect(try tree.read("/in/f") == "deep" && tree.list("/old") == ["a", "b", "c"])
    #expect(try tree.path(of: "/old/b") == "/old/b")
    #expect(tree.failure { () throws(Errno) in try mounts.unmount(try tree.find("/")) } == .EBUSY)
  }

  /// Who still is in a mount that has been taken out can neither put it elsewhere nor leave it upwards, and its old place is free.
  @Test func aMountThatHasBeenTakenOutLiesNowhere() throws {
    let tree = Tree()
    let mounts = tree.context.mounts
    for name in ["/m", "/x"] { #expect(tree.mkdir(name) == nil) }
    try mounts.mount(RamFileSystem(), on: try tree.find("/m"))
    #expect(tree.mkdir("/m/d") == nil && tree.mkdir("/m/old") == nil)
    try mounts.mount(RamFileSystem(), on: try tree.find("/m/d"))
    let inner = try tree.find("/m/d")
    #expect(tree.chdir("/m") == nil)
    try mounts.unmount(try tree.find("/m"), isLazy: true)
    let outside = try tree.find("/x")
    #expect(tree.failure { () throws(Errno) in try mounts.move(try tree.find("."), to: outside) } == .EINVAL)
    #expect(tree.failure { () throws(Errno) in try mounts.move(inner, to: outside) } == .EINVAL)
    #expect(
      tree.failure { () throws(Errno) in
        try tree.context.exchangeRoot(
          try tree.find("."), puttingOldAt: try tree.find("old"), tree.credentials)
      } == .EINVAL)
    #expect(try tree.find("..") == tree.find(".") && tree.find("d/../..") == tree.find("."))
    #expect(try tree.list("..") == ["d", "old"])
    // The place is an ordinary one, and can be a point again.
    #expect(try tree.list("/m") == [])
    try mounts.mount(RamFileSystem(), on: try tree.find("/m"))
    #expect(tree.write("/m/f", "new") == nil && tree.statFailure("f") == .ENOENT)
    try mounts.unmount(try tree.find("/m"))
    #expect(try tree.list("/m") == [] && tree.list("/") == ["m", "x"])
    #expect(tree.rmdir("/m") == nil)
  }

  /// Mounts in one another, a thousand deep, are shown elsewhere and taken out on a stack that has room for a few.
  @Test func deepMounts() throws {
    let depth = 1000
    let tree = Tree()
    let mounts = tree.context.mounts
    #expect(tree.mkdir("/m") == nil && tree.mkdir("/x") == nil)
    let inner = Tree()
    #expect(inner.mkdir("/d") == nil)
    let (fileSystem, directory) = (inner.here.mount.fileSystem, try inner.find("/d").dentry)
    var point = try tree.find("/m")
    for _ in 0..<depth { point = Location(mount: try mounts.mount(fileSystem, on: point), dentry: directory) }
    struct Work: @unchecked Sendable {
      let mounts: MountTable
      let (source, target): (Location, Location)
    }
    let work = Work(mounts: mounts, source: try tree.find("/m"), target: try tree.find("/x"))
    func count() -> Int {
      var count = 0
      mounts.forEach { _ in count += 1 }
      return count
    }
    HostThreads.run(1, stackByteCount: 192 << 10) { _ in
      try? work.mounts.bind(work.source, on: work.target, isRecursive: true)
    }
    #expect(count() == 1 + 2 * depth)
    let copy = Work(mounts: mounts, source: try tree.find("/x"), target: try tree.find("/"))
    HostThreads.run(1, stackByteCount: 192 << 10) { _ in
      try? work.mounts.unmount(copy.source, isLazy: true)
      try? work.mounts.unmount(work.source, isLazy: true)
    }
    #expect(count() == 1)
    #expect(tree.rmdir("/m") == nil && tree.rmdir("/x") == nil)
  }

  /// The mounts in a circle would be a walk upwards without an end.
  @Test func aRootAboveThePresentOneIsNone() throws {
    let tree = Tree()
    let mounts = tree.context.mounts
    #expect(tree.mkdir("/m") == nil)
    try mounts.mount(RamFileSystem(), on: try tree.find("/m"))
    #expect(tree.mkdir("/m/jail") == nil && tree.mkdir("/m/old") == nil)
    try mounts.mount(RamFileSystem(), on: try tree.find("/m/jail"))
    #expect(tree.chdir("/m") == nil)
    try tree.context.changeRoot(to: try tree.find("/m/jail"), tree.credentials)
    #expect(
      tree.failure { () throws(Errno) in
        try tree.context.exchangeRoot(try tree.find("."), puttingOldAt: try tree.find("old"), tree.credentials)
      } == .EINVAL)
    #expect(try tree.find("..").mount !== tree.find(".").mount)
  }

  /// A root is exchanged while the mount that the old one is to lie in goes elsewhere: it lies in the new one or stays where it is.
  @Test func rootsAndMountsChangeAtOnce() throws {
    struct Table: @unchecked Sendable {
      let mounts: MountTable
      let (first, second, root, place, elsewhere): (Location, Location, Location, Location, Location)
    }
    let tree = Tree()
    #expect(tree.mkdir("/m") == nil && tree.mkdir("/x") == nil)
    let (one, two) = (Tree(), Tree())
    #expect(one.mkdir("/m") == nil && two.mkdir("/old") == nil)
    let tables = try (0..<1000).map { _ in
      let mounts = MountTable(root: tree.here.mount.fileSystem)
      func place(_ mount: Mount, _ entry: Location) -> Location { Location(mount: mount, dentry: entry.dentry) }
      let root = mounts.root
      let first = try mounts.mount(one.here.mount.fileSystem, on: place(root.mount, try tree.find("/m")))
      let second = try mounts.mount(two.here.mount.fileSystem, on: place(first, try one.find("/m")))
      return Table(
        mounts: mounts, first: first.rootLocation, second: second.rootLocation, root: root,
        place: place(second, try two.find("/old")), elsewhere: place(root.mount, try tree.find("/x")))
    }
    let turn = Atomic<Int>(0)
    HostThreads.run(2) { index in
      for (number, table) in tables.enumerated() {
        turn.wrappingAdd(1, ordering: .acquiringAndReleasing)
        while turn.load(ordering: .acquiring) < 2 * (number + 1) { sched_yield() }
        if index == 0 {
          try? table.mounts.exchangeRoot(table.first, table.root, puttingOldAt: table.place)
        } else {
          try? table.mounts.move(table.second, to: table.elsewhere)
        }
      }
    }
    var (exchanged, circles) = (0, 0)
    for table in tables {
      var (above, steps): (Mount?, Int) = (table.second.mount, 0)
      while let mount = above, steps < 10 { (above, steps) = (mount.point?.mount, steps + 1) }
      if steps == 10 { circles += 1 }
      if table.root.mount.point != nil { exchanged += 1 }
    }
    #expect(circles == 0 && exchanged > 0, "\(circles) circles, \(exchanged) exchanged")
  }
}
