// System calls that move bytes from file to file: sendfile, copy_file_range, splice, tee, vmsplice.
import Base
import Files
import Memory

extension SystemCall {
  private enum SpliceFlags {
    static let nonBlocking: UInt32 = 2
    /// SPLICE_F_MOVE, NONBLOCK, MORE and GIFT; all but one are hints.
    static let all: UInt32 = 15
  }

  /// An offset that the program gives by its address; none: nil.
  private func offset(at address: VirtualAddress) throws(Errno) -> UInt64? {
    guard !address.isNull else { return nil }
    let value = try UserSpan.read(Int64.self, at: address)
    guard value >= 0 else { throw .EINVAL }
    return value.u64
  }

  private func store(_ offset: UInt64?, at address: VirtualAddress) throws(Errno) {
    if let offset { try UserSpan.write(offset, at: address) }
  }

  /// sendfile(out, in, offset, count).
  func sendfile() throws(Errno) -> Int {
    let output = try file()
    let input = try file(argument1)
    guard input.isReadable, output.isWritable else { throw .EBADF }
    var offset = try offset(at: address2)
    if offset != nil, !input.vnode.isSeekable { throw .ESPIPE }
    guard !input.vnode.isDirectory, !output.flags.contains(.append) else { throw .EINVAL }
    var none: UInt64?
    let count = try written(output) { () throws(Errno) in
      try Splice.copy(from: input, at: &offset, to: output, at: &none, count: Self.byteCount(argument3))
    }
    try store(offset, at: address2)
    return count
  }

  /// copy_file_range(in, offset, out, offset, count, flags): between regular files of any file systems.
  func copy_file_range() throws(Errno) -> Int {
    let input = try file()
    let output = try file(argument2)
    var from = try offset(at: address1)
    var to = try offset(at: address3)
    guard argument5.u32 == 0 else { throw .EINVAL }
    guard !input.vnode.isDirectory, !output.vnode.isDirectory else { throw .EISDIR }
    guard input.vnode.type == .regular, output.vnode.type == .regular else { throw .EINVAL }
    guard input.isReadable, output.isWritable, !output.flags.contains(.append) else { throw .EBADF }
    var count = Self.byteCount(argument4)
    let source = from == nil ? try input.seek(0, from: .current) : from.unsafelyUnwrapped
    let target = to == nil ? try output.seek(0, from: .current) : to.unsafelyUnwrapped
    let most = UInt64(0x7fff_ffff_ffff_ffff)
    guard argument4 <= most &- min(source, most), argument4 <= most &- min(target, most) else { throw .EOVERFLOW }
    let end = try input.getAttributes().byteCount
    guard source < end else { return 0 }
    count = min(count.u64, end &- source).int
    if input.vnode === output.vnode, source < target &+ count.u64, target < source &+ count.u64 { throw .EINVAL }
    let done = try Splice.copy(from: input, at: &from, to: output, at: &to, count: count)
    try store(from, at: address1)
    try store(to, at: address3)
    return done
  }

  /// splice(in, offset, out, offset, count, flags).
  func splice() throws(Errno) -> Int {
    guard argument4 > 0 else { return 0 }
    guard argument5.u32 & ~SpliceFlags.all == 0 else { throw .EINVAL }
    let input = try file()
    let output = try file(argument2)
    if !address1.isNull, Splice.isPipe(input) { throw .ESPIPE }
    if !address3.isNull, Splice.isPipe(output) { throw .ESPIPE }
    var from = try offset(at: address1)
    var to = try offset(at: address3)
    let count = try written(output) { () throws(Errno) in
      try Splice.move(
        from: input, at: &from, to: output, at: &to, count: Self.byteCount(argument4),
        nonBlocking: argument5.u32 & SpliceFlags.nonBlocking != 0)
    }
    try store(from, at: address1)
    try store(to, at: address3)
    return count
  }

  /// tee(in, out, count, flags).
  func tee() throws(Errno) -> Int {
    guard argument3.u32 & ~SpliceFlags.all == 0 else { throw .EINVAL }
    guard argument2 > 0 else { return 0 }
    let input = try file()
    let output = try file(argument1)
    return try written(output) { () throws(Errno) in
      try Splice.tee(
        from: input, to: output, count: Self.byteCount(argument2),
        nonBlocking: argument3.u32 & SpliceFlags.nonBlocking != 0)
    }
  }

  /// vmsplice(pipe, pieces, number, flags).
  func vmsplice() throws(Errno) -> Int {
    guard argument3.u32 & ~SpliceFlags.all == 0 else { throw .EINVAL }
    let file = try file()
    var transfer = try vectors()
    guard transfer.remaining > 0 else { return 0 }
    return try written(file) { () throws(Errno) in
      try Splice.transfer(&transfer, file, nonBlocking: argument3.u32 & SpliceFlags.nonBlocking != 0)
    }
  }
}
