// The jail itself: a thread enters it, as osv-run's main thread does, and tries what it must not do any more. All of it (capabilities,
// no_new_privs, Landlock, the filter) holds for the calling thread, so the rest of the tests goes on as before.
import CSystemCalls
import Glibc
import Testing

@testable import Jail

@_silgen_name("syscall")
private func systemCall(_ number: Int, _ a: Int, _ b: Int, _ c: Int, _ d: Int, _ e: Int, _ f: Int) -> Int

/// A system call's result, or the negative error number.
private func call(_ number: Int, _ a: Int = 0, _ b: Int = 0, _ c: Int = 0, _ d: Int = 0, _ e: Int = 0, _ f: Int = 0)
  -> Int
{
  let result = systemCall(number, a, b, c, d, e, f)
  return result < 0 ? -Int(errno) : result
}

private func call(_ number: Int, _ a: Int, path: String, _ c: Int = 0, _ d: Int = 0) -> Int {
  path.withCString { call(number, a, Int(bitPattern: $0), c, d) }
}

/// What became of the calls that a prisoner has tried, by name.
private final class Prisoner: @unchecked Sendable {
  let shared: CInt
  let listener: CInt
  let writesFiles: Bool
  var results: [String: Int] = [:]
  var failure: JailError?
  var status = ""

  init(shared: CInt, listener: CInt, writesFiles: Bool) {
    self.shared = shared
    self.listener = listener
    self.writesFiles = writesFiles
  }

  /// Runs on a thread of its own, and to its end.
  func serveItsTime() {
    var thread = pthread_t()
    pthread_create(
      &thread, nil,
      { argument in
        Unmanaged<Prisoner>.fromOpaque(argument!).takeUnretainedValue().main()
        return nil
      }, Unmanaged.passUnretained(self).toOpaque())
    pthread_join(thread, nil)
  }

  private func main() {
    let account = open("/proc/thread-self/status", O_RDONLY)
    do throws(JailError) {
      try Jail.enter(
        directories: [shared], writable: writesFiles ? [shared] : [], requests: [0x5401], listener: listener)
    } catch {
      failure = error
      return
    }
    var bytes = [UInt8](repeating: 0, count: 8192)
    let count = read(account, &bytes, bytes.count)
    status = String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
    close(account)

    results["socket"] = call(41, 2, 1)
    results["execve"] = call(59, 0)
    results["execveat"] = call(322, 0)
    results["fork"] = call(57)
    results["vfork as clone"] = call(56, 0x4111)
    results["clone3"] = call(435)
    results["ptrace"] = call(101)
    results["bpf"] = call(321)
    results["io_uring_setup"] = call(425, 1)
    results["process_vm_writev"] = call(311, Int(getpid()))
    results["kill"] = call(62, Int(getpid()))
    results["mount"] = call(165)
    results["open_by_handle_at"] = call(304)
    results["accept4 elsewhere"] = call(288, Int(shared))
    results["mmap executable"] = call(9, 0, 4096, 5, 0x22, -1)
    results["ioctl TIOCSTI"] = call(16, 0, 0x5412)
    results["mkdirat"] = call(258, Int(shared), path: "made", 0o755)
    results["openat outside"] = call(257, -100, path: "/etc/passwd")
    results["openat2 is there"] = call(437, -1, path: "x", 0, 24)
    results["openat inside"] = call(257, Int(shared), path: "file")
    results["create inside"] = call(257, Int(shared), path: "new", Int(O_WRONLY | O_CREAT), 0o644)
    results["write inside"] = call(257, Int(shared), path: "file", Int(O_WRONLY))
    results["getpid"] = call(39)
    results["mmap"] = call(9, 0, 4096, 3, 0x22, -1)
  }
}

@Suite struct EntryTests {
  private func prisoner(writesFiles: Bool) throws -> Prisoner {
    var template = Array("/tmp/osv-jail-XXXXXX".utf8CString)
    let folder = try #require(mkdtemp(&template).map { String(cString: $0) })
    defer {
      for name in ["file", "new", "made"] { remove(folder + "/" + name) }
      rmdir(folder)
    }
    let file = open(folder + "/file", O_WRONLY | O_CREAT, 0o644)
    try #require(file >= 0)
    close(file)
    let shared = open(folder, O_RDONLY)
    try #require(shared >= 0)
    defer { close(shared) }
    let prisoner = Prisoner(shared: shared, listener: 9999, writesFiles: writesFiles)
    prisoner.serveItsTime()
    #expect(prisoner.failure == nil)
    return prisoner
  }

  @Test(arguments: [false, true]) func whatIsRefusedReallyFails(writesFiles: Bool) throws {
    let prisoner = try prisoner(writesFiles: writesFiles)
    let results = prisoner.results
    for name in [
      "socket", "execve", "execveat", "fork", "vfork as clone", "ptrace", "bpf", "io_uring_setup",
      "process_vm_writev", "kill", "mount", "open_by_handle_at", "accept4 elsewhere", "mmap executable",
      "ioctl TIOCSTI",
    ] { #expect(results[name] == -Int(EPERM), "\(name): \(results[name] ?? 0)") }
    #expect(results["clone3"] == -Int(ENOSYS))
    #expect(results["openat2 is there"] != -Int(EPERM))
    #expect(try #require(results["openat inside"]) >= 0)
    #expect(results["getpid"] == Int(getpid()))
    #expect(try #require(results["mmap"]) > 0)
    if writesFiles {
      for name in ["mkdirat", "create inside", "write inside"] { #expect(try #require(results[name]) >= 0, "\(name)") }
    } else {
      #expect(results["mkdirat"] == -Int(EPERM))
    }
    guard osv_landlock_version() > 0 else { return }
    #expect(results["openat outside"] == -Int(EACCES))
    if !writesFiles {
      for name in ["create inside", "write inside"] { #expect(results[name] == -Int(EACCES), "\(name)") }
    }
  }

  @Test func whatTheKernelSaysOfIt() throws {
    let lines = try prisoner(writesFiles: false).status.split(separator: "\n").map { $0.split(separator: "\t") }
    func value(_ name: String) -> Substring? { lines.first { $0.first == Substring(name + ":") }?.last }
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] { #expect(value(set) == "0000000000000000", "\(set)") }
    #expect(value("NoNewPrivs") == "1" && value("Seccomp") == "2")
  }
}
