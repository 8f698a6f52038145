// The walk that counts nothing, over a small tree whose every access is a step of the model checker: one reader walks "a/f" while another
// thread renames, removes, forgets, protects or unmounts. The walk's loop, the table of names, the marks of entries and the attributes
// are the kernel's own, as are the steps by which a reader keeps an entry and a table lets go of it; what counts objects there is a
// word for each entry here.
import Base
import Locks
import ModelChecker
import Testing

@testable import Files

/// The tree: root 1, directory "a" 2, file "f" in it 3, directory "b" 4; mount 1, and mount 2 whose root is 5 and has a file "f", 6.
private final class Tree {
  typealias Table = NameTableCore<ModelWord>
  typealias Record = NameRecordCore<ModelWord>

  final class Entry {
    let kind: WalkKind
    let state = EntryStateCore<ModelWord>()
    let record = ModelWord(0)
    let count: ModelWord
    let isFreed = ModelWord(0)
    let attributes = SharedAttributesCore<ModelWord>(mode: 0o040700, linkCount: 1, userID: 1, groupID: 1)
    let isPoint = ModelWord(0)
    init(_ kind: WalkKind, count: UInt) {
      self.kind = kind
      self.count = ModelWord(count)
    }
  }

  static let names: [(name: StaticString, directory: UInt, kind: WalkKind)] = [
    ("", 0, .directory), ("a", 1, .directory), ("f", 2, .other), ("b", 1, .directory), ("", 0, .directory),
    ("f", 5, .other),
  ]

  let table: Table
  let entries: [Entry]
  let periods: GracePeriodsCore<ModelWord>
  /// 1: something is mounted on "a"; replaced by 0, and not touched when `isViewFreed`.
  let view = ModelWord(0)
  let isViewFreed = ModelWord(0)
  var credentials = Credentials(userID: 1, groupID: 1)
  /// All there have been, and of each whether it has ended: a word, so that the look at it is a step, with others' steps before it.
  private var records: [(record: Record.Reference, isFreed: Flag)] = []

  init() {
    let buckets = UnsafeMutablePointer<ModelWord>.allocate(capacity: 3)
    table = Table(buckets, size: 2)
    entries = Tree.names.map { Entry($0.kind, count: 1) }
    let cpus = UnsafeMutablePointer<ModelWord>.allocate(capacity: GracePeriodsCore<ModelWord>.stride)
    periods = GracePeriodsCore(cpus: cpus, count: 1)
    periods.leaveIdle(0)
    for index in 0..<entries.count {
      let (name, directory, _) = Tree.names[index]
      let record = make(PathBytes(name), directory, UInt(index + 1))
      entries[index].record.poke(UInt(bitPattern: record))
      if directory != 0 {
        table.insert(record)
        entries[index].state.noteTabled(true)
      }
    }
  }

  subscript(entry: UInt) -> Entry { entries[Int(entry) - 1] }

  private func make(_ name: PathBytes, _ directory: UInt, _ entry: UInt) -> Record.Reference {
    let record = Record.make(directory: directory, entry: entry, name)
    records.append((record, Flag()))
    return record
  }

  private final class Flag { let word = ModelWord(0) }

  private func isFreed(_ record: UInt) -> Flag { records.first { UInt(bitPattern: $0.record) == record }!.isFreed }

  // MARK: The reader

  /// Walks in a section, and counts the file if it arrives; then the section is over.
  func walk(_ path: StaticString, checksLeaving: Bool = true) -> (end: UncountedWalk.End, kept: UInt) {
    defer { periods.quiescent(0) }
    let start = WalkPlace(mount: 1, entry: 1)
    let ground = Ground(tree: self, view: view.load())
    var walk = UncountedWalk(PathBytes(path), from: start, root: start)
    guard walk.walkToLast(ground) else { return (.unknown, 0) }
    let end = walk.finish(ground, followsLink: true)
    guard case .arrived = end else { return (end, 0) }
    let entry = self[walk.place.entry]
    checkAlive(walk.place.entry)
    if !checksLeaving {
      _ = entry.count.add(1)
    } else if !entry.state.keep(count: { _ = entry.count.add(1) }, uncount: { release(walk.place.entry) }) {
      return (.unknown, 0)
    }
    return (.arrived, walk.place.entry)
  }

  func checkAlive(_ entry: UInt) {
    ModelChecker.check(self[entry].isFreed.load() == 0, "entry \(entry) is used after its end")
  }

  func release(_ entry: UInt) {
    if self[entry].count.add(UInt.max) == 1 { self[entry].isFreed.store(1) }
  }

  struct Ground: WalkGround {
    let tree: Tree
    let view: UInt

    func names(of mount: UInt) -> UInt { 1 }
    func child(_ name: PathBytes, in directory: UInt, _ names: UInt) -> UInt {
      let found = tree.table.find(name, in: directory, hash: Record.hash(of: name, in: directory))
      guard let found else { return 0 }
      tree.checkAlive(found.pointee.entry)
      return found.pointee.entry
    }
    func directory(of entry: UInt) -> UInt {
      let record = tree[entry].record.load()
      ModelChecker.check(tree.isFreed(record).word.load() == 0, "a record is used after its end")
      return Record.at(record).pointee.directory
    }
    func kind(of entry: UInt) -> WalkKind { tree[entry].kind }
    func maySearch(_ entry: UInt) -> WalkAnswer {
      guard entry == 2 else { return .yes }
      guard let answer = tree[entry].attributes.allow(.execute, tree.credentials) else { return .unknown }
      return answer.isAllowed ? .yes : .no
    }
    func isPoint(_ entry: UInt) -> Bool { tree[entry].isPoint.load() != 0 }
    func mounted(on place: WalkPlace) -> WalkPlace? {
      ModelChecker.check(tree.isViewFreed.load() == 0 || view == 0, "a view is used after its end")
      return view == 1 && place == WalkPlace(mount: 1, entry: 2) ? WalkPlace(mount: 2, entry: 5) : nil
    }
    func point(of mount: UInt) -> WalkPlace? { mount == 2 ? WalkPlace(mount: 1, entry: 2) : nil }
    func root(of mount: UInt) -> UInt { mount == 2 ? 5 : 1 }
  }

  // MARK: Who changes it

  /// Runs a body when the reader's CPU has passed a grace period; if it does not, never: an end that comes too late is none.
  func later(waits: Bool = true, _ body: () -> Void) {
    let number = periods.begin()
    for _ in 0..<2 where !waits || periods.hasPassed(number, on: 0) { return body() }
  }

  func rename(_ entry: UInt, to directory: UInt, _ name: StaticString, waits: Bool = true) {
    let old = Record.at(self[entry].record.peek())
    table.remove(old)
    let fresh = make(PathBytes(name), directory, entry)
    self[entry].record.store(UInt(bitPattern: fresh))
    table.insert(fresh)
    // What it says stays, in memory that is not given back: the checker is to see the look, not to fall over it.
    later(waits: waits) { isFreed(UInt(bitPattern: old)).word.store(1) }
  }

  func remove(_ entry: UInt, waits: Bool = true) {
    self[entry].state.noteUnlinked()
    take(entry, waits: waits)
  }

  /// Takes an entry out if only the table has it.
  func forget(_ entry: UInt) {
    let isLeft = EntryStateCore<ModelWord>.leave(
      mark: { self[entry].state.setLeaving($0) }, isUnused: { self[entry].count.load() == 1 })
    if isLeft { take(entry) }
  }

  private func take(_ entry: UInt, waits: Bool = true) {
    let record = Record.at(self[entry].record.peek())
    guard table.take(record, self[entry].state) else { return }
    later(waits: waits) {
      ModelChecker.check(!record.pointee.use.finish(), "nobody has replaced it")
      release(entry)
    }
  }

  func unmount() {
    self[2].isPoint.store(0)
    view.store(0)
    later { isViewFreed.store(1) }
  }

  func isFound(_ name: StaticString, in directory: UInt) -> Bool {
    let name = PathBytes(name)
    return table.find(name, in: directory, hash: Record.hash(of: name, in: directory)) != nil
  }
}

@Suite struct UncountedWalkModelTests {
  /// One reader, which lets go of what it has counted, and one that changes the tree.
  private func explore(
    path: StaticString = "a/f", checksLeaving: Bool = true, prepare: @escaping (Tree) -> Void = { _ in },
    change: @escaping (Tree) -> Void, look: @escaping (Tree, UncountedWalk.End, UInt) -> Void
  ) -> Exploration {
    ModelChecker.explore(preemptionBound: 4) {
      let tree = Tree()
      prepare(tree)
      return ModelProgram(threads: [
        {
          let (end, kept) = tree.walk(path, checksLeaving: checksLeaving)
          look(tree, end, kept)
          if kept != 0 {
            tree.checkAlive(kept)
            tree.release(kept)
          }
        },
        { change(tree) },
      ])
    }
  }

  @Test func aRenamedFileIsFoundOrAskedFor() {
    let result = explore(
      change: { $0.rename(3, to: 4, "g") },
      look: { _, end, kept in
        if case .absent = end { ModelChecker.check(false, "a renamed file is said not to be there") }
        ModelChecker.check(kept == 0 || kept == 3, "another file was found")
      })
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func aDirectoryAboveIsOneOfTheTwo() {
    let result = explore(
      path: "a/..", change: { $0.rename(2, to: 4, "a") },
      look: { _, end, kept in
        if case .arrived = end { ModelChecker.check(kept == 1 || kept == 4, "\(kept) is above") }
      })
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func theCheckerSeesARecordThatDoesNotWait() {
    let result = explore(path: "a/..", change: { $0.rename(2, to: 4, "a", waits: false) }, look: { _, _, _ in })
    #expect(result.violation?.contains("a record is used after its end") == true)
  }

  @Test func aRemovedFileStaysWhileItIsRead() {
    let result = explore(
      change: { $0.remove(3) },
      look: { _, _, kept in ModelChecker.check(kept == 0 || kept == 3, "another file was found") })
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func theCheckerSeesAnEndThatDoesNotWait() {
    let result = explore(change: { $0.remove(3, waits: false) }, look: { _, _, _ in })
    #expect(result.violation?.contains("used after its end") == true)
  }

  private func checkThatKeptIsTabled(_ tree: Tree, _ end: UncountedWalk.End, _ kept: UInt) {
    if kept != 0 { ModelChecker.check(tree.isFound("f", in: 2), "what is kept has left its table") }
  }

  @Test func whatIsKeptStaysInItsTable() {
    let result = explore(change: { $0.forget(3) }, look: checkThatKeptIsTabled)
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func theCheckerSeesAReaderThatDoesNotLook() {
    let result = explore(checksLeaving: false, change: { $0.forget(3) }, look: checkThatKeptIsTabled)
    #expect(result.violation?.contains("has left its table") == true)
  }

  /// Owner 1 may search, then owner 2 has a directory that nobody may: never does user 2 get in.
  @Test func modeAndOwnerAreOfOneMoment() {
    let result = explore(
      prepare: { $0.credentials = Credentials(userID: 2, groupID: 2) },
      change: { tree in
        tree[2].attributes.change {
          $0.userID = 2
          $0.mode = 0o040600
        }
      },
      look: { _, end, _ in
        if case .arrived = end { ModelChecker.check(false, "a right that was never granted") }
      })
    #expect(result.violation == nil && result.isComplete)
  }

  @Test func aMountIsThereOrNot() {
    let result = explore(
      prepare: {
        $0[2].isPoint.poke(1)
        $0.view.poke(1)
      },
      change: { $0.unmount() },
      look: { _, _, kept in ModelChecker.check(kept == 0 || kept == 3 || kept == 6, "\(kept) was found") })
    #expect(result.violation == nil && result.isComplete)
  }
}
