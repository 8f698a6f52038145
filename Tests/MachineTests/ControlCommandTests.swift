// What may be asked on the control socket, and what is refused.
import Machine
import Testing

@Suite struct ControlCommandTests {
  private func command(_ text: String, memory: UInt64 = 128 << 20) -> ControlCommand {
    ControlCommand(line: Array(text.utf8), memoryByteCount: memory)
  }

  @Test func whatIsUnderstood() {
    #expect(command("memory") == .memory)
    #expect(command("network") == .network)
    #expect(command("  memory \r") == .memory)
    #expect(command("balloon 64M") == .balloon(64 << 20))
    #expect(command("balloon\t0m") == .balloon(0))
    #expect(command("balloon 112M") == .balloon(112 << 20))
    #expect(command("balloon 2G", memory: 4 << 30) == .balloon(2 << 30))
  }

  @Test(arguments: [
    "", "   ", "memory now", "network now", "balloon", "balloon M", "balloon 64", "balloon 64K", "balloon -1M",
    "balloon 1M 2M",
    "balloon 113M", "balloon 1G", "balloon 99999999999999999999999G", "Memory", "memory\u{0}", "exit", "\u{1b}[2J",
    "balloon 0x10M", "balloon \u{ff11}M",
  ]) func whatIsRefused(_ text: String) {
    guard case .refused(let sentence) = command(text) else { return #expect(Bool(false), "\(text) was understood") }
    #expect(!sentence.isEmpty && sentence.utf8.allSatisfy { $0 >= 0x20 })
  }

  @Test func theSmallestGuestKeepsAllItHas() {
    #expect(command("balloon 0M", memory: 16 << 20) == .balloon(0))
    guard case .refused = command("balloon 1M", memory: 16 << 20) else { return #expect(Bool(false)) }
    guard case .refused = command("balloon 1M", memory: 8 << 20) else { return #expect(Bool(false)) }
  }
}
