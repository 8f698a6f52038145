// Our drivers on one side, our devices on the other, and the tests' physical memory between them.
import Base
import Devices
import Glibc
import Memory
import Pages
import Platform
import VirtioABI
import VirtioPCI
import VirtioQueue

/// A function's registers for the guest's side, with a count of what would be exits.
final class BenchRegisters: HostedRegisters, @unchecked Sendable {
  let function: PCIFunction
  let exits = Atomic<Int>(0)
  /// Notifications among them.
  let notifications = Atomic<Int>(0)
  /// Notifications are left to nobody: the device is deaf.
  let isDeaf = Atomic<Bool>(false)

  init(_ function: PCIFunction) { self.function = function }

  func readRegister(at offset: UInt64, count: Int) -> UInt64 {
    exits.add(1, ordering: .relaxed)
    return function.readBAR(at: offset, count: count)
  }
  func writeRegister(at offset: UInt64, count: Int, _ value: UInt64) {
    exits.add(1, ordering: .relaxed)
    if offset >= 0x1000 { notifications.add(1, ordering: .relaxed) }
    if offset >= 0x1000 && isDeaf.load(ordering: .relaxed) { return }
    function.writeBAR(at: offset, count: count, value)
  }
}

/// Interrupt vectors for the benches, each its own; there are enough for all that live at a time.
private let nextVector = Atomic<UInt32>(40)

private func takeVectors(_ count: UInt32) -> UInt32 {
  while true {
    let next = nextVector.load(ordering: .relaxed)
    let first = next + count > 250 ? 40 : next
    if nextVector.compareExchange(expected: next, desired: first + count, ordering: .relaxed).exchanged { return first }
  }
}

/// One device in its place, interrupts going straight to the handlers.
struct Bench {
  let function: PCIFunction
  let registers: BenchRegisters
  let driver: VirtioFunction
  let firstVector: UInt32
  let interrupts: InterruptCount

  final class InterruptCount: Sendable {
    let value = Atomic<Int>(0)
  }

  /// - Parameter sharesVector: all queues have one vector, as on a device that has few.
  init(_ device: any VirtioDevice, sharesVector: Bool = false) {
    HostedArena.prepare()
    let map = GuestMemoryMap()
    map.add(
      start: GuestAddress(0), byteCount: HostedArena.managedByteCount, host: LinearMap.pointer(PhysicalAddress(0)))
    let count = UInt32(device.queueCount) + 1
    let firstVector = takeVectors(count)
    self.firstVector = firstVector
    let interrupts = InterruptCount()
    self.interrupts = interrupts
    function = PCIFunction(device: device, memory: map) { message in
      interrupts.value.add(1, ordering: .relaxed)
      InterruptTable.dispatch(message.data)
    }
    function.place(at: 0xd000_0000)
    function.presetVectors((0..<count).map { MSIMessage(vector: firstVector + $0, cpu: 0) })
    registers = BenchRegisters(function)
    var description = function.description(firstVector: firstVector)
    if sharesVector { description.vectorCount = 2 }
    driver = VirtioFunction(description, registers: registers)
  }

  var exits: Int { registers.exits.load(ordering: .relaxed) }
}

/// A pipe whose ends close with it.
final class TestPipe: Sendable {
  let reader: Int32
  let writer: Int32
  private let isWriterOpen = Atomic<Bool>(true)
  private let isReaderOpen = Atomic<Bool>(true)

  init() {
    var ends: [Int32] = [0, 0]
    precondition(pipe(&ends) == 0)
    (reader, writer) = (ends[0], ends[1])
  }
  deinit {
    closeWriter()
    closeReader()
  }

  func closeWriter() { if isWriterOpen.exchange(false, ordering: .relaxed) { close(writer) } }
  func closeReader() { if isReaderOpen.exchange(false, ordering: .relaxed) { close(reader) } }

  func put(_ bytes: [UInt8]) {
    var done = 0
    while done < bytes.count {
      let count = bytes.withUnsafeBytes { write(writer, $0.baseAddress! + done, bytes.count - done) }
      precondition(count > 0)
      done += count
    }
  }
  /// What is in it, up to a limit; waits for something, but not for ever.
  func take(_ limit: Int) -> [UInt8] {
    var wait = pollfd(fd: reader, events: Int16(POLLIN), revents: 0)
    guard poll(&wait, 1, 20_000) > 0 else { return [] }
    var bytes = [UInt8](repeating: 0, count: limit)
    let count = bytes.withUnsafeMutableBytes { read(reader, $0.baseAddress, limit) }
    return Array(bytes.prefix(max(count, 0)))
  }
  /// Bytes that wait in it.
  var waiting: Int {
    var count: Int32 = 0
    _ = ioctl(reader, UInt(FIONREAD), &count)
    return Int(count)
  }
}

/// A thread that runs a closure; join it.
final class TestThread: @unchecked Sendable {
  private var thread = pthread_t()
  private let body: () -> Void

  init(_ body: @escaping () -> Void) {
    self.body = body
    pthread_create(
      &thread, nil,
      { argument in
        Unmanaged<TestThread>.fromOpaque(argument!).takeUnretainedValue().body()
        return nil
      }, Unmanaged.passUnretained(self).toOpaque())
  }
  func join() { pthread_join(thread, nil) }
}

extension ConsoleDriver {
  /// Writes bytes; gives the count or the error.
  func put(_ port: Port, _ bytes: [UInt8], nonBlocking: Bool = false) -> Result<Int, Errno> {
    bytes.withUnsafeBytes { buffer in
      var transfer = Transfer(kernelSource: buffer)
      do throws(Errno) { return .success(try write(port, from: &transfer, nonBlocking: nonBlocking)) } catch {
        return .failure(error)
      }
    }
  }

  /// Reads up to `limit` bytes.
  func take(_ limit: Int, from port: Port = .standard, nonBlocking: Bool = false) -> Result<[UInt8], Errno> {
    var bytes = [UInt8](repeating: 0, count: limit)
    return bytes.withUnsafeMutableBytes { buffer in
      var transfer = Transfer(kernel: buffer)
      do throws(Errno) {
        let count = try read(port, into: &transfer, nonBlocking: nonBlocking)
        return .success(Array(buffer.prefix(count)))
      } catch { return .failure(error) }
    }
  }
}

/// Waits for something that another thread does; false after 5 s.
func eventually(_ condition: () -> Bool) -> Bool {
  for _ in 0..<5000 {
    if condition() { return true }
    usleep(1000)
  }
  return false
}
