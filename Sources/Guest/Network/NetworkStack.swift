// NetworkStack: interfaces, addresses, routes, neighbours, flows and transports of one machine, and what joins them.
//
// The kernel has one; tests make as many as they like, each with a time of its own, and join them by interfaces that they make.
//
// What is read for every packet is published: addresses, routes, interfaces (`PublishedArray`), flows (`FlowTable`), transports (set at
// boot). Whoever changes addresses, routes or interfaces holds `lock`. Ways that sockets remember say in which generation they were made;
// each such change begins a new one.
//
// Locks, in the order in which they are taken: `lock`; `groupLock`; that of the neighbours; those of fragments, of path MTUs, of the table of flows,
// of packets left for later, of the timer: leaves. With none of them held is a transport or a flow called, or a packet transmitted.
import Base
import Devices
import Locks
import Pages
import Threads

/// What has changed, for those who watch (rtnetlink).
public enum NetworkChange: Sendable {
  /// An interface has come, or its state or MTU.
  case links
  /// Addresses.
  case addresses
  /// Routes.
  case routes
}

/// The network of a machine.
public final class NetworkStack {
  /// Time and chance.
  public let environment: NetworkEnvironment
  /// The flows that packets are for.
  public let flows: FlowTable
  /// The key of its hashes.
  let key: SipKey
  /// What its sockets have in common.
  public let sockets: SocketTables

  let lock = Mutex()
  let groupLock = Mutex()
  let generation = Atomic<UInt32>(1)
  let interfaceList = PublishedArray<UInt>()
  let addressList = PublishedArray<InterfaceAddress>()
  let routeList = PublishedArray<Route>()
  let pathMTUs: PathMTUCache
  private(set) var neighbours: NeighbourCache! = nil
  private(set) var reassembly: FragmentReassembly! = nil
  let counters = CPUCounters(NetworkCounter.count &* 2)
  let errorLimit = RateLimit(perSecond: 1000, burst: 50)
  let lastDefence = Atomic<UInt64>(0)
  let identifications: IdentificationGenerator

  // SAFETY: 256 words, each 0 or a transport that was retained for good.
  private let transports: UnsafeMutablePointer<LiveWord>
  private let rawWord = LiveWord(0)
  let deferred = DeferredPackets()
  let timer = StackTimer()
  /// Flows that got packets by loopback while nobody attended to them.
  public private(set) var unattended: UnattendedFlows! = nil
  /// When they are to be drained, ns; 0: there are none.
  let drainAt = Atomic<UInt64>(0)
  /// TCP.
  public private(set) var transmission: TCPTransport! = nil
  private(set) var loopbackInterface: LoopbackInterface! = nil
  let configuration = ConfigurationState()

  /// Told of changes, in a thread that may hold `lock`: it must not call the stack. Set once, at boot.
  public var observer: ((NetworkChange) -> Void)?

  private static let installLock = Mutex()
  // SAFETY: 0, or a stack that was retained for good.
  private static let installed = LiveWord(0)

  /// The machine's network. On a machine without interfaces it is made, loopback alone, for whoever asks first: programs that use none pay nothing.
  /// Thread context.
  public static var main: NetworkStack {
    let word = installed.load()
    if word != 0 { return stack(word) }
    return installLock.withLock {
      let word = installed.load()
      if word != 0 { return stack(word) }
      return install(NetworkEnvironment())
    }
  }

  private static func stack(_ word: UInt) -> NetworkStack {
    Unmanaged<NetworkStack>.fromOpaque(UnsafeRawPointer(bitPattern: word).unsafelyUnwrapped).takeUnretainedValue()
  }

  private static func install(_ environment: NetworkEnvironment) -> NetworkStack {
    let made = NetworkStack(environment: environment, key: SipKey(environment.random(), environment.random()))
    installed.store(UInt(bitPattern: Unmanaged.passRetained(made).toOpaque()))
    return made
  }

  /// A network with loopback alone.
  /// - Parameter key: of its hashes; nobody else knows it.
  public init(environment: NetworkEnvironment, key: SipKey) {
    self.environment = environment
    self.key = key
    flows = FlowTable(key: key)
    sockets = SocketTables(key: key) { environment.random() }
    pathMTUs = PathMTUCache(key: key)
    identifications = IdentificationGenerator(key: key)
    let byteCount = 256 &* MemoryLayout<LiveWord>.stride
    guard let memory = KernelHeap.allocateZeroed(byteCount: byteCount) else { fatalError("no memory for the network") }
    // SAFETY: zero bytes are words of 0.
    transports = memory.bindMemory(to: LiveWord.self, capacity: 256)
    neighbours = NeighbourCache(self, key: key)
    reassembly = FragmentReassembly(key: key)
    setTransport(UDPTransport(self), protocol: InternetProtocol.udp)
    transmission = TCPTransport(self)
    setTransport(transmission, protocol: InternetProtocol.tcp)
    rawReceivers = sockets.rawReceivers
    unattended = UnattendedFlows { [unowned(unsafe) self] in self.drainSoon() }
    loopbackInterface = LoopbackInterface(self)
    do throws(Errno) {
      try enter(loopbackInterface)
      var four = InterfaceAddress(.loopback4, prefixLength: 8)
      var six = InterfaceAddress(.loopback6, prefixLength: 128)
      (four.origin, six.origin) = (.kernel, .kernel)
      try loopbackInterface.add(four)
      try loopbackInterface.add(six)
    } catch {
      fatalError("no memory for the network")
    }
  }

  deinit {
    // SAFETY of all: words are 0 or objects that were retained when they were stored.
    for index in 0..<256 {
      if let old = UnsafeRawPointer(bitPattern: transports[index].load()) {
        Unmanaged<Transport>.fromOpaque(old).release()
      }
    }
    KernelHeap.free(transports)
    if let old = UnsafeRawPointer(bitPattern: rawWord.load()) { Unmanaged<RawReceivers>.fromOpaque(old).release() }
    for word in interfaceList.current {
      if let old = UnsafeRawPointer(bitPattern: word) { Unmanaged<NetworkInterface>.fromOpaque(old).release() }
    }
  }

  /// lo.
  public var loopback: NetworkInterface { loopbackInterface }

  // MARK: Interfaces

  /// The interfaces there are.
  public var interfaces: [NetworkInterface] {
    var result: [NetworkInterface] = []
    for word in interfaceList.copy { result.append(Self.interface(word)) }
    return result
  }

  @inline(__always) private static func interface(_ word: UInt) -> NetworkInterface {
    // SAFETY: words of the list are interfaces that were retained for as long as the stack lives.
    Unmanaged<NetworkInterface>.fromOpaque(UnsafeRawPointer(bitPattern: word).unsafelyUnwrapped).takeUnretainedValue()
  }

  /// The interface of a number.
  public func interface(index: UInt32) -> NetworkInterface? {
    if index == 1 { return loopbackInterface }
    let word = interfaceList.read { words -> UInt in
      for word in words where Self.interface(word).index == index { return word }
      return 0
    }
    return word == 0 ? nil : Self.interface(word)
  }

  /// The interface of a name.
  public func interface(named name: [UInt8]) -> NetworkInterface? {
    for interface in interfaces where interface.name == name { return interface }
    return nil
  }

  func isUp(_ index: UInt32) -> Bool {
    interfaceList.read { words in
      for word in words where Self.interface(word).index == index { return Self.interface(word).isUp }
      return false
    }
  }

  /// Takes an interface in, for good. Its index is one that no other has.
  /// - Throws: ENOMEM.
  public func enter(_ interface: NetworkInterface) throws(Errno) {
    lock.lock()
    defer { lock.unlock() }
    var words: [UInt] = []
    for word in interfaceList.current { words.append(word) }
    words.append(UInt(bitPattern: Unmanaged.passUnretained(interface).toOpaque()))
    try interfaceList.replace(words)
    _ = Unmanaged.passRetained(interface)
    changed(.links)
  }

  // MARK: Changes

  /// Ways that sockets remember are out of date.
  func raiseGeneration() {
    // 0 is no generation.
    if generation.wrappingAdd(1, ordering: .sequentiallyConsistent).newValue == 0 {
      generation.wrappingAdd(1, ordering: .sequentiallyConsistent)
    }
  }

  func changed(_ change: NetworkChange) {
    raiseGeneration()
    observer?(change)
  }

  // MARK: Transports

  /// Sets who gets packets of a protocol; once, at boot.
  public func setTransport(_ transport: Transport, protocol number: UInt8) {
    let word = UInt(bitPattern: Unmanaged.passRetained(transport).toOpaque())
    // SAFETY: as above.
    if let old = UnsafeRawPointer(bitPattern: transports[number.int].exchange(word)) {
      Unmanaged<Transport>.fromOpaque(old).release()
    }
  }

  /// Who gets packets of a protocol.
  func transport(_ number: UInt8) -> Transport? {
    // SAFETY: words are 0 or transports that stay.
    UnsafeRawPointer(bitPattern: transports[number.int].load())
      .map { Unmanaged<Transport>.fromOpaque($0).takeUnretainedValue() }
  }

  /// Raw sockets; set once, at boot.
  public var rawReceivers: RawReceivers? {
    get {
      // SAFETY: as above.
      UnsafeRawPointer(bitPattern: rawWord.load())
        .map { Unmanaged<RawReceivers>.fromOpaque($0).takeUnretainedValue() }
    }
    set {
      guard let newValue else { return }
      let word = UInt(bitPattern: Unmanaged.passRetained(newValue).toOpaque())
      if let old = UnsafeRawPointer(bitPattern: rawWord.exchange(word)) {
        Unmanaged<RawReceivers>.fromOpaque(old).release()
      }
    }
  }

  /// Whether a raw socket may want packets of a protocol; also with preemption off.
  @inline(__always) func isRaw(_ number: UInt8) -> Bool {
    guard let pointer = UnsafeRawPointer(bitPattern: rawWord.load()) else { return false }
    return Unmanaged<RawReceivers>.fromOpaque(pointer)._withUnsafeGuaranteedRef { $0.wants(number) }
  }

  // MARK: Counts

  @inline(__always) func count(_ counter: NetworkCounter, isV4: Bool, _ number: UInt64 = 1) {
    counters.add(counter.rawValue &* 2 &+ (isV4 ? 0 : 1), number)
  }

  /// How often something has happened, for IPv4 or IPv6.
  public func counted(_ counter: NetworkCounter, isV4: Bool) -> UInt64 {
    counters.sum(counter.rawValue &* 2 &+ (isV4 ? 0 : 1))
  }

  /// Adds to a count that a transport keeps here.
  public func countDelivered(_ counter: NetworkCounter, isV4: Bool) { count(counter, isV4: isV4) }

  // MARK: Neighbours

  /// What is known of neighbours.
  public var neighbourDescriptions: [NeighbourDescription] { neighbours.describe() }

  /// Enters a neighbour for good, or forgets one (link nil).
  /// - Throws: ENODEV, ENOBUFS, ENOENT.
  public func setNeighbour(_ address: IPAddress, on interface: UInt32, _ link: LinkAddress?) throws(Errno) {
    guard let found = self.interface(index: interface), found.kind == .ethernet else { throw .ENODEV }
    try neighbours.set(address, on: found, link)
  }

  /// A transport has got an answer to what it sent this way: the neighbour answers (RFC 4861, 7.3.1). Costs a look at a word.
  @inline(__always) public func confirm(_ route: RouteCache) {
    let wants = RCU.read { () -> Bool in
      guard let entry = route.neighbour, route.generation == generation.load(ordering: .acquiring) else { return false }
      return entry.pointee.word.load(ordering: .relaxed) & Neighbour.wantsConfirmation != 0
    }
    if wants { neighbours.confirm(route.nextHop, on: route.interfaceIndex) }
  }
}
