// The balloon's formats (virtio 1.2, 5.5).
//
// Pages are always of 4 KiB here, whatever either side uses. A request of the inflate and deflate queues is an array of page numbers,
// 32 bits each; one of the reporting queue is the free memory itself, as pieces that the device may write. A buffer of the statistics
// queue is an array of `VirtioBalloonStatistic` entries, which the device keeps until it wants newer ones.

/// Constants of the balloon.
public enum VirtioBalloonABI {
  /// Feature: pages of the balloon are not used before the device was told.
  public static let mustTellHost: UInt64 = 1 << 0
  /// Feature: there is a statistics queue.
  public static let statistics: UInt64 = 1 << 1
  /// Feature: the driver may take pages back when the guest runs out of memory.
  public static let deflateOnOutOfMemory: UInt64 = 1 << 2
  /// Feature: there is a queue of hints about free pages (for migration).
  public static let freePageHints: UInt64 = 1 << 3
  /// Feature: the driver says what free pages contain, and reported ones contain that when they are used again.
  public static let pagePoison: UInt64 = 1 << 4
  /// Feature: there is a reporting queue.
  public static let pageReporting: UInt64 = 1 << 5

  /// Queue of pages that go into the balloon.
  public static let inflate = 0
  /// Queue of pages that leave it.
  public static let deflate = 1
  /// Queue of statistics.
  public static let statisticsQueue = 2
  /// Queue of hints.
  public static let hints = 3
  /// Queue of free memory.
  public static let reporting = 4
  /// Queues in all.
  public static let queueCount = 5

  /// log2 of the bytes of a page.
  public static let pageShift: UInt64 = 12
}

/// The balloon's configuration.
@frozen public struct VirtioBalloonConfiguration: BitwiseCopyable {
  /// Pages that the host wants in the balloon.
  public var wantedPages: UInt32 = 0
  /// Pages that are in it; the driver's to write.
  public var actualPages: UInt32 = 0
  /// With `freePageHints`: what to do.
  public var hintCommand: UInt32 = 0
  /// With `pagePoison`: what free pages contain, a byte four times; the driver's to write before it says DRIVER_OK.
  public var poison: UInt32 = 0
  /// An empty balloon.
  public init() {}

  /// Offset of `wantedPages`.
  public static let wantedOffset = 0
  /// Offset of `actualPages`.
  public static let actualOffset = 4
  /// Offset of `poison`.
  public static let poisonOffset = 12
  /// Bytes of the whole.
  public static let byteCount = 16
}

/// An entry of the statistics: a tag of 16 bits and, right behind it, a value of 64. Counts of memory are in bytes.
public enum VirtioBalloonStatistic {
  /// Memory swapped in.
  public static let swapIn: UInt16 = 0
  /// Memory swapped out.
  public static let swapOut: UInt16 = 1
  /// Page faults that read from a disk.
  public static let majorFaults: UInt16 = 2
  /// Other page faults.
  public static let minorFaults: UInt16 = 3
  /// Memory that nobody uses.
  public static let free: UInt16 = 4
  /// All memory, without the balloon's.
  public static let total: UInt16 = 5
  /// Memory that programs could have.
  public static let available: UInt16 = 6
  /// Memory that contents of files are kept in.
  public static let caches: UInt16 = 7
  /// Tags below this are known.
  public static let tagCount: UInt16 = 8
  /// Bytes of an entry.
  public static let byteCount = 10
}
