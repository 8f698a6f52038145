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

  /// The files of a minimal /etc.
  static func etc(hostName: [UInt8]) -> [GuestFile] {
    let host = String(decoding: hostName, as: UTF8.self)
    let texts: [(String, String)] = [
      ("/etc/passwd", "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
      ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
      ("/etc/hosts", "127.0.0.1\tlocalhost \(host)\n::1\tlocalhost \(host)\n"),
      ("/etc/hostname", host + "\n"),
      ("/etc/resolv.conf", ""),
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
