// Sets, queues and frames of signals.
import Testing

@testable import Linux

@Suite struct SignalTests {
  @Test func layoutsMatchTheKernelABI() {
    #expect(MemoryLayout<SignalAction>.size == 32)
    #expect(MemoryLayout<SignalInformation>.size == 32)
    #expect(MemoryLayout<SignalStack>.size == 24)
    #expect(MemoryLayout<SignalContext>.size == 256)
    #expect(MemoryLayout<SignalFrame>.size == 440)
    #expect(MemoryLayout<SignalFrame>.offset(of: \.context) == 48)
    #expect(MemoryLayout<SignalFrame>.offset(of: \.mask) == 304)
    #expect(MemoryLayout<SignalFrame>.offset(of: \.information) == 312)
    #expect(MemoryLayout<SignalContext>.offset(of: \.rip) == 128)
    #expect(MemoryLayout<SignalContext>.offset(of: \.extendedState) == 184)
  }

  @Test func synchronousSignalsComeFirst() {
    var set = SignalSet()
    set.insert(.hangup)
    set.insert(.segmentation)
    #expect(set.first == .segmentation)
    set.remove(.segmentation)
    #expect(set.first == .hangup)
  }

  @Test func standardSignalsAreRememberedOnceAndRealTimeOnesQueue() throws {
    var pending = PendingSignals()
    var count = SignalCount()
    let realTime = try #require(Signal(40))
    for sender in 1...3 {
      let first = pending.add(.hangup, SignalInformation(.hangup, code: 0, sender: Int32(sender)), &count)
      #expect(first == (sender == 1 ? .queued : .alreadyPending))
      let second = pending.add(realTime, SignalInformation(realTime, code: -1, sender: Int32(sender)), &count)
      #expect(second == .queued)
    }
    #expect(count.used == 4)
    let hangup = pending.take(.hangup, &count).information.first
    #expect(hangup == 1)
    let isHangupLeft = pending.set.contains(.hangup)
    #expect(!isHangupLeft)
    for sender in 1...3 {
      let isPending = pending.set.contains(realTime)
      let taken = pending.take(realTime, &count).information.first
      #expect(isPending && taken == UInt64(sender))
    }
    let isEmpty = pending.set.isEmpty
    #expect(isEmpty && count.used == 0)
  }

  @Test func theLimitRefusesOnlyWhatMayBeRefused() throws {
    var pending = PendingSignals()
    var count = SignalCount(limit: 100)
    let realTime = try #require(Signal(40))
    let other = try #require(Signal(41))
    for _ in 0..<100 {
      let result = pending.add(realTime, SignalInformation(realTime, code: -1), &count)
      #expect(result == .queued)
    }
    // Of sigqueue; kill's is pending without a record; the kernel's needs no room, sigqueue's standard signal loses its value.
    let refused = pending.add(realTime, SignalInformation(realTime, code: -1), &count)
    #expect(refused == .refused)
    let killed = pending.add(other, SignalInformation(other, code: 0), &count)
    #expect(killed == .queued && count.used == 100)
    let fault = pending.add(.segmentation, SignalInformation(.segmentation, code: 1, address: 77), &count)
    #expect(fault == .queued && count.used == 101)
    var valued = SignalInformation(.interrupt, code: -1)
    valued.second = 5
    let interrupt = pending.add(.interrupt, valued, &count)
    #expect(interrupt == .queued)
    let address = pending.take(.segmentation, &count).information.first
    #expect(address == 77)
    let value = pending.take(.interrupt, &count).information
    #expect(value.number == 2 && value.second == 0 && value.code == 0)
    let bare = pending.take(other, &count).information.number
    #expect(bare == 41 && count.used == 100)
    pending.discard(realTime, &count)
    let isEmpty = pending.set.isEmpty
    #expect(isEmpty && count.used == 0)
  }

  @Test func aTimersRecordGoesBackToIt() throws {
    var pending = PendingSignals()
    var count = SignalCount(limit: 0)
    let timer = UnsafeMutableRawPointer.allocate(byteCount: 16, alignment: 16)
    defer { timer.deallocate() }
    // Only an address here; nothing asks the timer.
    let owner = Unmanaged<ProcessTimer>.fromOpaque(timer)
    let record = try #require(QueuedSignalPointer.make(SignalInformation(.alarm, code: -2), timer: owner))
    defer { record.discard() }
    let plain = pending.add(.alarm, SignalInformation(.alarm, code: 0), &count)
    #expect(plain == .queued)
    // A timer's signal waits beside another one of its number.
    pending.add(.alarm, record: record)
    pending.remove(record, &count)
    let isOtherLeft = pending.set.contains(.alarm)
    #expect(isOtherLeft && !record.pointee.isQueued)
    pending.add(.alarm, record: record)
    let first = pending.take(.alarm, &count)
    #expect(first.timer == nil && first.information.code == 0)
    let second = pending.take(.alarm, &count)
    #expect(second.timer != nil && second.information.code == -2)
    let isEmpty = pending.set.isEmpty
    #expect(isEmpty && count.used == 0 && !record.pointee.isQueued)
    pending.add(.alarm, record: record)
    pending.remove(record, &count)
    let isGone = pending.set.isEmpty
    #expect(isGone)
    pending.add(.alarm, record: record)
    pending.drop(&count)
    #expect(!record.pointee.isQueued)
  }

  @Test func framesAreAlignedAndBelowTheRedZone() throws {
    for offset in 0..<64 {
      let pointer = 0x7000_0000 + UInt64(offset)
      let place = try #require(SignalFrame.place(stackPointer: pointer, alternate: nil, extendedByteCount: 2696))
      #expect(place.frame % 16 == 8)
      #expect(place.extendedState % 64 == 0)
      #expect(place.frame + 440 <= place.extendedState)
      #expect(place.extendedState + 2700 <= pointer - 128)
    }
    #expect(SignalFrame.place(stackPointer: 100, alternate: nil, extendedByteCount: 576) == nil)
    #expect(SignalFrame.place(stackPointer: 2000, alternate: nil, extendedByteCount: 2696) == nil)
  }

  @Test func floatingPointExceptionsHaveTheirCodes() {
    let image = UnsafeMutableRawBufferPointer.allocate(byteCount: 512, alignment: 64)
    defer { image.deallocate() }
    let expected: [(flag: UInt32, code: Int32?)] = [
      (0x01, 7), (0x04, 3), (0x08, 4), (0x10, 5), (0x02, 5), (0x20, 6), (0x3f, 7), (0x3c, 3), (0, nil),
    ]
    for (flag, code) in expected {
      image.initializeMemory(as: UInt8.self, repeating: 0)
      // What is flagged and masked does not count: the others are flagged too.
      let masks = ~flag & 0x3f
      image.storeBytes(of: UInt16(masks), as: UInt16.self)
      image.storeBytes(of: UInt16(0x3f), toByteOffset: 2, as: UInt16.self)
      image.storeBytes(of: masks << 7 | 0x3f, toByteOffset: 24, as: UInt32.self)
      for isVector in [false, true] {
        #expect(SignalExtendedState.exceptionCode(UnsafeRawBufferPointer(image), isVector: isVector) == code)
      }
    }
  }

  @Test func onlyWhatTheSealVouchesForIsKept() {
    let count = 832
    let image = UnsafeMutableRawBufferPointer.allocate(byteCount: count + 4, alignment: 64)
    defer { image.deallocate() }
    func components(_ change: (UnsafeMutableRawBufferPointer) -> Void) -> UInt64 {
      image.initializeMemory(as: UInt8.self, repeating: 0)
      image.storeBytes(of: 7, toByteOffset: 512, as: UInt64.self)
      SignalExtendedState.seal(image, byteCount: count, mask: 7)
      change(image)
      SignalExtendedState.keepWhatIsSealed(image, byteCount: count)
      return image.load(fromByteOffset: 512, as: UInt64.self)
    }
    #expect(components { _ in } == 7)
    #expect(components { $0.storeBytes(of: 5, toByteOffset: 472, as: UInt64.self) } == 5)
    #expect(components { $0.storeBytes(of: 0, toByteOffset: 464, as: UInt32.self) } == 3, "no first word")
    #expect(components { $0.storeBytes(of: 0, toByteOffset: count, as: UInt32.self) } == 3, "no last word")
    #expect(components { $0.storeBytes(of: 100, toByteOffset: 480, as: UInt32.self) } == 3, "another size")
    #expect(components { $0.storeBytes(of: 100, toByteOffset: 468, as: UInt32.self) } == 3, "an impossible size")
    let cleared = components {
      $0.storeBytes(of: 0, toByteOffset: 464, as: UInt32.self)
      $0.storeBytes(of: 9, toByteOffset: 560, as: UInt64.self)
    }
    #expect(cleared == 3 && image.load(fromByteOffset: 560, as: UInt64.self) == 0, "what the header held is gone")
  }

  @Test func hostileExtendedStateIsRefused() {
    let image = UnsafeMutableRawBufferPointer.allocate(byteCount: 836, alignment: 64)
    defer { image.deallocate() }
    image.initializeMemory(as: UInt8.self, repeating: 0)
    image.storeBytes(of: UInt32.max, toByteOffset: 24, as: UInt32.self)
    image.storeBytes(of: 7, toByteOffset: 512, as: UInt64.self)
    #expect(SignalExtendedState.sanitise(image, mask: 7))
    #expect(image.load(fromByteOffset: 24, as: UInt32.self) == 0xffff)
    #expect(!SignalExtendedState.sanitise(image, mask: 3))
    image.storeBytes(of: 1 << 63, toByteOffset: 520, as: UInt64.self)
    #expect(!SignalExtendedState.sanitise(image, mask: 7))
  }
}
