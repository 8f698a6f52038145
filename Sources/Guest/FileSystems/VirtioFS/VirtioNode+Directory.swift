// Directories of the host: one READDIRPLUS brings names, nodes and attributes, and what follows it (lookups, stats, and reading the
// directory again) is answered from there for as long as the server allows.
// SAFETY of all: what is unwrapped unchecked is the listing: it is there from where the loop begins it, under the node's
// lock; `fetch` puts it back, or throws, and then nobody goes on with it. Names lie within the buffer that the server's
// reply is in, which is ours until `withBuffer` returns.
import Base
import Files
import Locks
import VirtioABI

extension VirtioNode {
  /// A name, from the listing or from the server.
  func find(_ name: PathBytes) throws(Errno) -> LookupResult {
    guard isDirectory else { throw .ENOTDIR }
    let now = tree.clock()
    let (record, birth, isAbsent, expires) = lock.withLock { () -> (UInt64, UInt32, Bool, UInt64) in
      guard let listing, now < listing.expires else { return (0, 0, false, 0) }
      if let place = listing.find(name) {
        return (listing.records[place].node, listing.records[place].birth, false, listing.expires)
      }
      return (0, 0, listing.isWhole, listing.expires)
    }
    if isAbsent { return LookupResult(nil, validity: expires &- now) }
    if record != 0, let known = tree.find(record, birth: birth) {
      return LookupResult(known, validity: expires &- now)
    }
    let asked = tree.ask()
    let entry = try tree.client.lookup(node, name.bytes)
    let valid = VirtioFileSystem.expiry(0, entry.entryValid, entry.entryValidNanoseconds)
    if entry.nodeID == 0 { return LookupResult(nil, validity: valid) }
    return LookupResult(try tree.enter(entry, asked: asked), validity: valid)
  }

  /// Entries behind a cookie, each passed to a body until that says that it has enough.
  func forEachEntry(from cookie: UInt64, _ body: (PathBytes, ListingRecord) -> Bool) throws(Errno) {
    guard isDirectory else { throw .ENOTDIR }
    lock.lock()
    defer { lock.unlock() }
    // A listing that has begun goes on with what it began with, a new one wants news.
    if let listing, cookie == 0, tree.clock() >= listing.expires || listing.isAmended { self.listing = nil }
    var position = listing?.position(behind: cookie, hint: listingHint)
    if position == nil {
      listing = DirectoryListing(start: cookie, expires: tree.clock() &+ tree.validity)
      position = 0
    }
    var place = position.unsafelyUnwrapped
    while true {
      while place < listing.unsafelyUnwrapped.records.count {
        let record = listing.unsafelyUnwrapped.records[place]
        guard record.isListed else {
          place &+= 1
          continue
        }
        guard listing.unsafelyUnwrapped.withName(place, { body($0, record) }) else {
          listingHint = place
          return
        }
        place &+= 1
      }
      listingHint = place
      if listing.unsafelyUnwrapped.isComplete { return }
      if place >= DirectoryListing.limit {
        listing = DirectoryListing(
          start: listing.unsafelyUnwrapped.next, expires: tree.clock() &+ tree.validity)
        place = 0
      }
      do throws(Errno) { try fetch() } catch {
        // What was read before the error is no news for whoever comes next.
        listing = nil
        throw error
      }
    }
  }

  /// Gets the entries behind the listing's last. Under the node's lock.
  private func fetch() throws(Errno) {
    let asked = tree.ask()
    var fresh = listing.unsafelyUnwrapped
    listing = nil  // Not two owners: appending would copy.
    let before = fresh.records.count
    try tree.withBuffer { (buffer) throws(Errno) in
      let (count, isLast) = try tree.client.readDirectory(
        node, handle: readingHandle(), offset: fresh.next, into: buffer)
      var reader = FUSEDirectoryReader(
        UnsafeRawBufferPointer(rebasing: buffer[..<count]), hasNodes: tree.client.listsNodes)
      while let record = try reader.next() {
        fresh.next = record.head.offset
        if record.isDots { continue }
        var birth: UInt32 = 0
        if record.entry.nodeID != 0 {
          let child = try tree.enter(record.entry, asked: asked)
          birth = child.birth
          tree.note(child, in: self, place: fresh.records.count)
          let valid = VirtioFileSystem.expiry(asked.time, record.entry.entryValid, record.entry.entryValidNanoseconds)
          fresh.expires = min(fresh.expires, valid)
        }
        fresh.append(record, birth: birth)
      }
      fresh.isComplete = isLast
    }
    // The dots alone are no progress; twice would be for ever.
    if fresh.records.count == before, !fresh.isComplete {
      emptyReplies &+= 1
      guard emptyReplies < 4 else { throw .EIO }
    } else {
      emptyReplies = 0
    }
    listing = fresh
  }
}
