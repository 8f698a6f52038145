// The file server's way from a node to a descriptor: through the cache, or beneath the root by the node's path, and
// always verified to be the file that the guest looked up.
import CSystemCalls
import Glibc
import VirtioABI

extension FUSEServer {
  /// Where a node is found, and what must be found there.
  struct Location {
    /// The directory the name is in; the file itself for the root and for pinned nodes.
    let directory: OpenDescriptor
    /// NUL-terminated; empty (a lone NUL) for the file itself.
    let name: [UInt8]
    let identity: FileIdentity

    var isFileItself: Bool { name.count == 1 }
  }

  /// Finds the directory and name of a node.
  func locate(_ node: UInt64) throws(HostError) -> Location {
    if node == FUSE.rootNodeID { return Location(directory: root, name: [0], identity: FileIdentity(rootAttributes)) }
    let found = try locked { (state) throws(HostError) -> (UInt64, [UInt8], FileIdentity, OpenDescriptor?) in
      let place = try state.nodes.place(of: node)
      if let pin = state.pins[node] { return (0, [0], state.nodes.identity(of: place), pin) }
      let parent = state.nodes.id(of: state.nodes.parent(of: place))
      return (parent, state.nodes.name(of: place), state.nodes.identity(of: place), nil)
    }
    if let pin = found.3 { return Location(directory: pin, name: found.1, identity: found.2) }
    return Location(directory: try directory(found.0), name: found.1, identity: found.2)
  }

  /// The attributes of a node, without opening it.
  func attributes(of node: UInt64) throws(HostError) -> osv_attributes {
    let location = try locate(node)
    return try verified(location)
  }

  /// The attributes of what is at a location now, or ESTALE where that is another file.
  func verified(_ location: Location) throws(HostError) -> osv_attributes {
    do throws(HostError) {
      let attributes = try location.directory.attributes(of: location.name)
      guard FileIdentity(attributes) == location.identity else { throw HostError.stale }
      return attributes
    } catch { throw error == HostError.noEntry ? HostError.stale : error }
  }

  /// An O_PATH descriptor of a directory, to look names up beneath it.
  func directory(_ node: UInt64) throws(HostError) -> OpenDescriptor {
    if node == FUSE.rootNodeID { return root }
    let now = configuration.clock()
    let trust = configuration.trustNanoseconds
    let found = try locked { (state) throws(HostError) -> (OpenDescriptor?, [[UInt8]], FileIdentity) in
      let place = try state.nodes.place(of: node)
      guard state.nodes.isDirectory(place) else { throw HostError(code: ENOTDIR) }
      if let pin = state.pins[node] { return (pin, [], state.nodes.identity(of: place)) }
      if let cached = state.cache.find(node, .names), now &- cached.verified < trust {
        return (cached.descriptor, [], state.nodes.identity(of: place))
      }
      return (nil, state.nodes.path(of: place), state.nodes.identity(of: place))
    }
    if let cached = found.0 { return cached }
    var descriptor = root
    for piece in found.1 { descriptor = try reopen(beneath: descriptor, piece, osv_o_path | osv_o_directory) }
    guard FileIdentity(try descriptor.attributes()) == found.2 else { throw .stale }
    let opened = descriptor
    state.withLock { $0.cache.insert(node, .names, opened, verified: now) }
    return opened
  }

  /// An O_PATH descriptor of any node, and its attributes: verified, and good for looking only.
  func look(at node: UInt64) throws(HostError) -> (descriptor: OpenDescriptor, attributes: osv_attributes) {
    let location = try locate(node)
    if location.isFileItself { return (location.directory, try location.directory.attributes()) }
    let descriptor = try reopen(beneath: location.directory, location.name, osv_o_path | osv_o_nofollow)
    let attributes = try descriptor.attributes()
    guard FileIdentity(attributes) == location.identity else { throw .stale }
    return (descriptor, attributes)
  }

  /// A descriptor of a regular file to read from. Everything else is refused unopened.
  func data(_ node: UInt64) throws(HostError) -> OpenDescriptor { try contents(node, .data) }

  /// The same to write to.
  func writing(_ node: UInt64) throws(HostError) -> OpenDescriptor { try contents(node, .writing) }

  private func contents(_ node: UInt64, _ use: DescriptorUse) throws(HostError) -> OpenDescriptor {
    let now = configuration.clock()
    if let cached = state.withLock({ $0.cache.find(node, use) }) {
      if now &- cached.verified < configuration.trustNanoseconds { return cached.descriptor }
      // Still in its place, or gone for good (then it is read to its end like any open file); but not moved away.
      let inPlace = (try? attributes(of: node)) != nil
      let links = try cached.descriptor.attributes().links
      if inPlace || links == 0 {
        keep(cached.descriptor, for: node, use, verified: now)
        return cached.descriptor
      }
      _ = state.withLock { $0.cache.remove(node, use) }
      throw .stale
    }
    let descriptor = try openContents(node, use == .writing ? O_WRONLY : O_RDONLY)
    keep(descriptor, for: node, use, verified: now)
    return descriptor
  }

  /// Puts a descriptor into the cache, unless the guest has forgotten its node meanwhile.
  func keep(_ descriptor: OpenDescriptor, for node: UInt64, _ use: DescriptorUse, verified now: UInt64) {
    state.withLock { state in
      guard (try? state.nodes.place(of: node)) != nil else { return }
      state.cache.insert(node, use, descriptor, verified: now)
    }
  }

  /// Opens a regular file beside the cache; `access` is O_RDONLY, O_WRONLY (reading may come with it) or O_RDWR.
  func openContents(_ node: UInt64, _ access: Int32) throws(HostError) -> OpenDescriptor {
    let (descriptor, attributes) = try look(at: node)
    switch attributes.type {
    case UInt32(S_IFREG):
      if access == O_RDONLY {
        try checkReadable(descriptor, attributes)
        return try door.open(descriptor, owner: attributes.uid)
      }
      try checkWritable()
      try checkChangeable(descriptor, attributes)
      return try door.openForWriting(descriptor, access: access)
    case UInt32(S_IFDIR): throw HostError(code: EISDIR)
    case UInt32(S_IFLNK): throw HostError(code: ELOOP)
    default: throw HostError(code: ENXIO)
    }
  }

  /// Opens beneath a directory; a path that is not there any more is a stale node, not a missing name.
  private func reopen(beneath directory: OpenDescriptor, _ path: [UInt8], _ flags: Int32)
    throws(HostError) -> OpenDescriptor
  {
    do throws(HostError) { return try directory.open(beneath: path, flags: flags) } catch {
      switch error.code {
      // ELOOP: a symbolic link is in the way; EXDEV: the path would have left its directory.
      case ENOENT, ENOTDIR, ELOOP, EXDEV: throw HostError.stale
      default: throw error
      }
    }
  }

  /// Runs a body under the server's lock.
  func locked<Result>(_ body: (inout State) throws(HostError) -> sending Result) throws(HostError) -> Result {
    try state.withLock(body)
  }

  /// Attributes in the protocol's form.
  func protocolAttributes(_ host: osv_attributes) -> FUSEAttributes {
    var guest = FUSEAttributes()
    guest.ino = inodeNumbers.number(device: host.device, inode: host.inode)
    guest.size = host.size
    guest.blocks = host.blocks
    guest.atime = UInt64(bitPattern: host.atime)
    guest.mtime = UInt64(bitPattern: host.mtime)
    guest.ctime = UInt64(bitPattern: host.ctime)
    guest.atimeNanoseconds = host.atime_ns
    guest.mtimeNanoseconds = host.mtime_ns
    guest.ctimeNanoseconds = host.ctime_ns
    guest.mode = host.mode
    guest.linkCount = host.links
    guest.uid = host.uid
    guest.gid = host.gid
    guest.rdev = (host.rdev_major & 0xfff) << 8 | host.rdev_minor & 0xff | (host.rdev_minor & ~0xff) << 12
    guest.blockSize = host.block_size
    return guest
  }

  /// An entry in the protocol's form.
  func protocolEntry(_ node: UInt64, _ host: osv_attributes) -> FUSEEntryOut {
    var entry = FUSEEntryOut()
    entry.nodeID = node
    entry.entryValid = configuration.cache.seconds
    entry.attributesValid = configuration.cache.seconds
    entry.attributes = protocolAttributes(host)
    return entry
  }
}
