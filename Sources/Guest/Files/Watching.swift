// Watching: from what happens to files to those who watch them (inotify).
//
// The operations of the VFS tell of what they have done, outside all of their locks but those of directories. While nobody watches
// anything, that is one load. A directory that is watched hears what happens to the files whose names it has, by the name that was
// used; the file itself is told after it.
import Base
import Locks

/// The watches on a vnode.
final class WatchList {
  let lock = Mutex()
  private var watches: [Watch] = []
  /// The file has lost its last name: it ends with the last open file.
  private var isDeleted = false

  func add(_ watch: Watch) {
    lock.withLock { watches.append(watch) }
    Watching.count.wrappingAdd(1, ordering: .sequentiallyConsistent)
  }

  func remove(_ watch: Watch) {
    let wasThere = lock.withLock { () -> Bool in
      watch.isOver = true
      for index in 0..<watches.count where watches[index] === watch {
        watches.remove(at: index)
        return true
      }
      return false
    }
    if wasThere { Watching.count.wrappingSubtract(1, ordering: .relaxed) }
  }

  /// Tells all who want to know; `isUnlinked`: the name that was used is gone.
  func tell(
    _ events: FileEvents, cookie: UInt32 = 0, name: PathBytes = PathBytes(""), isUnlinked: Bool = false
  ) {
    var over: [Watch] = []
    lock.lock()
    for watch in watches where !watch.isOver && !watch.wanted.isDisjoint(with: events.intersection(.all)) {
      if isUnlinked, watch.wanted.contains(.excludesUnlinked) { continue }
      watch.instance.tell(watch.number, events, cookie: cookie, name: name)
      if watch.wanted.contains(.oneShot) {
        watch.isOver = true
        over.append(watch)
      }
    }
    lock.unlock()
    end(over)
  }

  /// Tells everybody of the file's end, and that it is watched no more.
  func tellEnd(_ events: FileEvents) {
    lock.lock()
    let all = watches
    for watch in all where !watch.isOver {
      let isWanted = events == .unmounted || watch.wanted.contains(events)
      if isWanted { watch.instance.tell(watch.number, events) }
      watch.isOver = true
    }
    lock.unlock()
    end(all)
  }

  private func end(_ over: [Watch]) {
    for watch in over {
      remove(watch)
      watch.instance.forget(watch)
    }
  }

  func markDeleted() { lock.withLock { isDeleted = true } }
  var hasEnded: Bool { lock.withLock { isDeleted } }
}

/// Telling of what has happened.
enum Watching {
  /// Watches there are.
  static let count = Atomic<Int>(0)
  private static let lastCookie = Atomic<UInt32>(0)

  @inline(__always) static var isOn: Bool { count.load(ordering: .relaxed) != 0 }

  /// Something has happened to a file that was found as this entry: its directory is told, then itself.
  @inline(__always) static func tell(_ entry: Dentry, _ events: FileEvents) {
    if isOn { tellBoth(entry, events) }
  }

  @inline(never) private static func tellBoth(_ entry: Dentry, _ events: FileEvents) {
    guard let vnode = entry.vnode else { return }
    let events = vnode.isDirectory ? events.union(.directory) : events
    let cache = vnode.fileSystem.names
    let isUnlinked = entry.isUnlinked
    if let list = cache.parent(of: entry)?.vnode?.watchList {
      cache.topology.readLock()
      let name = entry.name
      cache.topology.readUnlock()
      name.withPath { list.tell(events, name: $0, isUnlinked: isUnlinked) }
    }
    vnode.watchList?.tell(events)
  }

  /// Something has happened to a file, whatever its names.
  @inline(__always) static func tell(_ vnode: Vnode, _ events: FileEvents) {
    if isOn { vnode.watchList?.tell(vnode.isDirectory ? events.union(.directory) : events) }
  }

  /// A name in a directory has come or gone.
  @inline(__always) static func tell(
    _ directory: Vnode, _ events: FileEvents, _ name: PathBytes, of vnode: Vnode, cookie: UInt32 = 0
  ) {
    if isOn {
      directory.watchList?.tell(vnode.isDirectory ? events.union(.directory) : events, cookie: cookie, name: name)
    }
  }

  /// A file has lost a name, perhaps its last.
  static func nameRemoved(_ vnode: Vnode) {
    guard isOn, let list = vnode.watchList else { return }
    if !vnode.isDirectory { list.tell(.attributes) }
    guard vnode.isDirectory || (try? vnode.getAttributes())?.linkCount == 0 else { return }
    list.markDeleted()
    if vnode.openCount.load(ordering: .acquiring) == 0 { list.tellEnd(.deletedSelf) }
  }

  /// The last open file of a vnode is gone.
  static func lastClosed(_ vnode: Vnode) {
    if let list = vnode.watchList, list.hasEnded { list.tellEnd(.deletedSelf) }
  }

  /// A name has become another, by which the directories can tell that the two events belong together.
  static func moved(
    _ vnode: Vnode, from old: Vnode, _ oldName: PathBytes, to new: Vnode, _ newName: PathBytes,
    replacing replaced: Vnode?
  ) {
    guard isOn else { return }
    let cookie = lastCookie.wrappingAdd(1, ordering: .relaxed).newValue
    tell(old, .movedFrom, oldName, of: vnode, cookie: cookie)
    tell(new, .movedTo, newName, of: vnode, cookie: cookie)
    if let replaced, !replaced.isDirectory { tell(replaced, .attributes) }
    vnode.watchList?.tell(.movedSelf)
    if let replaced { endReplaced(replaced) }
  }

  private static func endReplaced(_ vnode: Vnode) {
    guard let list = vnode.watchList else { return }
    guard vnode.isDirectory || (try? vnode.getAttributes())?.linkCount == 0 else { return }
    list.markDeleted()
    if vnode.openCount.load(ordering: .acquiring) == 0 { list.tellEnd(.deletedSelf) }
  }

  /// What a change of attributes is told as.
  static func events(of change: AttributeChange) -> FileEvents {
    var result: FileEvents = []
    if change.byteCount != nil { result.insert(.changed) }
    if change.mode != nil || change.userID != nil || change.groupID != nil { result.insert(.attributes) }
    switch (change.accessTime != nil, change.modificationTime != nil) {
    case (true, true): result.insert(.attributes)
    case (true, false): result.insert(.read)
    case (false, true): result.insert(.changed)
    case (false, false): break
    }
    return result
  }
}

extension Vnode {
  /// Changes attributes and tells those who watch the file, by the entry it was found as.
  final func change(_ change: AttributeChange, of entry: Dentry) throws(Errno) {
    try setAttributes(change)
    Watching.tell(entry, Watching.events(of: change))
  }
}
