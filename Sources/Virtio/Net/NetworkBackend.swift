// What a network device needs of whatever carries its frames on the host.
//
// Threads: `receive` is called by one thread at a time for a pair, so is `transmit`, but the two may overlap, and so may those of different
// pairs; `configure` is called by one thread at a time, beside any of them. Nothing here blocks.
import Glibc
import VirtioABI

/// What a backend takes over from the guest's network stack, in both directions.
public struct NetworkOffloads: OptionSet, Sendable {
  /// The bits.
  public let rawValue: UInt32
  /// From bits.
  public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// Frames with a partial checksum.
  public static let checksum = NetworkOffloads(rawValue: 1 << 0)
  /// Unsegmented TCP over IPv4.
  public static let tcp4 = NetworkOffloads(rawValue: 1 << 1)
  /// Unsegmented TCP over IPv6.
  public static let tcp6 = NetworkOffloads(rawValue: 1 << 2)
  /// Unsegmented TCP with CWR set.
  public static let ecn = NetworkOffloads(rawValue: 1 << 3)
  /// Unsegmented UDP over IPv4.
  public static let udp4 = NetworkOffloads(rawValue: 1 << 4)
  /// Unsegmented UDP over IPv6.
  public static let udp6 = NetworkOffloads(rawValue: 1 << 5)
  /// All of TCP.
  public static let tcp: NetworkOffloads = [.checksum, .tcp4, .tcp6, .ecn]
  /// All of UDP.
  public static let udp: NetworkOffloads = [.udp4, .udp6]
}

/// What came of asking for a frame.
public enum ReceiveOutcome: Equatable, Sendable {
  /// There is one, of so many bytes with its header; no fewer than there was room for if it was cut short.
  case frame(Int)
  /// There is none now.
  case none
  /// There will never be one again.
  case ended
}

/// What came of sending a frame.
public enum TransmitOutcome: Equatable, Sendable {
  /// It is on its way.
  case sent
  /// There is no room: try again when the descriptor is writable.
  case full
  /// It is of a kind that the host does not take, or there is no memory for it: it is lost.
  case refused
}

/// Carries frames between the device and the host's network.
public protocol NetworkBackend: AnyObject, Sendable {
  /// Queue pairs at most, 1 to `VirtioNetworkABI.maximumPairCount`.
  var pairCount: Int { get }
  /// What it can take over.
  var offloads: NetworkOffloads { get }
  /// Largest IP packet in bytes.
  var mtu: Int { get }

  /// What poll(2) watches for a pair: readable when `receive` has something, writable when `transmit` has room.
  func descriptor(ofPair pair: Int) -> CInt

  /// Says what the driver has agreed to receive, and how many pairs it uses.
  func configure(received offloads: NetworkOffloads, pairs: Int)

  /// Takes a frame: a `VirtioNetworkHeader` whose `bufferCount` means nothing, and then the frame's bytes.
  /// - Parameter pieces: where to; 1,024 at most.
  func receive(pair: Int, into pieces: UnsafeBufferPointer<iovec>) -> ReceiveOutcome

  /// Sends a frame. Its bytes may change meanwhile.
  /// - Parameter pieces: a checked `VirtioNetworkHeader`, in memory that does not change, and then the frame's bytes; 1,024 at most.
  func transmit(pair: Int, _ pieces: UnsafeBufferPointer<iovec>) -> TransmitOutcome

  /// Sends what an earlier frame has left over. False while there is no room for it.
  func flush(pair: Int) -> Bool
}

extension NetworkBackend {
  /// Nothing is left over.
  public func flush(pair: Int) -> Bool { true }
}
