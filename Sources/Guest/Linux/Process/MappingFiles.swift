// The files of /proc that tell of a process' mappings: maps, smaps and smaps_rollup.
import Base
import Files
import Memory
import Platform
import ProcFS

extension ProcessFiles {
  static func addMappingFiles(to tree: ProcessFileSystem) {
    add(tree, "maps", maps)
    add(tree, "smaps", details)
    add(tree, "smaps_rollup", sums)
  }

  private static func maps(_ process: Process, _ text: inout TextBuffer) throws(Errno) {
    var lines = text
    process.addressSpace.forEachMapping { mapping in
      appendLine(mapping, &lines)
      return true
    }
    text = lines
  }

  /// The line of a mapping.
  private static func appendLine(_ mapping: MappingInformation, _ lines: inout TextBuffer) {
    lines.append(hexadecimal: mapping.range.start.rawValue, width: 8)
    lines.append("-")
    lines.append(hexadecimal: mapping.range.end.rawValue, width: 8)
    lines.append(mapping.protection.contains(.read) ? " r" : " -")
    lines.append(mapping.protection.contains(.write) ? "w" : "-")
    lines.append(mapping.protection.contains(.execute) ? "x" : "-")
    lines.append(mapping.isShared ? "s " : "p ")
    lines.append(hexadecimal: mapping.offset, width: 8)
    let device = mapping.owner?.mappingDevice ?? 0
    lines.append(" ")
    lines.append(hexadecimal: DeviceNumber.major(device).u64, width: 2)
    lines.append(":")
    lines.append(hexadecimal: DeviceNumber.minor(device).u64, width: 2)
    lines.append(" ")
    lines.append(mapping.owner?.mappingInode ?? 0)
    appendPlace(mapping, &lines)
    lines.append("\n")
  }

  private static func appendPlace(_ mapping: MappingInformation, _ text: inout TextBuffer) {
    let label: StaticString? =
      switch mapping.label {
      case .none: nil
      case .heap: "[heap]"
      case .stack: "[stack]"
      case .vdso: "[vdso]"
      case .patches: "[patches]"
      case .vvar: "[vvar]"
      }
    if let label {
      text.append("                          ")
      text.append(label)
    } else if let owner = mapping.owner {
      text.append("                          ")
      var copy = text
      owner.withMappingPath { copy.append($0) }
      text = copy
    }
  }

  // MARK: What is present of them

  private static func details(_ process: Process, _ text: inout TextBuffer) throws(Errno) {
    var address: UInt64 = 0
    while let (mapping, usage, traits) = process.addressSpace.usage(endingAbove: address) {
      address = mapping.range.end.rawValue
      appendLine(mapping, &text)
      appendKibibytes("Size:           ", usage.size, &text)
      let pageSize = traits.isHugeOnly ? PageSize.large : PageSize.small
      appendKibibytes("KernelPageSize: ", pageSize, &text)
      appendKibibytes("MMUPageSize:    ", pageSize, &text)
      append(usage, &text)
      text.append(traits.mayBeHuge ? "THPeligible:           1\nVmFlags:" : "THPeligible:           0\nVmFlags:")
      var line = text
      traits.forEach { trait in
        line.append(" ")
        line.append(trait)
      }
      text = line
      text.append("\n")
    }
  }

  private static func sums(_ process: Process, _ text: inout TextBuffer) throws(Errno) {
    var sum = MappingUsage()
    var (address, first): (UInt64, UInt64) = (0, 0)
    while let (mapping, usage, _) = process.addressSpace.usage(endingAbove: address) {
      if address == 0 { first = mapping.range.start.rawValue }
      address = mapping.range.end.rawValue
      sum += usage
    }
    text.append(hexadecimal: first, width: 8)
    text.append("-")
    text.append(hexadecimal: address, width: 8)
    text.append(" ---p 00000000 00:00 0                          [rollup]\n")
    append(sum, &text)
  }

  private static func append(_ usage: MappingUsage, _ text: inout TextBuffer) {
    let lines: [17 of (StaticString, UInt64)] = [
      ("Rss:            ", usage.resident), ("Pss:            ", usage.proportional),
      ("Pss_Dirty:      ", usage.proportionalDirty), ("Shared_Clean:   ", usage.sharedClean),
      ("Shared_Dirty:   ", usage.sharedDirty), ("Private_Clean:  ", usage.privateClean),
      ("Private_Dirty:  ", usage.privateDirty), ("Referenced:     ", usage.referenced),
      ("Anonymous:      ", usage.anonymous), ("LazyFree:       ", 0), ("AnonHugePages:  ", usage.huge),
      ("ShmemPmdMapped: ", 0), ("FilePmdMapped:  ", 0), ("Shared_Hugetlb: ", 0), ("Private_Hugetlb:", 0),
      ("Swap:           ", 0), ("SwapPss:        ", 0),
    ]
    for index in 0..<lines.count { appendKibibytes(lines[index].0, lines[index].1, &text) }
    appendKibibytes("Locked:         ", usage.locked, &text)
  }
}
