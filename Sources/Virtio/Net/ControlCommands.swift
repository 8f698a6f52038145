// The control queue's commands (virtio 1.2, 5.1.6.5): one changes the filter, the address or the number of pairs, or is refused.
//
// Pure: the command's bytes are a bounded copy, and what is to be done comes back as a value.
import VirtioABI

/// What a command asks for.
enum ControlCommand: Equatable {
  /// Another filter is in force, with another own address perhaps.
  case filter(ReceiveFilter)
  /// So many pairs are used.
  case pairs(Int)
  /// It cannot be done.
  case refused

  /// Bytes of a command that are looked at: two tables of more addresses than are kept, with their counts.
  static let byteLimit = 8192

  /// What a command asks for, where `filter` is in force now.
  /// - Parameters:
  ///   - bytes: a copy of the head and what follows it.
  ///   - features: what was agreed on.
  ///   - pairCount: pairs that the device has.
  init(_ bytes: UnsafeRawBufferPointer, filter: ReceiveFilter, features: UInt64, pairCount: Int) {
    self = .refused
    guard bytes.count >= VirtioNetworkControl.byteCount else { return }
    let command = bytes[1]
    let data = UnsafeRawBufferPointer(rebasing: bytes[VirtioNetworkControl.byteCount...])
    func has(_ feature: UInt64) -> Bool { features & feature != 0 }
    var changed = filter
    switch bytes[0] {
    case VirtioNetworkControl.ReceiveCommand.commandClass:
      guard has(VirtioNetworkABI.controlReceive), data.count == 1, data[0] <= 1 else { return }
      let isExtra = command > VirtioNetworkControl.ReceiveCommand.allMulticast
      guard !isExtra || has(VirtioNetworkABI.controlReceiveExtra), changed.set(command, data[0] == 1) else { return }
      self = .filter(changed)
    case VirtioNetworkControl.AddressCommand.commandClass:
      if command == VirtioNetworkControl.AddressCommand.setTable {
        guard has(VirtioNetworkABI.controlReceive), changed.setTables(data) else { return }
      } else {
        guard command == VirtioNetworkControl.AddressCommand.set, has(VirtioNetworkABI.controlAddress), data.count == 6
        else { return }
        let own = ReceiveFilter.address(data)
        // A group's address, or none at all, is no interface's.
        guard own >> 40 & 1 == 0, own != 0 else { return }
        changed.own = own
      }
      self = .filter(changed)
    case VirtioNetworkControl.VLANCommand.commandClass:
      guard has(VirtioNetworkABI.controlVLAN), data.count == 2 else { return }
      let id = Int(data[0]) | Int(data[1]) << 8
      guard id < 4096, command <= VirtioNetworkControl.VLANCommand.remove, var vlans = changed.vlans else { return }
      let bit: UInt64 = 1 << UInt64(id % 64)
      if command == VirtioNetworkControl.VLANCommand.add { vlans[id / 64] |= bit } else { vlans[id / 64] &= ~bit }
      changed.vlans = vlans
      self = .filter(changed)
    case VirtioNetworkControl.MultiqueueCommand.commandClass:
      guard has(VirtioNetworkABI.multiqueue), command == VirtioNetworkControl.MultiqueueCommand.setPairs,
        data.count == 2
      else { return }
      let count = Int(data[0]) | Int(data[1]) << 8
      if (1...pairCount).contains(count) { self = .pairs(count) }
    default: return
    }
  }
}

extension ReceiveFilter {
  /// Switches one of the modes; false if there is no such mode.
  fileprivate mutating func set(_ mode: UInt8, _ isOn: Bool) -> Bool {
    switch mode {
    case VirtioNetworkControl.ReceiveCommand.promiscuous: isPromiscuous = isOn
    case VirtioNetworkControl.ReceiveCommand.allMulticast: takesAllMulticast = isOn
    case VirtioNetworkControl.ReceiveCommand.allUnicast: takesAllUnicast = isOn
    case VirtioNetworkControl.ReceiveCommand.noMulticast: takesNoMulticast = isOn
    case VirtioNetworkControl.ReceiveCommand.noUnicast: takesNoUnicast = isOn
    case VirtioNetworkControl.ReceiveCommand.noBroadcast: takesNoBroadcast = isOn
    default: return false
    }
    return true
  }

  /// Replaces both tables; false if the data is not two of them.
  fileprivate mutating func setTables(_ data: UnsafeRawBufferPointer) -> Bool {
    var rest = data[...]
    func table() -> (kept: [Address], hasMore: Bool)? {
      guard rest.count >= 4 else { return nil }
      let count = (0..<4).reduce(0) { $0 | Int(rest[rest.startIndex + $1]) << (8 * $1) }
      rest = rest.dropFirst(4)
      guard rest.count / 6 >= count else { return nil }
      let kept = min(count, Self.addressLimit)
      let addresses = (0..<kept).map { index in
        let start = rest.startIndex + 6 * index
        return Self.address(UnsafeRawBufferPointer(rebasing: rest[start..<(start + 6)]))
      }
      rest = rest.dropFirst(6 * count)
      return (addresses, count > kept)
    }
    guard let first = table(), let second = table(), rest.isEmpty else { return false }
    (unicast, hasMoreUnicast) = first
    (multicast, hasMoreMulticast) = second
    return true
  }
}
