// The memory map that a foreign kernel is told, in the form of BIOS's E820: Linux's boot_params and PVH's start information share it.

/// A range of physical addresses and what it is.
struct PCMemoryRange: Equatable {
  /// E820 types.
  enum Kind: UInt32 {
    case memory = 1
    case reserved = 2
  }

  var start: UInt64
  var byteCount: UInt64
  var kind: Kind

  /// The map of a machine with this RAM: what the first megabyte has for firmware and the configuration window are reserved.
  static func map(ram: [GuestMemory.Region]) -> [PCMemoryRange] {
    var map = [
      PCMemoryRange(start: 0, byteCount: PCLayout.conventionalEnd, kind: .memory),
      PCMemoryRange(
        start: PCLayout.conventionalEnd, byteCount: PCLayout.highMemory - PCLayout.conventionalEnd, kind: .reserved),
    ]
    for region in ram {
      let start = max(region.physical, PCLayout.highMemory)
      let end = region.physical + region.byteCount
      if end > start { map.append(PCMemoryRange(start: start, byteCount: end - start, kind: .memory)) }
    }
    map.append(
      PCMemoryRange(start: PCLayout.configuration, byteCount: PCLayout.configurationByteCount, kind: .reserved))
    return map.sorted { $0.start < $1.start }
  }
}
