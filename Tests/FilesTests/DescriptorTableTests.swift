// Descriptor tables: lowest free numbers, duplicates, limits, what closes when.
import Base
import Files
import Testing

@Suite struct DescriptorTableTests {
  func event() -> OpenFile { EventFile(value: 0, isSemaphore: false) }

  @Test func lowestFreeNumber() throws {
    let table = DescriptorTable(limit: 200)
    for number in 0..<130 { #expect(try table.install(event()) == number) }
    for number in [3, 64, 100] { try table.close(number) }
    #expect(try table.install(event()) == 3)
    #expect(try table.install(event(), atLeast: 65) == 100)
    #expect(try table.install(event()) == 64)
    #expect(try table.install(event()) == 130)
    #expect(try table.install(event(), atLeast: 150) == 150)
    #expect(throws: Errno.EINVAL) { try table.install(event(), atLeast: 200) }
    #expect(throws: Errno.EBADF) { try table.close(140) }
    #expect(throws: Errno.EBADF) { _ = try table.file(-1) }
    #expect(throws: Errno.EBADF) { _ = try table.file(100_000) }
  }

  @Test func limit() throws {
    let table = DescriptorTable(limit: 3)
    for _ in 0..<3 { _ = try table.install(event()) }
    #expect(throws: Errno.EMFILE) { _ = try table.install(event()) }
    table.limit = 5
    #expect(try table.install(event()) == 3)
    table.limit = 2
    try table.close(3)
    #expect(throws: Errno.EMFILE) { _ = try table.duplicate(0) }
    #expect(try table.file(2) === table.file(2))
  }

  @Test func duplicates() throws {
    let table = DescriptorTable()
    let file = event()
    #expect(try table.install(file) == 0)
    #expect(try table.duplicate(0, atLeast: 10, closeOnExec: true) == 10)
    try table.duplicate(0, onto: 300)
    #expect(try table.file(300) === file)
    #expect(try table.closesOnExec(10))
    #expect(try !table.closesOnExec(300))
    try table.duplicate(10, onto: 10)
    #expect(try table.closesOnExec(10))
    #expect(throws: Errno.EBADF) { try table.duplicate(5, onto: 5) }
    #expect(throws: Errno.EBADF) { try table.duplicate(0, onto: 100_000) }
    try table.setClosesOnExec(0, true)
    table.closeOnExec()
    #expect(throws: Errno.EBADF) { _ = try table.file(0) }
    #expect(table.next(from: 0) == 300)
    #expect(table.next(from: 301) == nil)
  }

  @Test func ranges() throws {
    let table = DescriptorTable()
    for _ in 0..<10 { _ = try table.install(event()) }
    table.closeRange(2, 4)
    table.closeRange(8, .max, onExecOnly: true)
    var left: [Int] = []
    var number = 0
    while let found = table.next(from: number) {
      left.append(found)
      number = found + 1
    }
    #expect(left == [0, 1, 5, 6, 7, 8, 9])
    #expect(try table.closesOnExec(9))
  }

  /// A pipe's reader sees the end only when the last of the writer's descriptors is gone, in both tables.
  @Test func lastDescriptorCloses() throws {
    let table = DescriptorTable()
    let ends = try Pipe.make(flags: .nonBlocking)
    let writer = try table.install(ends.writer)
    let second = try table.duplicate(writer)
    let copy = try table.copy()
    try table.close(writer)
    try copy.close(second)
    try table.duplicate(writer == 0 ? second : writer, onto: 7)
    try table.close(second)
    try copy.close(writer)
    #expect(throws: Errno.EAGAIN) { _ = try ends.reader.read(1) }
    try table.close(7)
    #expect(try ends.reader.read(1) == [])
  }
}
