// The boot information as bytes: the head, then its tables, then its strings. Pure: it touches no guest memory.

import VirtioABI

/// What the boot information says beyond the fixed numbers of its head.
public struct BootContent {
  /// A file that the guest finds in its RAM file system.
  public struct File: Sendable {
    /// Absolute path in the guest.
    public var path: [UInt8]
    /// Type and permission bits, as in `st_mode`.
    public var mode: UInt32
    /// Where its first byte lies.
    public var physical: UInt64
    /// Its size in bytes.
    public var byteCount: UInt64
    /// Seconds since the epoch.
    public var modificationTime: UInt64

    /// A file with all its fields.
    public init(path: [UInt8], mode: UInt32, physical: UInt64, byteCount: UInt64, modificationTime: UInt64) {
      self.path = path
      self.mode = mode
      self.physical = physical
      self.byteCount = byteCount
      self.modificationTime = modificationTime
    }
  }

  /// A file system that the guest mounts.
  public struct Mount: Sendable {
    /// Absolute path in the guest.
    public var path: [UInt8]
    /// Index into the devices; without meaning if it is in memory.
    public var deviceIndex: UInt32
    /// Whether it is attached read-only.
    public var readOnly: Bool
    /// MiB that a file system in the guest's memory may hold, 0 for half of that; nil: it is a directory of the host, attached by virtio-fs.
    public var mebibyteLimit: UInt32?

    /// A mount with all its fields.
    public init(path: [UInt8], deviceIndex: UInt32, readOnly: Bool) {
      self.path = path
      self.deviceIndex = deviceIndex
      self.readOnly = readOnly
    }

    /// An empty file system in the guest's memory.
    public init(path: [UInt8], mebibyteLimit: UInt32) {
      self.init(path: path, deviceIndex: 0, readOnly: false)
      self.mebibyteLimit = mebibyteLimit
    }

    /// Mounts, or what else has a path in the guest: what lies within another comes after it, otherwise as they were.
    public static func outerFirst<Place>(_ places: [Place], path: (Place) -> [UInt8]) -> [Place] {
      func depth(_ place: Place) -> Int { path(place).split(separator: UInt8(ascii: "/")).count }
      return places.enumerated().sorted { (depth($0.element), $0.offset) < (depth($1.element), $1.offset) }.map(
        \.element)
    }
  }

  /// argv; at least one.
  public var arguments: [[UInt8]] = []
  /// environ.
  public var environment: [[UInt8]] = []
  /// The program's absolute path in the guest, nil if it is linked to the kernel.
  public var program: [UInt8]?
  /// The initial working directory, nil for "/".
  public var workingDirectory: [UInt8]?
  /// Host name.
  public var hostName: [UInt8] = Array("osv".utf8)
  /// Files.
  public var files: [File] = []
  /// Mounts, in the order to mount.
  public var mounts: [Mount] = []
  /// Devices, placed and described.
  public var devices: [BootDevice] = []
  /// Network interfaces.
  public var networks: [BootNetwork] = []

  /// Nothing yet.
  public init() {}

  /// All of it behind `head`, whose offsets, counts and size are filled in here.
  public func encode(head: BootInformation) -> [UInt8] {
    var head = head
    var bytes = [UInt8](repeating: 0, count: MemoryLayout<BootInformation>.size)
    func append<Record>(_ record: Record) {
      withUnsafeBytes(of: record) { bytes.append(contentsOf: $0) }
      bytes.append(contentsOf: repeatElement(0, count: MemoryLayout<Record>.stride - MemoryLayout<Record>.size))
    }
    func offset() -> UInt32 { UInt32(bytes.count) }

    // Tables first, with their strings' offsets counted from where the strings will start.
    let tables =
      files.count * MemoryLayout<BootFile>.stride + mounts.count * MemoryLayout<BootMount>.stride
      + devices.count * MemoryLayout<BootDevice>.stride + networks.count * MemoryLayout<BootNetwork>.stride
    var strings: [UInt8] = []
    let stringsStart = bytes.count + tables
    func add(_ string: [UInt8]) -> UInt32 {
      let offset = UInt32(stringsStart + strings.count)
      strings.append(contentsOf: string.prefix { $0 != 0 })
      strings.append(0)
      return offset
    }

    head.filesOffset = offset()
    head.fileCount = UInt32(files.count)
    for file in files {
      var record = BootFile()
      record.pathOffset = add(file.path)
      record.mode = file.mode
      record.physical = file.physical
      record.byteCount = file.byteCount
      record.modificationTime = file.modificationTime
      append(record)
    }
    head.mountsOffset = offset()
    head.mountCount = UInt32(mounts.count)
    for mount in mounts {
      var record = BootMount()
      record.pathOffset = add(mount.path)
      record.deviceIndex = mount.deviceIndex
      record.flags = mount.readOnly ? BootMount.Flag.readOnly : 0
      if let limit = mount.mebibyteLimit {
        record.flags |= BootMount.Flag.memory
        record.mebibyteLimit = limit
      }
      append(record)
    }
    head.devicesOffset = offset()
    head.deviceCount = UInt32(devices.count)
    for device in devices { append(device) }
    head.networksOffset = offset()
    head.networkCount = UInt32(networks.count)
    for network in networks { append(network) }

    head.argumentCount = UInt32(arguments.count)
    head.argumentsOffset = UInt32(stringsStart + strings.count)
    for argument in arguments { _ = add(argument) }
    head.environmentCount = UInt32(environment.count)
    head.environmentOffset = UInt32(stringsStart + strings.count)
    for variable in environment { _ = add(variable) }
    head.programOffset = program.map(add) ?? 0
    head.workingDirectoryOffset = workingDirectory.map(add) ?? 0
    head.hostNameOffset = add(hostName)
    bytes.append(contentsOf: strings)
    head.byteCount = UInt32(bytes.count)
    withUnsafeBytes(of: head) { source in
      for (index, byte) in source.enumerated() { bytes[index] = byte }
    }
    return bytes
  }
}
