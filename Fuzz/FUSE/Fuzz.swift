// The FUSE server under requests of arbitrary bytes: each input is a sequence of requests to a server over a small tree. The first
// byte chooses which: one that may be read only, or one that may be changed, whose tree is made afresh for each run of the fuzzer.
import Glibc
import VirtioFileSystem

// One server of each kind for all inputs: state left by one is part of the next one's world.
private let reading = try! FUSEServer(path: "/usr/include/linux")
private let writing = makeWritable()

/// A server over a new directory with a few files of every kind that a guest can meet.
private func makeWritable() -> FUSEServer {
  var template = Array("/tmp/osv-fuzz-fuse-XXXXXX".utf8CString)
  let path = String(cString: mkdtemp(&template)!)
  precondition(mkdir(path + "/d", 0o755) == 0 && mkfifo(path + "/p", 0o600) == 0)
  precondition(symlink("/etc/passwd", path + "/l") == 0)
  close(open(path + "/f", O_CREAT | O_WRONLY, 0o644))
  // Files of the fuzzer's own stay small: an offset near the limit is an error, not a file of that size.
  var limit = rlimit(rlim_cur: 64 << 20, rlim_max: 64 << 20)
  setrlimit(__rlimit_resource_t(1), &limit)
  var configuration = FUSEServer.Configuration()
  configuration.isWritable = true
  configuration.nodeLimit = 4096
  return try! FUSEServer(path: path, configuration: configuration)
}

/// One input of the fuzzer.
@c(LLVMFuzzerTestOneInput) public func fuzz(_ data: UnsafePointer<UInt8>, _ count: Int) -> CInt {
  guard count > 0 else { return 0 }
  let server = data[0] & 1 == 0 ? reading : writing
  var rest = UnsafeRawBufferPointer(start: data + 1, count: count - 1)
  while rest.count >= 2 {
    let length = min(Int(rest[0]) << 1 | 0x28, rest.count - 1)
    fuzzFUSE(UnsafeRawBufferPointer(rebasing: rest[1..<(1 + length)]), server: server)
    rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(1 + length))
  }
  return 0
}
