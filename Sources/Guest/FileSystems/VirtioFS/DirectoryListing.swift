// A directory's entries as the guest remembers them: a contiguous run in the server's order, with an index by name.
//
// Names that the guest itself takes away or adds are noted, so that the index goes on being right; a new one has no place in the order, so
// whoever reads the directory from its start again asks the server.
//
// It holds numbers, no vnodes: what a record's node is now, the file system's table knows. A server may give the number of a node that was
// forgotten to another one, so nodes are told apart by their birth, too. Guarded by its directory's lock.
import Base
import Files
import VirtioABI

/// One remembered entry.
struct ListingRecord {
  /// The server's node; 0 where it told the name only.
  var node: UInt64
  /// The inode number.
  var inode: UInt64
  /// The cookie behind this entry.
  var cookie: UInt64
  var nameStart: UInt32
  var hash: UInt32
  var nameLength: UInt8
  var type: UInt8
  /// Taken away since.
  var isGone = false
  /// Added since: it has no place in the order.
  var isAdded = false
  /// Which of the nodes that had the number.
  var birth: UInt32

  /// Whether it is one of the run's entries, and still there.
  var isListed: Bool { !isGone && !isAdded }
}

/// A run of entries.
struct DirectoryListing {
  /// More entries than this are not remembered together.
  static let limit = 65_536

  private(set) var records: [ListingRecord] = []
  private var names: [UInt8] = []
  /// Open addressing: record number plus 1, or 0.
  private var index: [UInt32] = []
  /// The cookie before the first record.
  let start: UInt64
  /// Whether the last record is the directory's last.
  var isComplete = false
  /// Until when it may be believed (ns of `Clock.now`).
  var expires: UInt64
  /// Place of the first regular file, if the run begins where the directory does.
  private(set) var firstFile: Int?
  /// Whether names have been added or taken away since it was read.
  private(set) var isAmended = false
  /// The cookie from which the entries behind the last record are got.
  var next: UInt64

  /// An empty run behind `start`.
  init(start: UInt64, expires: UInt64) {
    self.start = start
    self.expires = expires
    next = start
  }

  /// Whether a name that is not in it is not in the directory.
  var isWhole: Bool { isComplete && start == 0 }

  /// Remembers an entry, and the birth of its node.
  mutating func append(_ record: FUSEDirectoryRecord, birth: UInt32) {
    let hash = PathBytes(record.name).hash.u32
    if firstFile == nil, start == 0, record.head.type & 0xf == FileType.regular.rawValue.u32 {
      firstFile = records.count
    }
    append(
      ListingRecord(
        node: record.entry.nodeID, inode: record.head.ino, cookie: record.head.offset, nameStart: names.count.u32,
        hash: hash, nameLength: record.name.count.u8, type: (record.head.type & 0xf).u8, birth: birth), record.name)
  }

  private mutating func append(_ record: ListingRecord, _ name: UnsafeRawBufferPointer) {
    records.append(record)
    for byte in name { names.append(byte) }
    if records.count &* 2 > index.count { rebuild() } else { enter(records.count &- 1) }
  }

  /// Notes a name that has been added; one that was there is the new one's from now on.
  mutating func add(_ name: PathBytes, node: UInt64, birth: UInt32, inode: UInt64, type: UInt8) {
    remove(name)
    var record = ListingRecord(
      node: node, inode: inode, cookie: 0, nameStart: names.count.u32, hash: name.hash.u32,
      nameLength: name.count.u8, type: type, birth: birth)
    record.isAdded = true
    append(record, name.bytes)
  }

  /// Notes that a name has been taken away.
  mutating func remove(_ name: PathBytes) {
    isAmended = true
    if let place = find(name) { records[place].isGone = true }
  }

  /// The record of a name.
  func find(_ name: PathBytes) -> Int? {
    guard index.count > 0 else { return nil }
    let hash = name.hash.u32
    var slot = hash.int & (index.count &- 1)
    while index[slot] != 0 {
      let place = index[slot].int &- 1
      if records[place].hash == hash, !records[place].isGone, has(place, name) { return place }
      slot = (slot &+ 1) & (index.count &- 1)
    }
    return nil
  }

  /// The first record behind a cookie; nil where the run does not have it. `hint`: where it probably is.
  func position(behind cookie: UInt64, hint: Int) -> Int? {
    if cookie == start { return 0 }
    if hint > 0, hint <= records.count, records[hint &- 1].cookie == cookie, !records[hint &- 1].isAdded { return hint }
    for place in 0..<records.count where records[place].cookie == cookie && !records[place].isAdded {
      return place &+ 1
    }
    return nil
  }

  /// Runs a body with the name of a record.
  func withName<R>(_ place: Int, _ body: (PathBytes) -> R) -> R {
    let record = records[place]
    return names.withUnsafeBytes { names in
      let start = record.nameStart.int
      return body(PathBytes(UnsafeRawBufferPointer(rebasing: names[start..<start &+ record.nameLength.int])))
    }
  }

  private func has(_ place: Int, _ name: PathBytes) -> Bool {
    let record = records[place]
    guard record.nameLength.int == name.count else { return false }
    for offset in 0..<name.count where names[record.nameStart.int &+ offset] != name[offset] { return false }
    return true
  }

  private mutating func enter(_ place: Int) {
    var slot = records[place].hash.int & (index.count &- 1)
    while index[slot] != 0 { slot = (slot &+ 1) & (index.count &- 1) }
    index[slot] = place.u32 &+ 1
  }

  private mutating func rebuild() {
    index = [UInt32](repeating: 0, count: max(16, index.count &* 2))
    for place in 0..<records.count { enter(place) }
  }
}
