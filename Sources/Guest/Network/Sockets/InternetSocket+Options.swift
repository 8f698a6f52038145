// Options of Internet sockets, by levels (socket(7), ip(7), ipv6(7)): which level is whose, and those of SOL_SOCKET that mean more here.
import Base
import Files
import Locks

extension InternetSocket {
  /// Sets an option of a level that every Internet socket has.
  /// - Throws: ENOPROTOOPT, EINVAL, EPERM…
  public final func setInternetOption(_ level: Int32, _ name: Int32, _ value: OptionValue, _ caller: SocketCaller)
    throws(Errno)
  {
    switch level {
    case OptionLevel.socket: try setSocketOption(name, value, caller)
    case OptionLevel.internet4: try setOption4(name, value, caller)
    case OptionLevel.internet6 where isIPv6: try setOption6(name, value, caller)
    default: throw .ENOPROTOOPT
    }
    lock.withLock {
      // Another interface may be the right one now.
      routeDestination = nil
      optionChanged(level, name)
    }
  }

  /// Answers about an option of a level that every Internet socket has.
  /// - Throws: ENOPROTOOPT, ENOTCONN…
  public final func getInternetOption(_ level: Int32, _ name: Int32, _ result: inout OptionResult) throws(Errno) {
    switch level {
    case OptionLevel.socket: try getSocketOption(name, &result)
    case OptionLevel.internet4: try getOption4(name, &result)
    case OptionLevel.internet6 where isIPv6: try getOption6(name, &result)
    default: throw .ENOPROTOOPT
    }
  }

  /// Switches an option of IP on or off.
  final func set(_ flag: InternetOptions.Flags, _ isOn: Bool) { lock.withLock { options.set(flag, isOn) } }

  // MARK: SOL_SOCKET

  private final func setSocketOption(_ name: Int32, _ value: OptionValue, _ caller: SocketCaller) throws(Errno) {
    switch name {
    case SocketOption.bindToDevice:
      // Everybody may bind to an interface; only the privileged let it go for another.
      let current = lock.withLock { options.interfaceIndex }
      guard current == 0 || caller.rights.isPrivileged else { throw .EPERM }
      var name: [UInt8] = []
      for byte in value.bytes.prefix(15) {
        if byte == 0 { break }
        name.append(byte)
      }
      guard !name.isEmpty else { return bind(toInterface: 0) }
      guard let interface = stack.interface(named: name) else { throw .ENODEV }
      bind(toInterface: interface.index)
    case SocketOption.bindToInterface:
      let index = try value.int()
      let current = lock.withLock { options.interfaceIndex }
      guard current == 0 || caller.rights.isPrivileged else { throw .EPERM }
      guard index >= 0 else { throw .EINVAL }
      guard index == 0 || stack.interface(index: index.u32) != nil else { throw .ENODEV }
      bind(toInterface: index.u32)
    case SocketOption.zeroCopy:
      let isOn = try value.int()
      guard protocolNumber == 6 || protocolNumber == 17 else { throw .EOPNOTSUPP }
      guard isOn == 0 || isOn == 1 else { throw .EINVAL }
      set(name, isOn != 0)
    default: try setCommonOption(name, value, caller)
    }
  }

  private final func bind(toInterface index: UInt32) {
    lock.withLock {
      options.interfaceIndex = index
      route = RouteCache()
      routeDestination = nil
      interfaceChanged()
    }
  }

  private final func getSocketOption(_ name: Int32, _ result: inout OptionResult) throws(Errno) {
    let index = lock.withLock { options.interfaceIndex }
    switch name {
    case SocketOption.bindToDevice:
      guard index != 0 else { return }
      guard let interface = stack.interface(index: index) else { throw .ENODEV }
      guard result.room >= 16 else { throw .EINVAL }
      (interface.name + [0]).withUnsafeBufferPointer { result.put(bytes: UnsafeRawBufferPointer($0)) }
    case SocketOption.bindToInterface: result.put(index)
    default: try getCommonOption(name, &result)
    }
  }
}
