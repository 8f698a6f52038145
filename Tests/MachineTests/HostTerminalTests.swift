// What a guest may set of the host's terminal.
import Glibc
import Testing
import VirtioABI

@testable import Machine

@Suite struct HostTerminalTests {
  @Test func onlyWhatConcernsLinesAndCharactersIsTakenOver() {
    var now = HostTerminal.Modes()
    now.control = 0xbf
    now.discipline = 0
    var asked = HostTerminal.Modes()
    (asked.input, asked.output, asked.control, asked.local) = (.max, .max, .max, .max)
    asked.discipline = 7
    asked.characters = .init(repeating: 9)
    let lines = HostTerminal.sanitised(asked, over: now)
    #expect(lines.control == 0xbf && lines.discipline == 0)
    #expect(lines.local == 0xffff)  // EXTPROC is not among them.
    #expect(lines.characters[5] == 9 && lines.characters[6] == 9 && lines.characters[18] == 9)
    asked.local = ~UInt32(ICANON)
    let keys = HostTerminal.sanitised(asked, over: now)
    #expect(keys.local & UInt32(ICANON) == 0)
    // A read of the monitor's always ends with the first byte.
    #expect(keys.characters[6] == 1 && keys.characters[5] == 0 && keys.characters[4] == 9)
  }

  @Test func requestsAreThoseOfTheirNames() {
    #expect(HostTerminal.Request.getModes == UInt32(TCGETS) && HostTerminal.Request.setModes == UInt32(TCSETS))
    #expect(HostTerminal.Request.flush == UInt32(TCFLSH) && HostTerminal.Request.getGroup == UInt32(TIOCGPGRP))
    #expect(HostTerminal.Request.getSize == UInt32(TIOCGWINSZ) && HostTerminal.Request.readable == UInt32(FIONREAD))
    #expect(MemoryLayout<VirtioConsoleTerminal>.size == VirtioConsoleTerminal.byteCount)
    #expect(MemoryLayout<HostTerminal.Modes>.size == 36)
  }
}
