// Reading small files ahead: whoever reads the files of a directory one after the other (grep -r, tar, a compiler) gets the
// next ones with the same notification, since that is what a read costs.
//
// The directory notices the sequence by the places of its files in its listing. Whoever has listed it and begins with its first file
// gets 4 more at once, others 2 from the second file in order on; then 8 and 15 more come with each request. They wait in buffers of their own, like pages of the cache in what makes them stale, until their file is read.
// At most `limit` files wait; the oldest go first.
//
// Files ahead are named to the server by number, with nobody holding them: that is good enough only where no number is used again (osv-run's).
import Base
import Files
import Locks
import Pages
import Platform
import VirtioABI

/// Contents of a file that nobody has asked for yet.
struct WaitingContents {
  let buffer: UnsafeMutableRawPointer
  let count: Int
}

/// Who reads the files of a directory in order, and how far ahead.
struct ReadAheadState {
  /// Place of the last file read.
  var last = -1
  /// Files to read ahead with the next request.
  var window = 0

  static let largestFile: UInt64 = 32_768
  static let largestWindow = 15
  /// How far apart in the listing two files may be and still be in order.
  static let gap = 16

  /// Notes that the file at a place is read; `isMiss`: it takes a request.
  mutating func note(_ place: Int, isMiss: Bool, isFirst: Bool = false) {
    if last < 0, isFirst {
      window = 4
    } else if last >= 0, place > last, place &- last <= ReadAheadState.gap {
      if isMiss { window = min(max(window &* 2, 2), ReadAheadState.largestWindow) }
    } else if place != last {
      window = 0
    }
    last = place
  }
}

extension VirtioNode {
  /// Fills the first pages of a file, from what waits or from the server, along with files to come.
  /// - Returns: False if this is nothing for reading ahead.
  func fillWhole(_ frames: UnsafeBufferPointer<PhysicalAddress>) throws(Errno) -> Bool {
    let waiting = takeWaiting()
    // Not `lock`: a directory being read may be waiting for this very page.
    let parent = tree.parent(of: self)
    if let waiting {
      defer { MessageMemory.free(waiting.buffer) }
      copy(waiting, to: frames)
      if let parent, parent.node.lock.tryLock() {
        parent.node.readAhead.note(parent.place, isMiss: false)
        parent.node.lock.unlock()
      }
      return true
    }
    guard let parent, tree.client.fits(frames.count) else { return false }
    var ahead = parent.node.filesAhead(of: parent.place)
    if ahead.isEmpty { return false }
    defer {
      for read in ahead where read.count < 0 { MessageMemory.free(read.buffer) }
    }
    let asked = tree.ask()
    _ = try tree.client.read(node, frames: frames, ahead: &ahead)
    for read in ahead where read.count >= 0 {
      tree.keep(WaitingContents(buffer: read.buffer, count: read.count), for: read.node, asked: asked)
    }
    return true
  }

  /// The next small files of this directory that are not cached, with buffers.
  private func filesAhead(of place: Int) -> [FUSEReadAhead] {
    guard lock.tryLock() else { return [] }
    defer { lock.unlock() }
    guard let listing else { return [] }
    readAhead.note(place, isMiss: true, isFirst: listing.firstFile == place)
    guard readAhead.window > 0 else { return [] }
    var result: [FUSEReadAhead] = []
    let end = min(listing.records.count, place &+ 1 &+ 4 &* ReadAheadState.largestWindow)
    var next = place &+ 1
    while next < end, result.count < min(readAhead.window, tree.client.maximumCalls &- 1) {
      let record = listing.records[next]
      next &+= 1
      guard record.type == FileType.regular.rawValue, record.node != 0, record.isListed else { continue }
      guard let file = tree.find(record.node, birth: record.birth), let size = file.sizeToReadAhead() else { continue }
      // A byte more than the file has shows that it has not grown.
      let capacity = (size.int &+ 1).alignedUp(to: 4096)
      guard let buffer = MessageMemory.allocate(capacity) else { break }
      result.append(FUSEReadAhead(node: record.node, buffer: buffer, capacity: capacity))
    }
    return result
  }

  private func copy(_ waiting: WaitingContents, to frames: UnsafeBufferPointer<PhysicalAddress>) {
    var offset = 0
    for frame in frames {
      let count = min(4096, waiting.count &- offset)
      if count <= 0 { return }
      // SAFETY: a frame of the caller's, and a part of the buffer that holds `waiting.count` bytes.
      LinearMap.pointer(frame).copyMemory(from: waiting.buffer + offset, byteCount: count)
      offset &+= count
    }
  }
}
