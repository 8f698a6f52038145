// Names of AF_UNIX sockets: files, and abstract ones that are only names.
import Base
import Files
import Locks

/// Sockets that have a name.
enum UnixNames {
  private static let lock = Mutex()
  // SAFETY: the list and its links are touched with `lock`, and keep what is in them.
  nonisolated(unsafe) private static var first: UnixSocket? = nil
  private static let lastNumber = Atomic<UInt32>(0)
  private static let family: [UInt8] = [1, 0]

  /// What an address means.
  enum Name {
    case none
    case abstract
    case path([UInt8])
  }

  /// - Throws: EINVAL: it is no address of this family.
  static func name(_ address: SocketAddress) throws(Errno) -> Name {
    let bytes = address.bytes
    guard bytes.count >= 2, bytes.count <= 110, address.family == 1 else { throw .EINVAL }
    guard bytes.count > 2 else { return .none }
    if bytes[2] == 0 { return .abstract }
    var path: [UInt8] = []
    for index in 2..<bytes.count {
      if bytes[index] == 0 { break }
      path.append(bytes[index])
    }
    return .path(path)
  }

  /// The address of a path, with a NUL behind.
  static func address(_ path: [UInt8]) -> SocketAddress { SocketAddress(family + path + [0]) }

  /// The address of a socket without a name.
  static var unnamed: SocketAddress { SocketAddress(family) }

  /// Enters a socket under an abstract name; false if there is one of its kind.
  static func enter(_ socket: UnixSocket, abstract address: SocketAddress) -> Bool {
    lock.withLock {
      guard findAbstract(address, socket.kind) == nil else { return false }
      socket.named(address, nil)
      socket.nextNamed = first
      first = socket
      return true
    }
  }

  /// Enters a socket under an abstract name that nobody has.
  static func enterAutomatically(_ socket: UnixSocket) {
    while true {
      let number = lastNumber.wrappingAdd(1, ordering: .relaxed).newValue & 0xf_ffff
      var name: [UInt8] = family + [0]
      for shift in [16, 12, 8, 4, 0] as [UInt32] {
        let digit = (number &>> shift & 0xf).u8
        name.append(digit < 10 ? 0x30 &+ digit : 0x57 &+ digit)
      }
      if enter(socket, abstract: SocketAddress(name)) { return }
    }
  }

  /// Enters a socket for a file.
  static func enter(_ socket: UnixSocket, _ address: SocketAddress, at place: Location) {
    lock.withLock {
      socket.named(address, place)
      socket.nextNamed = first
      first = socket
    }
  }

  static func remove(_ socket: UnixSocket) {
    lock.withLock {
      var before: UnixSocket?
      var next = first
      while let current = next {
        next = current.nextNamed
        if current === socket {
          if let before { before.nextNamed = next } else { first = next }
          current.nextNamed = nil
          return
        }
        before = current
      }
    }
  }

  private static func findAbstract(_ address: SocketAddress, _ kind: SocketKind) -> UnixSocket? {
    var next = first
    while let socket = next {
      if socket.place == nil, socket.kind == kind, let name = socket.name, name.bytes == address.bytes { return socket }
      next = socket.nextNamed
    }
    return nil
  }

  /// The socket with an address.
  /// - Throws: ECONNREFUSED, EPROTOTYPE (it is of another kind), EACCES, ENOENT…, EINVAL.
  static func find(_ address: SocketAddress, _ kind: SocketKind, _ caller: SocketCaller) throws(Errno) -> UnixSocket {
    switch try name(address) {
    case .none: throw .EINVAL
    case .abstract:
      guard let found = lock.withLock({ findAbstract(address, kind) }) else { throw .ECONNREFUSED }
      return found
    case .path(let path):
      let place = try path.withPath { (path) throws(Errno) in
        try caller.context.find(path, from: caller.context.workingDirectory, caller.rights)
      }
      try place.vnode.checkAccess(.write, caller.rights)
      guard place.vnode.type == .socket else { throw .ECONNREFUSED }
      let found = lock.withLock { () -> UnixSocket? in
        var next = first
        while let socket = next {
          if let other = socket.place, other.vnode === place.vnode { return socket }
          next = socket.nextNamed
        }
        return nil
      }
      guard let found else { throw .ECONNREFUSED }
      guard found.kind == kind else { throw .EPROTOTYPE }
      return found
    }
  }
}
