import Testing
import VirtioABI

@testable import Machine

/// A device that remembers what was written to it and behaves like a transport where the status is concerned.
private final class Recorder: BoardDevice {
  var writes: [(offset: UInt64, value: UInt64, byteCount: Int)] = []
  var notified: [Int] = []
  var status: UInt64 = 0
  var acceptsFeatures = true

  static func description(at place: (address: UInt64, firstVector: UInt32), setup: UInt64) -> BootDevice {
    var device = BootDevice()
    device.barPhysical = place.address
    device.firstVector = place.firstVector
    device.setupPhysical = setup
    device.queueCount = 2
    device.barByteCount = 0x4000
    device.commonOffset = 0x1000
    device.notifyOffset = 0x2000
    device.notifyMultiplier = 4
    device.queueSize = 64
    return device
  }

  func readRegister(_ offset: UInt64, byteCount: Int) -> UInt64 {
    offset == 0x1000 + DirectStart.deviceStatus ? status : offset
  }

  func writeRegister(_ offset: UInt64, _ value: UInt64, byteCount: Int) {
    writes.append((offset - 0x1000, value, byteCount))
    if offset == 0x1000 + DirectStart.deviceStatus {
      status = acceptsFeatures ? value : value & ~DirectStart.featuresOK
    }
  }

  func notify(queue: Int) { notified.append(queue) }
}

@Suite struct DeviceBoardTests {
  private let memory: GuestMemory
  private let board: DeviceBoard
  private let first = Recorder()
  private let second = Recorder()

  init() throws {
    memory = try GuestMemory(byteCount: 2 << 20)
    board = DeviceBoard(memory: memory)
    board.add(first, Recorder.description(at: try board.reserve(queueCount: 2), setup: 0x1000))
    board.add(second, Recorder.description(at: try board.reserve(queueCount: 2), setup: 0x2000))
  }

  @Test func devicesHaveTheirOwnPlacesAndVectors() {
    let (a, b) = (board.descriptions[0], board.descriptions[1])
    #expect(a.barPhysical == 0xd000_0000 && b.barPhysical == 0xd001_0000)
    #expect(a.firstVector == BootVectors.firstDevice && b.firstVector == BootVectors.firstDevice + 3)
    #expect(b.setupPhysical == 0x2000)
  }

  @Test func accessesReachTheirDevice() {
    #expect(board.read(0xd001_0004, byteCount: 4) == 4)
    #expect(board.read(0xd000_4000, byteCount: 4) == .max)
    #expect(board.read(0xd002_0000, byteCount: 4) == .max)
    #expect(board.read(0x1000, byteCount: 4) == .max)
    #expect(!board.write(0xd001_1016, 1, byteCount: 2))
    #expect(second.writes.count == 1 && first.writes.isEmpty)
    #expect(board.write(0xd000_2004, 1, byteCount: 2))
    #expect(board.write(0xd000_2000, 9, byteCount: 2))
    #expect(first.notified == [1])
  }

  @Test func oneWriteStartsADevice() throws {
    var setup = BootDeviceSetup()
    setup.features = 0x1_2000_0001
    setup.queueCount = 2
    setup.queues[1].size = 32
    setup.queues[1].descriptors = 0x1_0000_3000
    setup.queues[1].available = 0x4000
    setup.queues[1].used = 0x5000
    let record = try #require(memory.pointer(at: 0x1000, count: 4096))
    record.storeBytes(of: setup, as: BootDeviceSetup.self)
    #expect(!board.write(0xd000_1014, 0xf, byteCount: 1))
    #expect(first.status == 0xf)
    #expect(record.load(as: BootDeviceSetup.self).status == 0xf)
    func values(_ offset: UInt64) -> [UInt64] { first.writes.filter { $0.offset == offset }.map(\.value) }
    #expect(values(DirectStart.driverFeature) == [0x2000_0001, 1])
    #expect(values(DirectStart.queueSelect) == [1])
    #expect(values(DirectStart.queueSize) == [32])
    #expect(values(DirectStart.queueDescriptors) == [0x3000] && values(DirectStart.queueDescriptors + 4) == [1])
    #expect(values(DirectStart.queueEnable) == [1])
    #expect(values(DirectStart.deviceStatus) == [1, 3, 11, 15])
  }

  @Test func refusedSetupsSaySo() throws {
    let record = try #require(memory.pointer(at: 0x1000, count: 4096))
    var setup = BootDeviceSetup()
    setup.queueCount = 3
    record.storeBytes(of: setup, as: BootDeviceSetup.self)
    _ = board.write(0xd000_1014, 0xf, byteCount: 1)
    #expect(record.load(as: BootDeviceSetup.self).status & 4 == 0)
    #expect(!first.writes.contains { $0.offset == DirectStart.queueEnable })
    second.acceptsFeatures = false
    _ = board.write(0xd001_1014, 0xf, byteCount: 1)
    #expect(second.status & 4 == 0)
  }

  @Test func driversMayWriteRegistersThemselves() {
    for value: UInt64 in [1, 3, 11, 15] { _ = board.write(0xd000_1014, value, byteCount: 1) }
    #expect(first.writes.map(\.value) == [1, 3, 11, 15])
  }
}
