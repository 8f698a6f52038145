// Arguments of calls about files: paths, descriptors that stand for directories, structures that programs give and get.
import Base
import Files
import Locks
import Memory
import Pages

/// AT_FDCWD.
let workingDirectoryDescriptor: Int32 = -100

extension SystemCall {
  /// Runs `body` with the path at `address`, copied to a buffer of the task. Two paths at a time take both `place`s.
  /// - Throws: EFAULT, ENAMETOOLONG, ENOMEM, what `body` throws.
  func withPath<R>(
    _ address: VirtualAddress, place: Int = 0, _ body: (PathBytes) throws(Errno) -> R
  ) throws(Errno) -> R {
    let buffer = try task.pathBuffer(place)
    let count = try UserSpan.readString(at: address, into: buffer)
    return try body(PathBytes(UnsafeRawBufferPointer(rebasing: buffer[..<count])))
  }

  /// The caller's identity, as rights are checked for it. Nothing is counted: the body must not look at it another way, for
  /// the task then lets go of what it had.
  @inline(__always) func withCredentials<R, E: Error>(_ body: (Credentials) throws(E) -> R) throws(E) -> R {
    try reference.use { (task) throws(E) in
      try task.credentials.use { (record) throws(E) in try body(record.credentials) }
    }
  }
  /// The same as a copy.
  var credentials: Credentials { reference.use { $0.credentials.use { $0.credentials } } }

  /// The open file of a descriptor, for a body. Nothing is counted where nobody else can close it.
  @inline(__always) func withFileOrPlace<R>(_ descriptor: Int, _ body: (OpenFile) throws(Errno) -> R) throws(Errno) -> R
  {
    try withProcess { $0.descriptorsReference }.use { (table) throws(Errno) in try table.withFile(descriptor, body) }
  }

  /// The open file of the first argument, for a body, unless it is only a place (O_PATH).
  @inline(__always) func withFile<R>(_ body: (OpenFile) throws(Errno) -> R) throws(Errno) -> R {
    try withFileOrPlace(descriptor) { (file) throws(Errno) in
      guard !file.isPathOnly else { throw .EBADF }
      return try body(file)
    }
  }
}

extension Task {
  /// One of two buffers for paths, each a page. Made when first needed, kept to the end of the task.
  func pathBuffer(_ place: Int) throws(Errno) -> UnsafeMutableRawBufferPointer {
    let page = PageSize.small.int
    if pathMemory == nil {
      guard let memory = KernelHeap.allocate(byteCount: page &* 2) else { throw .ENOMEM }
      pathMemory = memory
    }
    // SAFETY: two pages, freed when the task ends; only its own thread uses them.
    return UnsafeMutableRawBufferPointer(start: pathMemory.unsafelyUnwrapped + place &* page, count: page)
  }
}

/// struct stat of x86-64.
struct FileStatus {
  var device: UInt64 = 0
  var inode: UInt64 = 0
  var linkCount: UInt64 = 0
  var mode: UInt32 = 0
  var userID: UInt32 = 0
  var groupID: UInt32 = 0
  var padding: UInt32 = 0
  var specialDevice: UInt64 = 0
  var byteCount: Int64 = 0
  var blockByteCount: Int64 = 0
  var blockCount: Int64 = 0
  var accessTime = TimeSpecification()
  var modificationTime = TimeSpecification()
  var changeTime = TimeSpecification()
  var reserved: (Int64, Int64, Int64) = (0, 0, 0)

  init(_ information: StatInformation) {
    device = information.device
    inode = information.inode
    linkCount = information.linkCount.u64
    mode = information.mode
    userID = information.userID
    groupID = information.groupID
    specialDevice = information.specialDevice
    byteCount = information.byteCount.i64
    blockByteCount = information.blockByteCount.i64
    blockCount = information.blockCount.i64
    accessTime = TimeSpecification(information.accessTime)
    modificationTime = TimeSpecification(information.modificationTime)
    changeTime = TimeSpecification(information.changeTime)
  }
}

extension TimeSpecification {
  init(_ time: FileTime) {
    seconds = time.seconds
    nanoseconds = time.nanoseconds.i64
  }
}

/// struct statx.
struct ExtendedFileStatus {
  /// struct statx_timestamp.
  struct Time {
    var seconds: Int64 = 0
    var nanoseconds: UInt32 = 0
    var reserved: Int32 = 0
    init() {}
    init(_ time: FileTime) {
      seconds = time.seconds
      nanoseconds = time.nanoseconds
    }
  }
  /// What statx always gives: STATX_BASIC_STATS.
  static let basic: UInt32 = 0x7ff
  static let birth: UInt32 = 0x800

  var mask: UInt32 = ExtendedFileStatus.basic
  var blockByteCount: UInt32 = 0
  var attributes: UInt64 = 0
  var linkCount: UInt32 = 0
  var userID: UInt32 = 0
  var groupID: UInt32 = 0
  var mode: UInt16 = 0
  var padding: UInt16 = 0
  var inode: UInt64 = 0
  var byteCount: UInt64 = 0
  var blockCount: UInt64 = 0
  var attributesMask: UInt64 = 0
  var accessTime = Time()
  var birthTime = Time()
  var changeTime = Time()
  var modificationTime = Time()
  var specialMajor: UInt32 = 0
  var specialMinor: UInt32 = 0
  var deviceMajor: UInt32 = 0
  var deviceMinor: UInt32 = 0
  var spare: [14 of UInt64] = .init(repeating: 0)

  init(_ information: StatInformation) {
    blockByteCount = information.blockByteCount
    linkCount = information.linkCount
    userID = information.userID
    groupID = information.groupID
    mode = information.mode.u16
    inode = information.inode
    byteCount = information.byteCount
    blockCount = information.blockCount
    accessTime = Time(information.accessTime)
    changeTime = Time(information.changeTime)
    modificationTime = Time(information.modificationTime)
    if let birth = information.birthTime {
      birthTime = Time(birth)
      mask |= Self.birth
    }
    specialMajor = DeviceNumber.major(information.specialDevice)
    specialMinor = DeviceNumber.minor(information.specialDevice)
    deviceMajor = DeviceNumber.major(information.device)
    deviceMinor = DeviceNumber.minor(information.device)
  }
}

/// struct statfs.
struct FileSystemStatus {
  var magic: UInt64 = 0
  var blockByteCount: UInt64 = 0
  var blockCount: UInt64 = 0
  var freeBlockCount: UInt64 = 0
  var availableBlockCount: UInt64 = 0
  var fileCount: UInt64 = 0
  var freeFileCount: UInt64 = 0
  var identifier: UInt64 = 0
  var nameByteCount: UInt64 = 0
  var fragmentByteCount: UInt64 = 0
  var flags: UInt64 = 0
  var spare: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)

  init(_ statistics: FileSystemStatistics, of fileSystem: FileSystem, flags: MountFlags) {
    magic = fileSystem.magic
    blockByteCount = statistics.blockByteCount
    blockCount = statistics.blockCount
    freeBlockCount = statistics.freeBlockCount
    availableBlockCount = statistics.availableBlockCount
    fileCount = statistics.fileCount
    freeFileCount = statistics.freeFileCount
    identifier = fileSystem.device
    nameByteCount = statistics.maximumNameByteCount
    fragmentByteCount = statistics.blockByteCount
    // ST_VALID says that the flags are meant.
    self.flags = flags.rawValue.u64 | 0x20
  }
}
