// What a program finds in a guest that has no root of its own: an environment and a minimal /etc.

import Machine

#if canImport(Glibc)
  import Glibc
#endif

/// Defaults for the guest.
enum GuestEnvironment {
  /// PATH, HOME, TERM (if a standard stream is a terminal), then what the options say, which wins.
  static func variables(_ options: Options) -> [[UInt8]] {
    var defaults = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"]
    if isatty(0) == 1 || isatty(1) == 1, let terminal = getenv("TERM") {
      defaults.append("TERM=" + String(cString: terminal))
    }
    let given = options.environment
    let kept = defaults.map { Array($0.utf8) }.filter { variable in
      let name = variable.prefix { $0 != UInt8(ascii: "=") } + [UInt8(ascii: "=")]
      return !given.contains { $0.starts(with: name) }
    }
    return kept + given
  }

  /// /etc/hosts: the host name leads to the first interface's address, if that is known beforehand, and else to the guest itself.
  static func hosts(_ host: String, addresses: [InternetAddress]) -> String {
    guard !addresses.isEmpty else { return "127.0.0.1\tlocalhost \(host)\n::1\tlocalhost \(host)\n" }
    return "127.0.0.1\tlocalhost\n::1\tlocalhost\n" + addresses.map { "\($0)\t\(host)\n" }.joined()
  }

  /// /etc/resolv.conf: the name servers of the interfaces, three at most, and how the host searches.
  static func resolver(_ servers: [InternetAddress], hostLines: [[UInt8]]) -> String {
    var seen: [InternetAddress] = []
    for server in servers where !seen.contains(server) && seen.count < 3 { seen.append(server) }
    if seen.isEmpty { return "" }
    return seen.map { "nameserver \($0)\n" }.joined()
      + hostLines.map { String(decoding: $0, as: UTF8.self) + "\n" }.joined()
  }

  /// The files of a minimal /etc.
  static func etc(hostName: [UInt8], networks: [NetworkInterface] = []) -> [GuestFile] {
    let host = String(decoding: hostName, as: UTF8.self)
    let texts: [(String, String)] = [
      ("/etc/passwd", "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
      ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
      ("/etc/hosts", hosts(host, addresses: networks.first?.addresses ?? [])),
      ("/etc/hostname", host + "\n"),
      (
        "/etc/resolv.conf",
        networks.isEmpty
          ? "" : resolver(networks.flatMap(\.nameServers), hostLines: HostNetwork().resolverLines)
      ),
      ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    ]
    var files = texts.map { path, text in
      GuestFile(path: Array(path.utf8), mode: 0o100644, source: .bytes(Array(text.utf8)))
    }
    // The host's time zone, if it says one.
    let zone = open("/etc/localtime", O_RDONLY | O_CLOEXEC)
    var status = stat()
    if zone >= 0, fstat(zone, &status) == 0, status.st_mode & S_IFMT == S_IFREG, status.st_size < 1 << 20 {
      files.append(GuestFile(path: Array("/etc/localtime".utf8), mode: 0o100644, source: .descriptor(zone)))
    }
    return files
  }
}
