import Testing
import VirtioABI

@testable import Machine

/// Reads encoded boot information back, as the kernel does.
private struct Reader {
  let bytes: [UInt8]
  var head: BootInformation { load(at: 0) }

  func load<Value>(at offset: Int) -> Value {
    bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: Value.self) }
  }

  func string(at offset: UInt32) -> String {
    String(decoding: bytes[Int(offset)...].prefix { $0 != 0 }, as: UTF8.self)
  }

  func strings(at offset: UInt32, count: UInt32) -> [String] {
    var at = Int(offset)
    return (0..<count).map { _ in
      let text = string(at: UInt32(at))
      at += text.utf8.count + 1
      return text
    }
  }
}

@Suite struct BootInformationBuilderTests {
  private func content() -> BootContent {
    var content = BootContent()
    content.arguments = ["/bin/busybox", "ls", "", "-l"].map { Array($0.utf8) }
    content.environment = ["PATH=/bin", "HOME=/"].map { Array($0.utf8) }
    content.program = Array("/bin/busybox".utf8)
    content.workingDirectory = Array("/data".utf8)
    content.hostName = Array("unit".utf8)
    content.files = [
      .init(
        path: Array("/bin/busybox".utf8), mode: 0o100755, physical: 512 << 30, byteCount: 4097, modificationTime: 5),
      .init(
        path: Array("/etc/hosts".utf8), mode: 0o100644, physical: 512 << 30 + 8192, byteCount: 3, modificationTime: 0),
    ]
    content.mounts = [
      .init(path: Array("/data".utf8), deviceIndex: 1, readOnly: true),
      .init(path: Array("/tmp".utf8), mebibyteLimit: 64),
    ]
    var device = BootDevice()
    device.deviceID = 26
    device.configuration.7 = 0x1122
    content.devices = [BootDevice(), device]
    return content
  }

  @Test func everythingReadsBack() {
    var head = BootInformation()
    head.linearMapBase = 0x4000_0000_0000
    let reader = Reader(bytes: content().encode(head: head))
    let read = reader.head
    #expect(read.magic == BootInformation.magicValue && read.version == BootInformation.currentVersion)
    #expect(read.byteCount == UInt32(reader.bytes.count))
    #expect(read.linearMapBase == 0x4000_0000_0000)
    #expect(reader.strings(at: read.argumentsOffset, count: read.argumentCount) == ["/bin/busybox", "ls", "", "-l"])
    #expect(reader.strings(at: read.environmentOffset, count: read.environmentCount) == ["PATH=/bin", "HOME=/"])
    #expect(reader.string(at: read.programOffset) == "/bin/busybox")
    #expect(reader.string(at: read.workingDirectoryOffset) == "/data")
    #expect(reader.string(at: read.hostNameOffset) == "unit")
    #expect(read.fileCount == 2 && read.filesOffset % 8 == 0)
    let second: BootFile = reader.load(at: Int(read.filesOffset) + 32)
    #expect(reader.string(at: second.pathOffset) == "/etc/hosts")
    #expect(second.physical == 512 << 30 + 8192 && second.byteCount == 3 && second.mode == 0o100644)
    #expect(read.mountCount == 2)
    let mount: BootMount = reader.load(at: Int(read.mountsOffset))
    #expect(reader.string(at: mount.pathOffset) == "/data")
    #expect(mount.deviceIndex == 1 && mount.flags == BootMount.Flag.readOnly && mount.mebibyteLimit == 0)
    let inMemory: BootMount = reader.load(at: Int(read.mountsOffset) + MemoryLayout<BootMount>.stride)
    #expect(reader.string(at: inMemory.pathOffset) == "/tmp")
    #expect(inMemory.flags == BootMount.Flag.memory && inMemory.mebibyteLimit == 64)
    #expect(read.deviceCount == 2)
    let device: BootDevice = reader.load(at: Int(read.devicesOffset) + MemoryLayout<BootDevice>.stride)
    #expect(device.deviceID == 26 && device.configuration.7 == 0x1122)
  }

  @Test func whatIsAbsentIsZero() {
    var content = BootContent()
    content.arguments = [[0x61]]
    let read = Reader(bytes: content.encode(head: BootInformation())).head
    #expect(read.programOffset == 0 && read.workingDirectoryOffset == 0)
    #expect(read.fileCount == 0 && read.mountCount == 0 && read.deviceCount == 0 && read.environmentCount == 0)
  }

  @Test func sizeDoesNotDependOnTheHead() {
    var head = BootInformation()
    let size = content().encode(head: head).count
    head.freeMemoryStart = .max
    head.seed0 = .max
    #expect(content().encode(head: head).count == size)
  }
}
