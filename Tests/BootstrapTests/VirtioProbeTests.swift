// Our own devices, found on a PCI bus as any monitor has it, and described as osv-run itself describes them.
import Synchronization
import Testing
import VirtioABI
import VirtioEntropy
import VirtioPCI
import VirtioQueue

@testable import Bootstrap
@testable import Machine

@Suite struct VirtioProbeTests {
  private func function(_ device: any VirtioDevice, at address: UInt64, _ messages: Messages) -> PCIFunction {
    let function = PCIFunction(device: device, memory: GuestMemoryMap()) { messages.add($0) }
    function.place(at: address)
    return function
  }

  private final class Messages: Sendable {
    let all = Mutex<[MSIMessage]>([])
    func add(_ message: MSIMessage) { all.withLock { $0.append(message) } }
  }

  @Test func devicesAreDescribed() throws {
    let machine = ModelMachine()
    let messages = Messages()
    let first = function(VirtioEntropy(), at: 0xd000_0000, messages)
    let second = function(VirtioEntropy(), at: 0xd001_0000, messages)
    machine.bus = PCIHost([first, second])
    machine.putStartInfo(commandLine: "x")
    let told = Told(machine, try machine.run())
    #expect(told.devices.count == 2)
    for (index, (device, real)) in zip(told.devices, [first, second]).enumerated() {
      let vector = BootVectors.firstDevice + UInt32(index) * 2
      let wanted = real.description(firstVector: vector)
      #expect(device.deviceID == VirtioDeviceID.entropy && device.queueCount == wanted.queueCount)
      #expect(device.features == wanted.features && device.queueSize == wanted.queueSize)
      #expect(device.firstVector == vector && device.setupPhysical == 0)
      // The window may begin behind the BAR's start; the places are the same.
      #expect(device.barPhysical + UInt64(device.commonOffset) == wanted.barPhysical + UInt64(wanted.commonOffset))
      #expect(device.barPhysical + UInt64(device.notifyOffset) == wanted.barPhysical + UInt64(wanted.notifyOffset))
      #expect(device.notifyMultiplier == wanted.notifyMultiplier)
      // Memory and bus mastering are on.
      #expect(real.readConfiguration(at: 4, count: 2) & 6 == 6)
    }
  }

  @Test func interruptsAreJoined() throws {
    let machine = ModelMachine()
    let messages = Messages()
    let function = function(VirtioEntropy(), at: 0xd000_0000, messages)
    machine.bus = PCIHost([function])
    machine.putStartInfo(commandLine: "x")
    let device = try #require(Told(machine, try machine.run()).devices.first)
    // As the driver does it when it starts the device by its registers.
    func common(_ offset: Int) -> UInt64 { device.barPhysical + UInt64(device.commonOffset) + UInt64(offset) }
    machine.writeRegister(common(VirtioPCICommon.configurationVector), count: 2, device.queueCount)
    #expect(machine.readRegister(common(VirtioPCICommon.configurationVector), count: 2) == device.queueCount)
    machine.writeRegister(common(VirtioPCICommon.queueSelect), count: 2, 0)
    machine.writeRegister(common(VirtioPCICommon.queueVector), count: 2, 0)
    #expect(machine.readRegister(common(VirtioPCICommon.queueVector), count: 2) == 0)
    machine.writeRegister(common(VirtioPCICommon.driverFeatureSelect), count: 4, 1)
    machine.writeRegister(common(VirtioPCICommon.driverFeature), count: 4, 1)
    for status: UInt32 in [1, 3, 11, 15] { machine.writeRegister(common(VirtioPCICommon.status), count: 1, status) }
    function.configurationChanged()
    #expect(
      messages.all.withLock { $0 } == [MSIMessage(vector: BootVectors.firstDevice + device.queueCount, cpu: 0)])
  }

  @Test func whatCannotBeDrivenIsLeftAlone() throws {
    let machine = ModelMachine()
    let messages = Messages()
    let function = function(VirtioEntropy(), at: 0xd000_0000, messages)
    machine.bus = PCIHost([function])
    machine.putStartInfo(commandLine: "x")
    // Its BAR is nowhere.
    function.writeConfiguration(at: 0x10, count: 4, 0)
    #expect(Told(machine, try machine.run()).devices.isEmpty)
    #expect(machine.said == ["a virtio device is left alone: it has no registers of virtio 1.0 in memory below 4 GiB"])
  }
}
