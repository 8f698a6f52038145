// The search table of .eh_frame_hdr and the records of .eh_frame (LSB Core, Exception Frames): where functions start
// and end. Only the forms that linkers write are read; anything else counts as not being there.

/// The table of .eh_frame_hdr: function starts, ascending, with the address of each one's record.
struct UnwindIndex {
  /// PT_GNU_EH_FRAME.
  static let headerType: UInt32 = 0x6474_e550
  private static let entryByteCount: UInt64 = 8

  /// Address of the header, which the table's words are relative to.
  private let address: UInt64
  /// Where the table is in the file.
  private let table: UInt64
  private let count: UInt64

  init?<Source: ByteSource>(_ source: Source, fileOffset: UInt64, address: UInt64) {
    // Version 1; the table's address in 4 bytes, its length as udata4, its words datarel sdata4.
    guard let head = source.load(UInt32.self, at: fileOffset), head & 0xff == 1, head >> 8 & 0x0f == 0x0b,
      head >> 16 & 0xff == 0x03, head >> 24 == 0x3b, let count = source.load(UInt32.self, at: fileOffset &+ 8)
    else { return nil }
    self.address = address
    self.table = fileOffset &+ 12
    self.count = UInt64(truncatingIfNeeded: count)
    guard table &+ self.count &* Self.entryByteCount <= source.byteCount else { return nil }
  }

  private func word<Source: ByteSource>(_ number: UInt64, _ offset: UInt64, _ source: Source) -> UInt64? {
    guard number < count, let word = source.load(Int32.self, at: table &+ number &* Self.entryByteCount &+ offset)
    else {
      return nil
    }
    return address &+ UInt64(truncatingIfNeeded: word)
  }

  /// Where a function starts.
  func start<Source: ByteSource>(_ number: UInt64, _ source: Source) -> UInt64? { word(number, 0, source) }
  /// The address of its record.
  func record<Source: ByteSource>(_ number: UInt64, _ source: Source) -> UInt64? { word(number, 4, source) }

  /// The last function that starts at `address` or below.
  func last<Source: ByteSource>(before address: UInt64, _ source: Source) -> UInt64? {
    var low: UInt64 = 0
    var high = count
    while low < high {
      let middle = (low &+ high) / 2
      guard let start = start(middle, source) else { return nil }
      if start <= address { low = middle &+ 1 } else { high = middle }
    }
    return low == 0 ? nil : low &- 1
  }
}

/// A record (FDE) of .eh_frame.
enum UnwindRecord {
  /// How long its function is, and whether it describes a signal trampoline (augmentation 'S').
  static func range<Source: ByteSource>(at offset: UInt64, _ source: Source) -> (
    byteCount: UInt64, isSignalFrame: Bool
  )? {
    guard let length = source.load(UInt32.self, at: offset), length > 8, length < 0xffff_fff0,
      let pointer = source.load(UInt32.self, at: offset &+ 4), pointer != 0,
      UInt64(truncatingIfNeeded: pointer) <= offset &+ 4
    else { return nil }
    let common = offset &+ 4 &- UInt64(truncatingIfNeeded: pointer)
    guard let kind = augmentation(at: common, source) else { return nil }
    switch kind.encoding & 0x0f {
    case 0x03, 0x0b:
      guard let count = source.load(UInt32.self, at: offset &+ 12) else { return nil }
      return (UInt64(truncatingIfNeeded: count), kind.isSignalFrame)
    case 0x00, 0x04, 0x0c:
      guard let count = source.load(UInt64.self, at: offset &+ 16) else { return nil }
      return (count, kind.isSignalFrame)
    default: return nil
    }
  }

  /// What a common record (CIE) says: how its functions' addresses are written.
  static func augmentation<Source: ByteSource>(
    at offset: UInt64, _ source: Source
  ) -> (encoding: UInt8, isSignalFrame: Bool)? {
    guard let identifier = source.load(UInt32.self, at: offset &+ 4), identifier == 0,
      let version = source.load(UInt8.self, at: offset &+ 8), version == 1 || version == 3
    else { return nil }
    var at = offset &+ 9
    var text: [8 of UInt8] = .init(repeating: 0)
    var length = 0
    while true {
      guard let letter = source.load(UInt8.self, at: at), length < 8 else { return nil }
      at &+= 1
      if letter == 0 { break }
      text[length] = letter
      length &+= 1
    }
    guard length > 0 else { return (0, false) }
    guard text[0] == UInt8(ascii: "z") else { return nil }
    // Code and data alignment, return register, length of what the letters bring.
    for field in 0..<4 {
      if field == 2 && version == 1 {
        at &+= 1
      } else {
        guard skipNumber(&at, source) else { return nil }
      }
    }
    var encoding: UInt8 = 0
    var isSignalFrame = false
    for number in 1..<length {
      switch text[number] {
      case UInt8(ascii: "R"):
        guard let value = source.load(UInt8.self, at: at) else { return nil }
        encoding = value
        at &+= 1
      case UInt8(ascii: "L"): at &+= 1
      case UInt8(ascii: "P"):
        guard let value = source.load(UInt8.self, at: at) else { return nil }
        switch value & 0x0f {
        case 0x03, 0x0b: at &+= 5
        case 0x00, 0x04, 0x0c: at &+= 9
        default: return nil
        }
      case UInt8(ascii: "S"): isSignalFrame = true
      case UInt8(ascii: "B"): break
      default: return nil
      }
    }
    return (encoding, isSignalFrame)
  }

  /// Skips a LEB128 number.
  private static func skipNumber<Source: ByteSource>(_ at: inout UInt64, _ source: Source) -> Bool {
    for _ in 0..<10 {
      guard let byte = source.load(UInt8.self, at: at) else { return false }
      at &+= 1
      if byte & 0x80 == 0 { return true }
    }
    return false
  }
}
