// --net of the command line: where an interface's addresses come from. "dhcp" (as without the option), "none", or
// address=A.B.C.D/BITS[,gateway=A.B.C.D]. The first one is for the first interface, and so on.
import Base
import VirtioABI

extension BootNetwork {
  /// What the option asks for.
  init(_ value: Word, device: UInt32) throws(BootstrapFailure) {
    self.init()
    deviceIndex = device
    if value.matches("none") { return }
    if value.matches("dhcp") {
      flags = BootNetwork.dhcp | BootNetwork.autoconfiguration
      return
    }
    let wrong = BootstrapFailure("--net wants dhcp, none or address=A.B.C.D/BITS[,gateway=A.B.C.D]")
    var rest = value
    while true {
      let end = rest.first(0x2c) ?? rest.count
      let piece = rest.slice(0, end)
      if piece.begins(with: "address="), let slash = piece.first(0x2f) {
        guard let address = Self.address(piece.slice(8, slash)),
          let bits = piece.slice(slash &+ 1, piece.count).number(limit: 32), bits > 0
        else { throw wrong }
        address4 = address
        prefix4 = bits.u32
      } else if piece.begins(with: "gateway=") {
        guard let address = Self.address(piece.slice(8, piece.count)) else { throw wrong }
        gateway4 = address
      } else {
        throw wrong
      }
      if end == rest.count { break }
      rest = rest.slice(end &+ 1, rest.count)
    }
    guard prefix4 != 0 else { throw wrong }
  }

  private static func address(_ text: Word) -> [4 of UInt8]? {
    var result: [4 of UInt8] = .init(repeating: 0)
    var rest = text
    for index in 0..<4 {
      let end = index < 3 ? rest.first(0x2e) ?? rest.count : rest.count
      guard let number = rest.slice(0, end).number(limit: 255) else { return nil }
      result[index] = number.u8
      if index < 3 {
        guard end < rest.count else { return nil }
        rest = rest.slice(end &+ 1, rest.count)
      }
    }
    return result
  }
}
