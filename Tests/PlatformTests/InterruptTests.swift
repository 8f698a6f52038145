// Masking and preemption as upper modules see them, on the host's stand-ins.
import Base
import Testing
import VirtioABI

@testable import Platform

// The table of upcalls is one for the process.
@Suite(.serialized) struct InterruptTests {
  @Test func maskingNests() {
    #expect(Interrupts.areEnabled)
    let outer = Interrupts.disable()
    let inner = Interrupts.disable()
    #expect(outer && !inner)
    Interrupts.restore(inner)
    #expect(!Interrupts.areEnabled)
    Interrupts.restore(outer)
    #expect(Interrupts.areEnabled)
  }

  @Test func preemptionIsLookedAtWhenTheLastIsEnabled() {
    Upcalls.preempt = {
      InterruptTests.preemptions += 1
      Preemption.isRequested = false
    }
    defer { Upcalls.preempt = nil }
    InterruptTests.preemptions = 0
    Preemption.disable()
    Preemption.disable()
    Preemption.isRequested = true
    Preemption.enable()
    #expect(InterruptTests.preemptions == 0)
    Preemption.enable()
    #expect(InterruptTests.preemptions == 1)
    #expect(Preemption.count == 0 && !Preemption.isRequested && Interrupts.areEnabled)
  }

  @Test func preemptionWaitsForInterrupts() {
    Upcalls.preempt = {
      InterruptTests.preemptions += 1
      Preemption.isRequested = false
    }
    defer { Upcalls.preempt = nil }
    InterruptTests.preemptions = 0
    let wasEnabled = Interrupts.disable()
    Preemption.disable()
    Preemption.isRequested = true
    Preemption.enable()
    #expect(InterruptTests.preemptions == 0)
    Interrupts.restore(wasEnabled)
    Preemption.check()
    #expect(InterruptTests.preemptions == 1)
  }

  nonisolated(unsafe) static var preemptions: Int = 0

  @Test func handlersGetTheirContext() {
    var served: UInt64 = 0
    withUnsafeMutablePointer(to: &served) { served in
      InterruptTable.register(0x45, handler: { $0!.assumingMemoryBound(to: UInt64.self).pointee += 1 }, context: served)
      let before = InterruptTable.count(0x45)
      InterruptTable.dispatch(0x45)
      InterruptTable.dispatch(0x45)
      InterruptTable.unregister(0x45)
      InterruptTable.dispatch(0x45)
      #expect(InterruptTable.count(0x45) - before == 3)
    }
    #expect(served == 2)
  }
}
