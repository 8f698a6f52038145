// The control socket: a thread that answers commands, one connection at a time.
//
// Whoever connects may be slow, silent or hostile: a line has a largest length, and who neither says nor reads anything for some
// seconds is hung up on. The thread starts only where a socket was asked for, and does nothing between commands.
import CSystemCalls
import Jail
import VirtioABI
import VirtioBalloon

#if canImport(Glibc)
  import Glibc
#endif

/// One connection, from its first line to its last.
private struct Conversation {
  /// How long the other side may be silent, ms.
  private static let patience: CInt = 5000
  let socket: CInt
  private var pending: [UInt8] = []

  init(_ socket: CInt) { self.socket = socket }

  private func wait(for events: Int32) -> Bool {
    var wait = pollfd(fd: socket, events: Int16(events), revents: 0)
    while true {
      let result = poll(&wait, 1, Self.patience)
      if result < 0 && errno == EINTR { continue }
      return result > 0
    }
  }

  /// The next line without its end; nil if there is no more, or if it is too long, which is said.
  mutating func next() -> [UInt8]? {
    while true {
      if let end = pending.firstIndex(of: UInt8(ascii: "\n")) {
        defer { pending.removeSubrange(...end) }
        return Array(pending[..<end])
      }
      guard pending.count <= ControlCommand.lineLimit else {
        _ = say("{\"error\": \"a line has \(ControlCommand.lineLimit) bytes at most\"}\n")
        return nil
      }
      guard wait(for: POLLIN) else { return nil }
      var bytes = [UInt8](repeating: 0, count: ControlCommand.lineLimit)
      let count = read(socket, &bytes, bytes.count)
      if count < 0, errno == EINTR || errno == EAGAIN { continue }
      guard count > 0 else {
        // A last line need not be ended.
        defer { pending = [] }
        return pending.isEmpty ? nil : pending
      }
      pending += bytes[..<count]
    }
  }

  /// Sends text; false if nobody reads it.
  func say(_ text: String) -> Bool {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { write(socket, $0.baseAddress, $0.count) }
      if count > 0 {
        rest = rest.dropFirst(count)
      } else if errno == EAGAIN {
        guard wait(for: POLLOUT) else { return false }
      } else if errno != EINTR {
        return false
      }
    }
    return true
  }
}

extension Machine {
  /// Starts answering commands. The machine is in its jail.
  func serveControl(_ listener: CInt) {
    Thread.start("control") { [self] in
      if configuration.isJailed { Thread.restrict(.control, requests: configuration.requests, listener: listener) }
      while true {
        let socket = osv_accept(listener)
        guard socket >= 0 else {
          // Too few descriptors, say: that may pass.
          usleep(100_000)
          continue
        }
        var conversation = Conversation(socket)
        while let line = conversation.next() {
          guard conversation.say(answer(line)) else { break }
        }
        close(socket)
      }
    }
  }

  /// One line's answer.
  private func answer(_ line: [UInt8]) -> String {
    switch ControlCommand(line: line, memoryByteCount: memory.byteCount) {
    case .memory:
      if !devices.balloon.report.isActive { Signals.wantBalloon() }
      return memoryReport(devices.balloon.freshReport())
    case .balloon(let size):
      devices.balloon.setWanted(byteCount: size)
      if !devices.balloon.report.isActive { Signals.wantBalloon() }
      return memoryReport(devices.balloon.report)
    case .network: return "\(networkReport)\n"
    case .refused(let sentence):
      return "{\"error\": \"\(StatusReport.escape(sentence))\"}\n"
    }
  }

  private func memoryReport(_ report: VirtioBalloon.Report) -> String {
    let names: [(String, UInt16)] = [
      ("total", VirtioBalloonStatistic.total), ("free", VirtioBalloonStatistic.free),
      ("available", VirtioBalloonStatistic.available), ("caches", VirtioBalloonStatistic.caches),
    ]
    let values = names.compactMap { name, tag in report.statistics[Int(tag)].map { "\"\(name)\": \($0)" } }
    let guest = values.isEmpty ? "null" : "{\(values.joined(separator: ", "))}"
    return """
      {"memory": \(memory.byteCount), "resident": \(osv_resident_bytes(memoryAccount)), \
      "balloon": {"wanted": \(report.wantedByteCount), "actual": \(report.actualByteCount)}, \
      "reported": \(report.reportedByteCount), "guest": \(guest)}

      """
  }
}

extension VirtioBalloon {
  /// The report with statistics of now, or with the last ones if the guest says nothing for a second.
  fileprivate func freshReport() -> Report {
    let before = report
    if before.isActive { requestStatistics() }
    // A driver that is just starting says something by itself.
    for _ in 0..<1000 {
      let now = report
      if now.statisticsNumber != before.statisticsNumber { return now }
      usleep(1000)
    }
    return report
  }
}
