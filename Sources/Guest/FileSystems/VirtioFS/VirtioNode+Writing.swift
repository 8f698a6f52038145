// Writing files of the host: data through the page cache, sizes, attributes, and what makes them durable.
//
// A large write is a request, or several, with the bytes straight from the cache's frames; it returns when the server has them. Small ones
// (VirtioNode+Delaying.swift) and stores through mappings leave pages dirty, which are written by msync, fsync, close, half a second later, and
// at the end: whole pages, as far as the file goes. Every answer says what became of the file's attributes, so that nothing has to be
// asked again; if they were not before what we knew, somebody else writes the file too.
import Base
import Files
import Locks
import Memory
import Platform
import VirtioABI

extension VirtioNode {
  // MARK: What changes do to attributes

  /// A change is about to be asked for.
  func changeBegins() {
    tree.lock.withLock { changesUnderWay &+= 1 }
    // What was read ahead is of before; from here on nothing is kept.
    if type == .regular, let old = takeWaiting() { MessageMemory.free(old.buffer) }
  }

  /// It is over, and failed or did not say what it has done: the attributes have to be asked for.
  func changeEnds() {
    tree.lock.withLock {
      changesUnderWay &-= 1
      lastChange = tree.changeEnded()
      attributesExpire = 0
    }
  }

  /// It is over, with a report.
  /// - Returns: whether somebody else has changed the file as well.
  func changeEnds(_ report: FUSEChangeReport, asked: RequestTime) -> Bool {
    let after = report.after.attributes
    let isHonest = FileType(mode: after.mode) == type && after.size <= Int64.max.u64
    return tree.lock.withLock {
      changesUnderWay &-= 1
      lastChange = tree.changeEnded()
      guard isHonest else {
        attributesExpire = 0
        return true
      }
      let isKnown =
        attributes.size == report.sizeBefore && attributes.mtime == report.mtimeBefore
        && attributes.mtimeNanoseconds == report.mtimeBeforeNanoseconds
      attributes = after
      attributesExpire = VirtioFileSystem.expiry(asked.time, report.after.valid, report.after.validNanoseconds)
      return !isKnown
    }
  }

  /// The attributes that only the server knows have moved, such as the change time or the number of names.
  func expireAttributes() { tree.lock.withLock { attributesExpire = 0 } }

  // MARK: Data

  func writeData(at offset: UInt64, from transfer: inout Transfer, _ flags: OpenFlags) throws(Errno) -> Int {
    guard tree.client.isWritable else { throw .EROFS }
    let contents = try fileContents()
    let (end, overflow) = offset.addingReportingOverflow(transfer.remaining.u64)
    guard !overflow else { throw .EFBIG }
    let delays = mayDelay(transfer.remaining, flags)
    let count: Int
    do throws(Errno) {
      count = try writeLocked(contents, at: offset, end: end, from: &transfer, delays: delays)
    } catch {
      // Not a byte of it waits.
      if delays { delayEnds(contents) }
      throw error
    }
    if delays, count == 0 { delayEnds(contents) }
    // As much as a few requests take: the writer waits for its own. It is told of an error by what it does next: these bytes are written.
    if delays, contents.object.dirtyPages >= VirtioNode.delayedPages { try? writeBackDirty() }
    return count
  }

  private func writeLocked(
    _ contents: VirtioContents, at offset: UInt64, end: UInt64, from transfer: inout Transfer, delays: Bool
  ) throws(Errno) -> Int {
    contents.sizeLock.readLock()
    guard end > contents.object.byteCount else {
      defer { contents.sizeLock.readUnlock() }
      return try write(contents.object, at: offset, from: &transfer, delays: delays)
    }
    contents.sizeLock.readUnlock()
    contents.sizeLock.writeLock()
    defer { contents.sizeLock.writeUnlock() }
    return try write(contents.object, at: offset, from: &transfer, delays: delays)
  }

  private func write(
    _ object: MemoryObject, at offset: UInt64, from transfer: inout Transfer, delays: Bool
  ) throws(Errno) -> Int {
    guard delays else {
      let count = try writeThrough(object, at: offset, from: &transfer)
      // The time of what waits must not be told to the server later than this one's.
      if isDelayed { delayGoesOn(isNew: false) }
      return count
    }
    delayBegins()
    let count = try object.write(at: offset, from: &transfer)
    if count > 0 { delayGoesOn(isNew: true) }
    return count
  }

  private func writeThrough(_ object: MemoryObject, at offset: UInt64, from transfer: inout Transfer) throws(Errno)
    -> Int
  {
    // A request takes so many pages if none touches another: one piece each, one for the head and one for the reply.
    let pages = min(tree.client.maximumWrite &>> 12, FUSEMessage.segmentCapacity &- 2)
    var isShared = false
    // Not before: the pages on their way would be passed over, and they are as old as the others.
    defer { if isShared { changedByOthers(object) } }
    return try object.writeThrough(at: offset, from: &transfer, pages: pages) {
      (offset, frames, start, count) throws(Errno) in
      try self.send(offset, frames, start, count, flags: 0, &isShared)
    }
  }

  /// Somebody else changes the file too: what is cached of it goes, as far as nobody uses it, and its size is the server's.
  private func changedByOthers(_ object: MemoryObject) {
    let size = tree.lock.withLock { attributes.size }
    object.invalidate()
    sizeChanged(object, size)
  }

  /// Passes bytes on to the server, as one request if that can be.
  /// - Returns: bytes that it has taken; fewer than all only after an error that the next write will meet.
  private func send(
    _ offset: UInt64, _ frames: UnsafeBufferPointer<PhysicalAddress>, _ start: Int, _ count: Int, flags: UInt32,
    _ isShared: inout Bool
  ) throws(Errno) -> Int {
    var done = 0
    while done < count {
      let place = start &+ done
      let rest = UnsafeBufferPointer(rebasing: frames[(place &>> 12)...])
      let asked = tree.ask()
      // Set-user bits go with a write; the server need not look for any where there are none.
      let mode = tree.lock.withLock { attributes.mode }
      let kills = mode & 0o6000 != 0 ? FUSEWriteFlags.killSetUser : 0
      changeBegins()
      let written: Int
      let report: FUSEChangeReport
      do throws(Errno) {
        (written, report) = try tree.client.write(
          node, handle: usableHandle(writing: true), offset: offset &+ done.u64, frames: rest, start: place & 4095,
          byteCount: count &- done, flags: flags | kills)
      } catch {
        changeEnds()
        if done > 0 { return done }
        throw error
      }
      if changeEnds(report, asked: asked) { isShared = true }
      done &+= written
    }
    return done
  }

  // MARK: Dirty pages

  func contentsDirtied() { tree.dirty.add(self) }

  func writeBack(page: UInt64, frames: UnsafeBufferPointer<PhysicalAddress>, byteCount: Int) throws(Errno) {
    guard let contents = knownContents else { return }
    contents.sizeLock.readLock()
    defer { contents.sizeLock.readUnlock() }
    // The file may have shrunk since the pages were chosen.
    let start = page &<< 12
    let size = contents.object.byteCount
    let count = min(byteCount.u64, size > start ? size &- start : 0).int
    guard count > 0 else { return }
    var done = 0
    var isShared = false
    defer { if isShared { changedByOthers(contents.object) } }
    while done < count {
      let rest = UnsafeBufferPointer(rebasing: frames[(done &>> 12)...])
      done &+= try send(start &+ done.u64, rest, done & 4095, count &- done, flags: FUSEWriteFlags.cache, &isShared)
    }
  }

  /// Writes all dirty pages. A file that has some afterwards, for whatever reason, is listed again.
  /// - Throws: why the server did not take them; they stay dirty.
  func writeBackDirty() throws(Errno) {
    guard type == .regular, let contents = knownContents else { return }
    tree.dirty.underWay.readLock()
    defer { tree.dirty.underWay.readUnlock() }
    defer { if contents.object.isAheadOfSource { tree.dirty.add(self) } }
    do throws(Errno) { try contents.object.writeBack() } catch {
      tree.lock.withLock { isRefused = true }
      throw error
    }
    tree.lock.withLock { isRefused = false }
    delayEnds(contents)
    if openFiles.load(ordering: .acquiring) == 0, !contents.object.isAheadOfSource { giveHandleBack() }
  }

  /// Whether what is in the file ends with its last user: nobody else misses it.
  var isNameless: Bool { tree.lock.withLock { isOrphan } }

  /// The server's file has gone. What is dirty can never be written, and stays for those who have the file open only.
  func giveUp() {
    guard openFiles.load(ordering: .acquiring) == 0, let contents = knownContents else { return }
    if !isNameless { tree.dirty.isLost.store(true, ordering: .relaxed) }
    contents.sizeLock.writeLock()
    contents.object.forget(offset: 0, byteCount: .max)
    contents.sizeLock.writeUnlock()
    delayEnds(contents)
  }

  func makeDurable(dataOnly: Bool) throws(Errno) {
    guard tree.client.isWritable, type == .regular || isDirectory else { return }
    try writeBackDirty()
    try tree.client.fsync(
      node, handle: usableHandle(writing: true), dataOnly: dataOnly, directory: isDirectory)
  }

  // MARK: Attributes

  func changeAttributes(_ change: AttributeChange) throws(Errno) {
    guard tree.client.isWritable else { throw .EROFS }
    var arguments = FUSESetattrIn()
    // What is dirty has been written before the time that is set now, whenever that was.
    if change.modificationTime != nil { tree.lock.withLock { delayedTime = nil } }
    // What was written before must not take away what is set now, nor need rights that are about to go. What cannot be written stays dirty.
    if isDelayed || change.modificationTime != nil { try? writeBackDirty() }
    if let mode = change.mode {
      arguments.valid |= FUSESetattrFlags.mode
      arguments.mode = mode
      openBefore(mode: mode)
    }
    if let user = change.userID {
      arguments.valid |= FUSESetattrFlags.uid
      arguments.uid = user
    }
    if let group = change.groupID {
      arguments.valid |= FUSESetattrFlags.gid
      arguments.gid = group
    }
    if let time = change.accessTime {
      arguments.valid |= FUSESetattrFlags.atime
      if let (seconds, nanoseconds) = VirtioNode.parts(time) {
        (arguments.atime, arguments.atimeNanoseconds) = (seconds, nanoseconds)
      } else {
        arguments.valid |= FUSESetattrFlags.atimeNow
      }
    }
    if let time = change.modificationTime {
      arguments.valid |= FUSESetattrFlags.mtime
      if let (seconds, nanoseconds) = VirtioNode.parts(time) {
        (arguments.mtime, arguments.mtimeNanoseconds) = (seconds, nanoseconds)
      } else {
        arguments.valid |= FUSESetattrFlags.mtimeNow
      }
    }
    if let size = change.byteCount { return try resize(to: size, arguments) }
    guard arguments.valid != 0 else { return }
    try ask(arguments)
  }

  /// The parts of a time, nil for the present.
  private static func parts(_ change: TimeChange) -> (UInt64, UInt32)? {
    guard case .to(let time) = change else { return nil }
    return (UInt64(bitPattern: time.seconds), time.nanoseconds)
  }

  private func resize(to size: UInt64, _ other: FUSESetattrIn) throws(Errno) {
    let contents = try fileContents()
    // Before the lock, which writing back takes. Cutting a file may be what makes room for the rest.
    try? writeBackDirty()
    contents.sizeLock.writeLock()
    defer { contents.sizeLock.writeUnlock() }
    var arguments = other
    arguments.valid |= FUSESetattrFlags.size
    arguments.size = size
    if tree.lock.withLock({ attributes.mode & 0o6000 != 0 }) { arguments.valid |= FUSESetattrFlags.killSetUser }
    try ask(arguments)
    try contents.object.truncate(to: size)
  }

  /// One SETATTR.
  func ask(_ given: FUSESetattrIn) throws(Errno) {
    var arguments = given
    let handle = usableHandle(writing: arguments.valid & FUSESetattrFlags.size != 0)
    if handle != 0 {
      arguments.valid |= FUSESetattrFlags.handle
      arguments.handle = handle
    }
    let asked = tree.ask()
    changeBegins()
    let answer: FUSEAttributesOut
    do throws(Errno) { answer = try tree.client.setattr(node, arguments) } catch {
      changeEnds()
      throw error
    }
    // It does not say what was before; what we knew is taken for it as long as it may be believed.
    var report = FUSEChangeReport()
    let isFresh = tree.lock.withLock { () -> Bool in
      report.sizeBefore = attributes.size
      report.mtimeBefore = attributes.mtime
      report.mtimeBeforeNanoseconds = attributes.mtimeNanoseconds
      return asked.time < attributesExpire
    }
    report.after = answer
    if changeEnds(report, asked: asked) || !isFresh { invalidate() }
  }

  func changeSpace(mode: UInt32, offset: UInt64, byteCount: UInt64) throws(Errno) {
    guard tree.client.isWritable else { throw .EROFS }
    let contents = try fileContents()
    let object = contents.object
    try? writeBackDirty()
    contents.sizeLock.writeLock()
    defer { contents.sizeLock.writeUnlock() }
    let asked = tree.ask()
    changeBegins()
    let report: FUSEChangeReport
    do throws(Errno) {
      report = try tree.client.fallocate(
        node, handle: usableHandle(writing: true), mode: mode, offset: offset, byteCount: byteCount)
    } catch {
      changeEnds()
      throw error
    }
    if changeEnds(report, asked: asked) { object.invalidate() }
    // Punched or zeroed: what the cache has is not what the file has.
    if mode & ~1 != 0 { object.forget(offset: offset, byteCount: byteCount) }
    let size = report.after.attributes.size
    if size > object.byteCount, size <= Int64.max.u64 { try object.truncate(to: size) }
  }
}
