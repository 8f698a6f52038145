// What a run cost: exits by kind and CPU, memory touched, times. Written as JSON where --stats says.

import CSystemCalls
import KVM
import VirtioNet

#if canImport(Glibc)
  import Glibc
#endif

/// How often one CPU left the guest for what reason; written by its thread alone.
struct ExitCounts {
  var ports = 0
  var mmioReads = 0
  var mmioWrites = 0
  var kicks = 0
  var interrupted = 0
  var refused = 0
  var faults = 0
  var other = 0
  /// Repairs of files that its thread knows of; no exit.
  var repairsSeen = 0

  /// All of them.
  var total: Int { ports + mmioReads + mmioWrites + kicks + interrupted + refused + faults + other }

  /// One more exit. A device's notification counts as a write first; `noteKick` moves it.
  mutating func count(_ exit: Exit) {
    switch exit {
    case .portRead, .portWrite: ports += 1
    case .mmioRead: mmioReads += 1
    case .mmioWrite: mmioWrites += 1
    case .interrupted: interrupted += 1
    case .internalError: refused += 1
    case .memoryFault: faults += 1
    default: other += 1
    }
  }

  /// The write just counted was a notification.
  mutating func noteKick() {
    mmioWrites -= 1
    kicks += 1
  }

  static func + (a: ExitCounts, b: ExitCounts) -> ExitCounts {
    var sum = a
    sum.ports += b.ports
    sum.mmioReads += b.mmioReads
    sum.mmioWrites += b.mmioWrites
    sum.kicks += b.kicks
    sum.interrupted += b.interrupted
    sum.refused += b.refused
    sum.faults += b.faults
    sum.other += b.other
    return sum
  }

  /// As a JSON object.
  var json: String {
    """
    {"total": \(total), "port": \(ports), "mmio_read": \(mmioReads), "mmio_write": \(mmioWrites), "kick": \(kicks), \
    "interrupted": \(interrupted), "refused": \(refused), "fault": \(faults), "other": \(other)}
    """
  }
}

extension GuestMemory {
  /// Pages of RAM that exist, because the monitor or the guest has touched them.
  var residentPages: Int {
    var count = 0
    for region in ram {
      var map = [UInt8](repeating: 0, count: Int(region.byteCount / Self.pageSize))
      if mincore(region.host, Int(region.byteCount), &map) == 0 { for byte in map where byte & 1 != 0 { count += 1 } }
    }
    return count
  }
}

extension Machine {
  /// What the network interfaces have done, in their order.
  var networkReport: String { "[\(devices.networks.map(\.report.json).joined(separator: ", "))]" }

  /// Everything --stats reports.
  func statisticsReport(status: CInt) -> String {
    var sum = ExitCounts()
    for cpu in 0..<configuration.cpuCount { sum = sum + exits[cpu] }
    let pages = memory.residentPages
    return """
      {"status": \(status), "exits": \(sum.json), "resident_bytes": \(osv_resident_bytes(memoryAccount)),
       "guest_pages": \(pages), "guest_pages_at_entry": \(pagesAtEntry), "guest_pages_at_program": \(pagesAtProgram.map(String.init) ?? "null"),
       "network": \(networkReport), "timeline": \(timeline.json)}

      """
  }
}
