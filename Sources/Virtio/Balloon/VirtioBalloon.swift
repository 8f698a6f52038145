// The balloon device (virtio 1.2, 5.5): memory that the guest does without goes back to the host.
//
// Pages that the guest puts into the balloon, and free ones that it reports, are given to the host at once; when the guest
// touches them again they are fresh and zero. So a deflated page needs nothing of us, and the guest may use it before it says so.
// The guest is believed in what it says about its own memory, and in nothing else: numbers are checked against the map, and a request
// has a largest size.
//
// Locks: that of a queue, then `state`, a leaf.
import Glibc
import Synchronization
import VirtioABI
import VirtioPCI
import VirtioQueue

// SAFETY: chains, numbers and `holdsStatistics` are touched with their queue's lock, the rest with `state`'s.
/// A virtio memory balloon.
public final class VirtioBalloon: VirtioDevice, @unchecked Sendable {
  /// Most page numbers in one request: 16 MiB.
  public static let requestLimit = 4096
  /// Most bytes of statistics that are looked at.
  static let statisticsLimit = 1024

  /// What is known of the guest's memory.
  public struct Report: Sendable {
    /// Bytes that the host wants in the balloon.
    public var wantedByteCount: UInt64 = 0
    /// Bytes that are in it, as the guest says.
    public var actualByteCount: UInt64 = 0
    /// Bytes of free memory that the guest has reported so far; what was reported again counts again.
    public var reportedByteCount: UInt64 = 0
    /// Whether a driver is there.
    public var isActive = false
    /// The guest's last statistics, by tag; nil where it has said nothing.
    public var statistics = [UInt64?](repeating: nil, count: Int(VirtioBalloonStatistic.tagCount))
    /// How often the guest has sent statistics.
    public var statisticsNumber = 0
  }

  private struct State {
    var configuration = VirtioBalloonConfiguration()
    var features: UInt64 = 0
    var host: (any VirtioDeviceHost)?
    var report = Report()
  }

  private let memory: GuestMemoryMap
  private let state = Mutex(State())
  // Each guarded by its queue's lock.
  private var chains: [DescriptorChain] = []
  private var numbers: [UInt32] = []
  private var holdsStatistics = false

  /// An empty balloon in a guest with this memory.
  public init(memory: GuestMemoryMap) { self.memory = memory }

  // MARK: For the host

  /// Asks the guest to have so many bytes (rounded down to pages) in the balloon. It may take its time, or not do it at all.
  public func setWanted(byteCount: UInt64) {
    let host = state.withLock { state in
      state.configuration.wantedPages = UInt32(clamping: byteCount >> VirtioBalloonABI.pageShift)
      return state.host
    }
    host?.configurationChanged()
  }

  /// What is known now.
  public var report: Report {
    state.withLock { state in
      var report = state.report
      report.wantedByteCount = UInt64(state.configuration.wantedPages) << VirtioBalloonABI.pageShift
      report.actualByteCount = UInt64(state.configuration.actualPages) << VirtioBalloonABI.pageShift
      report.isActive = state.host != nil
      return report
    }
  }

  /// Asks the guest for newer statistics; `statisticsNumber` will be another one when they have come.
  public func requestStatistics() {
    guard let host = state.withLock({ $0.host }) else { return }
    host.withQueue(VirtioBalloonABI.statisticsQueue) { queue in
      guard holdsStatistics else { return }
      holdsStatistics = false
      queue.push(chains[VirtioBalloonABI.statisticsQueue])
      // A driver may have put another buffer behind it.
      takeStatistics(queue)
    }
  }

  // MARK: VirtioDevice

  /// See `VirtioDevice`.
  public var deviceID: UInt32 { VirtioDeviceID.balloon }
  /// See `VirtioDevice`: not in any other class.
  public var pciClass: UInt32 { 0xff_0000 }
  /// See `VirtioDevice`.
  public var features: UInt64 {
    VirtioBalloonABI.statistics | VirtioBalloonABI.deflateOnOutOfMemory | VirtioBalloonABI.pagePoison
      | VirtioBalloonABI.pageReporting
  }
  /// See `VirtioDevice`.
  public var queueCount: Int { VirtioBalloonABI.queueCount }
  /// See `VirtioDevice`: Linux reports up to 32 pieces at a time.
  public var queueSize: UInt16 { 32 }

  /// See `VirtioDevice`.
  public func readConfiguration(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) {
    let configuration = state.withLock { $0.configuration }
    withUnsafeBytes(of: configuration) { bytes in
      for index in buffer.indices { buffer[index] = offset + index < bytes.count ? bytes[offset + index] : 0 }
    }
  }

  /// See `VirtioDevice`. The driver says how many pages are in the balloon, and what free ones contain.
  public func writeConfiguration(at offset: Int, from bytes: UnsafeRawBufferPointer) {
    state.withLock { state in
      let wanted = state.configuration.wantedPages
      let command = state.configuration.hintCommand
      withUnsafeMutableBytes(of: &state.configuration) { target in
        for index in bytes.indices where offset + index < target.count { target[offset + index] = bytes[index] }
      }
      state.configuration.wantedPages = wanted
      state.configuration.hintCommand = command
    }
  }

  /// See `VirtioDevice`.
  public func activate(host: any VirtioDeviceHost, features: UInt64) {
    // Not before a guest has a driver: most end sooner.
    if chains.isEmpty { for _ in 0..<queueCount { chains.append(DescriptorChain()) } }
    numbers.reserveCapacity(Self.requestLimit)
    state.withLock { state in
      state.host = host
      state.features = features
    }
  }

  /// See `VirtioDevice`. What was in the balloon is not the next driver's.
  public func reset() {
    holdsStatistics = false
    state.withLock { state in
      state.host = nil
      state.configuration.actualPages = 0
      state.configuration.poison = 0
      state.report.statistics = [UInt64?](repeating: nil, count: Int(VirtioBalloonStatistic.tagCount))
    }
  }

  /// See `VirtioDevice`.
  public func serve(queue index: Int, _ queue: SplitQueue) {
    if index == VirtioBalloonABI.statisticsQueue { return takeStatistics(queue) }
    let chain = chains[index]
    repeat {
      while queue.pop(into: chain) {
        let fault: SplitQueue.Fault? =
          switch index {
          case VirtioBalloonABI.inflate: takePages(chain, discards: true)
          case VirtioBalloonABI.deflate: takePages(chain, discards: false)
          // Linux numbers the queues that are there without gaps, and there is none for hints: its reports come in that one.
          default: takeReport(chain)
          }
        if let fault { return queue.fail(fault) }
        queue.push(chain)
      }
    } while queue.rearm()
  }

  // MARK: Pages

  /// Numbers of pages that go into the balloon or leave it.
  private func takePages(_ chain: DescriptorChain, discards: Bool) -> SplitQueue.Fault? {
    let byteCount = chain.readableByteCount
    guard byteCount > 0, byteCount % 4 == 0, byteCount <= 4 * Self.requestLimit, chain.writableByteCount == 0 else {
      return .badRequest
    }
    // The two queues may be served at the same time, and what leaves the balloon needs nothing.
    guard discards else { return nil }
    numbers.removeAll(keepingCapacity: true)
    numbers.append(contentsOf: repeatElement(0, count: byteCount / 4))
    numbers.withUnsafeMutableBytes { _ = chain.read(at: 0, into: $0) }
    // Runs are given back as one, and a driver need not keep pages in order.
    numbers.sort { UInt32(littleEndian: $0) < UInt32(littleEndian: $1) }
    var start = UInt32(littleEndian: numbers[0])
    var end = UInt64(start) + 1
    for number in numbers.dropFirst() {
      let number = UInt32(littleEndian: number)
      if UInt64(number) <= end {
        end = max(end, UInt64(number) + 1)
      } else {
        if let fault = discardPages(start, end) { return fault }
        (start, end) = (number, UInt64(number) + 1)
      }
    }
    return discardPages(start, end)
  }

  private func discardPages(_ start: UInt32, _ end: UInt64) -> SplitQueue.Fault? {
    var address = GuestAddress(UInt64(start) << VirtioBalloonABI.pageShift)
    var left = (end - UInt64(start)) << VirtioBalloonABI.pageShift
    while left > 0 {
      guard let piece = memory.piece(at: address, limit: left, forWriting: true) else { return .outsideMemory }
      discard(piece)
      address.rawValue += UInt64(piece.count)
      left -= UInt64(piece.count)
    }
    return nil
  }

  /// Free memory of the guest's.
  private func takeReport(_ chain: DescriptorChain) -> SplitQueue.Fault? {
    let (features, poison) = state.withLock { ($0.features, $0.configuration.poison) }
    guard features & VirtioBalloonABI.pageReporting != 0, chain.readableByteCount == 0, chain.writableByteCount > 0
    else { return .badRequest }
    // Fresh pages are zero: memory that has to contain something else when it is used again stays as it is.
    if features & VirtioBalloonABI.pagePoison != 0, poison != 0 { return nil }
    for piece in chain.writable {
      // SAFETY: guest memory that the queue has checked; the guest has said that it may be changed.
      discard(UnsafeMutableRawBufferPointer(start: piece.iov_base, count: piece.iov_len))
    }
    let count = UInt64(chain.writableByteCount)
    state.withLock { $0.report.reportedByteCount &+= count }
    return nil
  }

  /// Gives the whole pages of a piece of guest memory to the host; the piece is zero afterwards.
  private func discard(_ piece: UnsafeMutableRawBufferPointer) {
    guard let base = piece.baseAddress else { return }
    let page = UInt(1) << UInt(VirtioBalloonABI.pageShift)
    let start = UInt(bitPattern: base)
    let first = (start + page - 1) & ~(page - 1)
    let last = (start + UInt(piece.count)) & ~(page - 1)
    // SAFETY: all three ranges are within the piece.
    guard first < last, madvise(UnsafeMutableRawPointer(bitPattern: first), Int(last - first), MADV_DONTNEED) == 0
    else { return _ = memset(base, 0, piece.count) }
    memset(base, 0, Int(first - start))
    memset(base + Int(last - start), 0, Int(start + UInt(piece.count) - last))
  }

  // MARK: Statistics

  /// Takes the newest statistics, and keeps their buffer until newer ones are wanted.
  private func takeStatistics(_ queue: SplitQueue) {
    let chain = chains[VirtioBalloonABI.statisticsQueue]
    repeat {
      guard !holdsStatistics, queue.pop(into: chain) else { return }
      guard chain.readableByteCount > 0, chain.writableByteCount == 0 else { return queue.fail(.badRequest) }
      holdsStatistics = true
      var bytes = [UInt8](repeating: 0, count: min(chain.readableByteCount, Self.statisticsLimit))
      _ = bytes.withUnsafeMutableBytes { chain.read(at: 0, into: $0) }
      var values = [UInt64?](repeating: nil, count: Int(VirtioBalloonStatistic.tagCount))
      bytes.withUnsafeBytes { bytes in
        for entry in stride(
          from: 0, through: bytes.count - VirtioBalloonStatistic.byteCount, by: VirtioBalloonStatistic.byteCount)
        {
          let tag = UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: entry, as: UInt16.self))
          guard tag < VirtioBalloonStatistic.tagCount else { continue }
          values[Int(tag)] = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: entry + 2, as: UInt64.self))
        }
      }
      state.withLock { state in
        state.report.statistics = values
        state.report.statisticsNumber &+= 1
      }
    } while queue.rearm()
  }
}
