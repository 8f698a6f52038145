// A cache that speaks memcached's text protocol, written against the kernel's own interfaces: the program and the kernel are one file.
//
//   osv-run --net tap:t0,address=10.0.5.1/24 .build/images/kvcache.elf [-p PORT] [-m MEGABYTES] [-t THREADS]
//
// Every thread has a listener of its own at the port and serves the connections that come to it; they share the items, which take what -m says and no
// more; what was not used for longest goes first. A value is at most a 256th of that, and 1 MiB.
import GuestAPI

@main struct KVCache {
  static func main() {
    var port = 11211
    var megabytes = 64
    var threads = max(1, CurrentThread.affinity.nonzeroBitCount)
    var rest = arguments.dropFirst()
    while let option = rest.popFirst() {
      guard let text = rest.popFirst(), let value = Int(text), value > 0 else { usage() }
      switch option {
      case "-p" where value <= 65_535: port = value
      case "-m" where value <= 1 << 16: megabytes = value
      case "-t" where value <= 64: threads = value
      default: usage()
      }
    }
    guard megabytes <= roomInMegabytes else {
      printError(
        "kvcache: -m \(megabytes) is more than there is room for (\(roomInMegabytes)): give osv-run more --memory")
      exit(2)
    }
    let cache = Cache(byteLimit: megabytes << 20)
    let counters = Counters(threads: threads)
    do throws(Errno) {
      for index in 1..<max(1, threads) {
        let server = try Server(port: UInt16(port), cache: cache, counters: counters)
        _ = try Thread(name: "server \(index)", affinity: 1 << UInt64(index)) { server.run() }
      }
      let server = try Server(port: UInt16(port), cache: cache, counters: counters)
      if threads > 1 { CurrentThread.affinity = 1 }
      server.run()
    } catch {
      printError("kvcache: port \(port) cannot be served: \(error.message)")
      exit(1)
    }
  }

  /// What items may take: two thirds of the memory that is free: connections take up to a quarter of what items do, and the tables of keys something, too.
  static var roomInMegabytes: Int {
    guard let file = try? File("/proc/meminfo"), let bytes = try? file.readAll() else { return 0 }
    return bytes.withUnsafeBytes { text in
      for line in text.split(separator: UInt8(ascii: "\n")) {
        var words = Words(UnsafeRawBufferPointer(rebasing: line))
        if let name = words.next(), name == "MemAvailable:", let kibibytes = words.number() {
          return Int(kibibytes) / 1024 * 2 / 3
        }
      }
      return 0
    }
  }

  static func usage() -> Never {
    printError("usage: kvcache.elf [-p PORT] [-m MEGABYTES] [-t THREADS]; a value is at most a 256th of MEGABYTES (64)")
    exit(2)
  }
}
