import Synchronization
import Testing
import VirtioABI
import VirtioEntropy
import VirtioPCI
import VirtioQueue

@testable import Machine

/// One write against the real transport: the entropy device, started from its record, fills a buffer.
@Suite struct DirectStartTests {
  @Test func theRealTransportStarts() throws {
    let memory = try GuestMemory(byteCount: 2 << 20)
    let map = GuestMemoryMap()
    map.add(start: GuestAddress(0), byteCount: 2 << 20, host: memory.ram[0].host)
    let messages = Mutex<[MSIMessage]>([])
    let function = PCIFunction(device: VirtioEntropy(), memory: map) { message in
      messages.withLock { $0.append(message) }
    }
    let board = DeviceBoard(memory: memory)
    let place = try board.reserve(queueCount: 1)
    function.place(at: place.address)
    function.presetVectors([MSIMessage(vector: 0x30, cpu: 0), MSIMessage(vector: 0x31, cpu: 0)])
    var description = function.description(firstVector: place.firstVector)
    description.setupPhysical = 0x1000
    board.add(function, description)

    let host = memory.ram[0].host
    var setup = BootDeviceSetup()
    setup.features = 1 << 32
    setup.queueCount = 1
    setup.queues[0].size = 4
    setup.queues[0].descriptors = 0x2000
    setup.queues[0].available = 0x3000
    setup.queues[0].used = 0x4000
    (host + 0x1000).storeBytes(of: setup, as: BootDeviceSetup.self)
    // One writable buffer of 64 bytes at 0x5000, made available before the start.
    (host + 0x2000).storeBytes(of: 0x5000, as: UInt64.self)
    (host + 0x2008).storeBytes(of: 64, as: UInt32.self)
    (host + 0x200c).storeBytes(of: 2, as: UInt16.self)
    (host + 0x3002).storeBytes(of: 1, as: UInt16.self)

    let status = description.barPhysical + UInt64(description.commonOffset) + DirectStart.deviceStatus
    #expect(!board.write(status, 0xf, byteCount: 1))
    #expect((host + 0x1000).load(as: BootDeviceSetup.self).status == 0xf)
    #expect((host + 0x4002).load(as: UInt16.self) == 1)
    #expect((host + 0x4008).load(as: UInt32.self) == 64)
    #expect((0..<64).contains { (host + 0x5000 + $0).load(as: UInt8.self) != 0 })
    #expect(messages.withLock { $0 } == [MSIMessage(vector: 0x30, cpu: 0)])

    // The next buffer by a notification.
    (host + 0x3002).storeBytes(of: 2, as: UInt16.self)
    #expect(board.write(description.barPhysical + UInt64(description.notifyOffset), 0, byteCount: 2))
    #expect((host + 0x4002).load(as: UInt16.self) == 2)
  }
}
