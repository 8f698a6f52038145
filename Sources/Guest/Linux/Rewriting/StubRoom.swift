// Places for stubs: 64 bytes each, in the patcher's 64 KiB. A stub of the shape `after` must lie where the third byte of its
// jump is `int3`: in one of four places for every site. One place in four is kept for those.

/// Which places are taken.
struct StubRoom {
  static let placeCount = 1024
  private var taken: [16 of UInt64] = .init(repeating: 0)
  /// All places below this that are not kept are taken.
  private var next = 0

  /// Takes a place for a stub.
  /// - Parameters:
  ///   - shape: of the site's window.
  ///   - start: where the jump will be.
  ///   - base: where the room is.
  /// - Returns: the address, nil if there is no such place left.
  mutating func take(_ shape: SiteWindow.Shape, start: UInt64, base: UInt64) -> UInt64? {
    switch shape {
    case .before:
      while next < Self.placeCount {
        let place = next
        next += 1
        if place & 3 != 3, mark(place) { return base &+ UInt64(place &* Stub.byteCount) }
      }
      return nil
    case .after:
      // The displacement counts from behind the jump; its second byte is to be 0xcc.
      let behind = start &+ SiteWindow.jumpByteCount
      let first = (behind &+ 0xcc00 &- base) & 0xffff
      for step in 0..<4 {
        let offset = ((first &+ 63) & ~63 &+ UInt64(step &* 64)) & 0xffff
        let address = base &+ offset
        if (address &- behind) >> 8 & 0xff == 0xcc, mark(Int(truncatingIfNeeded: offset) / Stub.byteCount) {
          return address
        }
      }
      return nil
    }
  }

  private mutating func mark(_ place: Int) -> Bool {
    let bit: UInt64 = 1 << UInt64(place & 63)
    guard taken[place / 64] & bit == 0 else { return false }
    taken[place / 64] |= bit
    return true
  }
}
