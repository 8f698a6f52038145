// System calls that send and receive over sockets, with addresses and control data.
import Base
import Files
import Locks
import Memory
import Network
import Platform

/// struct msghdr.
private struct MessageHeader: BitwiseCopyable {
  var name: UInt64 = 0
  var nameByteCount: UInt32 = 0
  var padding: UInt32 = 0
  var vectors: UInt64 = 0
  var vectorCount: UInt64 = 0
  var control: UInt64 = 0
  var controlByteCount: UInt64 = 0
  var flags: UInt32 = 0
  var padding2: UInt32 = 0
}

/// struct cmsghdr.
private struct ControlHeader: BitwiseCopyable {
  static let byteCount = 16
  static let socketLevel: Int32 = 1
  static let rights: Int32 = 1
  static let credentials: Int32 = 2
  var byteCount: UInt64 = 0
  var level: Int32 = ControlHeader.socketLevel
  var type: Int32 = 0
}

extension SystemCall {
  /// SCM_MAX_FD.
  private static var mostFiles: Int { 253 }
  /// net.core.optmem_max.
  private static var mostControlBytes: UInt64 { 131_072 }

  // MARK: Sending

  func sendto() throws(Errno) -> Int {
    let socket = try socketFile()
    var message = outgoing(over: socket, MessageFlags(rawValue: argument3.u32))
    if argument4 != 0 { message.address = try socketAddress(at: address4, byteCount: argument5) }
    var transfer = Transfer(program: address1, count: Self.byteCount(argument2))
    return try send(&transfer, message, over: socket)
  }

  private func outgoing(over socket: Socket, _ flags: MessageFlags) -> OutgoingMessage {
    var message = OutgoingMessage(
      by: socket.asksWhoSends
        ? socketCaller.credentials : SocketCredentials(process: process.identifier, user: 0, group: 0))
    message.flags = flags
    return message
  }

  func sendmsg() throws(Errno) -> Int {
    try send(headerAt: address1, over: try socketFile(), MessageFlags(rawValue: argument2.u32))
  }

  func sendmmsg() throws(Errno) -> Int {
    let socket = try socketFile()
    let count = min(argument2.u32, 1024).int
    var sent = 0
    while sent < count {
      let header = address1 + sent &* 64
      do throws(Errno) {
        let bytes = try send(headerAt: header, over: socket, MessageFlags(rawValue: argument3.u32))
        try UserSpan.write(bytes.u32, at: header + 56)
      } catch {
        guard sent > 0 else { throw error }
        break
      }
      sent &+= 1
    }
    return sent
  }

  private func send(_ transfer: inout Transfer, _ message: OutgoingMessage, over socket: Socket) throws(Errno) -> Int {
    do throws(Errno) {
      return try socket.send(&transfer, message, socket.asksWhoSends ? socketCaller : nil)
    } catch {
      if error == .EPIPE, socket.tellsBrokenPipes, !message.flags.contains(.noSignal) {
        try? process.send(.pipe, SignalInformation(.pipe, code: SignalInformation.Code.user), to: task)
      }
      throw error
    }
  }

  private func send(headerAt address: VirtualAddress, over socket: Socket, _ flags: MessageFlags) throws(Errno) -> Int {
    let header = try UserSpan.read(MessageHeader.self, at: address)
    guard header.vectorCount <= 1024 else { throw .EMSGSIZE }
    var message = outgoing(over: socket, flags)
    guard header.nameByteCount.i32 >= 0 else { throw .EINVAL }
    if header.name != 0, header.nameByteCount > 0 {
      let byteCount = min(header.nameByteCount.int, SocketAddress.maximumByteCount)
      message.address = try socketAddress(at: VirtualAddress(header.name), byteCount: byteCount.u64)
    }
    if header.control != 0 { try readControl(header, into: &message, of: socket) }
    var transfer = try Transfer(programVectors: VirtualAddress(header.vectors), count: header.vectorCount.int)
    return try send(&transfer, message, over: socket)
  }

  private func readControl(_ header: MessageHeader, into message: inout OutgoingMessage, of socket: Socket)
    throws(Errno)
  {
    guard header.controlByteCount <= Self.mostControlBytes else { throw .ENOBUFS }
    var offset: UInt64 = 0
    var files: [OpenFile] = []
    while offset &+ 16 <= header.controlByteCount {
      let place = VirtualAddress(header.control) + offset.int
      let control = try UserSpan.read(ControlHeader.self, at: place)
      guard control.byteCount >= 16, control.byteCount <= header.controlByteCount &- offset else { throw .EINVAL }
      let data = place + ControlHeader.byteCount
      let byteCount = (control.byteCount &- 16).int
      offset &+= control.byteCount.alignedUp(to: 8)
      guard control.level == ControlHeader.socketLevel,
        control.type == ControlHeader.rights || control.type == ControlHeader.credentials
      else {
        try readControl(control, at: data, byteCount, into: &message, of: socket)
        continue
      }
      switch control.type {
      case ControlHeader.rights:
        guard files.count &+ byteCount / 4 <= Self.mostFiles else { throw .EINVAL }
        for index in 0..<byteCount / 4 {
          let number = try UserSpan.read(Int32.self, at: data + index &* 4)
          files.append(try process.descriptors.file(number.int))
        }
      case ControlHeader.credentials:
        guard byteCount == 12 else { throw .EINVAL }
        let claimed = try UserSpan.read(SocketCredentials.self, at: data)
        let own = credentials
        let isTrue =
          claimed.process == process.identifier
          && (claimed.user == own.userID || claimed.user == own.effectiveUserID || claimed.user == own.savedUserID)
          && (claimed.group == own.groupID || claimed.group == own.effectiveGroupID
            || claimed.group == own.savedGroupID)
        guard isTrue || own.isPrivileged else { throw .EPERM }
        guard isTrue || claimed.process == process.identifier || Process.find(claimed.process) != nil else {
          throw .ESRCH
        }
        message.credentials = claimed
      default: break
      }
    }
    if !files.isEmpty { message.files = FilesInFlight(files) }
  }

  /// A control message that the socket's protocols understand.
  private func readControl(
    _ header: ControlHeader, at data: VirtualAddress, _ byteCount: Int, into message: inout OutgoingMessage,
    of socket: Socket
  ) throws(Errno) {
    var buffer: [8 of UInt64] = .init(repeating: 0)
    let count = min(byteCount, 64)
    try withUnsafeMutableBytes(of: &buffer) { (bytes) throws(Errno) in
      try UserSpan(data, count: count).read(into: bytes)
      try socket.readControl(
        header.level, header.type, UnsafeRawBufferPointer(rebasing: bytes[..<count]), into: &message)
    }
  }

  // MARK: Receiving

  func recvfrom() throws(Errno) -> Int {
    let socket = try socketFile()
    var transfer = Transfer(program: address1, count: Self.byteCount(argument2))
    let message = try socket.receive(&transfer, MessageFlags(rawValue: argument3.u32))
    if argument4 != 0 {
      if let address = message.address {
        try store(address, at: address4, countAt: VirtualAddress(argument5))
      } else {
        try UserSpan.write(Int32(0), at: VirtualAddress(argument5))
      }
    }
    return message.count
  }

  func recvmsg() throws(Errno) -> Int {
    try receive(headerAt: address1, from: try socketFile(), MessageFlags(rawValue: argument2.u32))
  }

  func recvmmsg() throws(Errno) -> Int {
    let socket = try socketFile()
    let deadline = try TimeSpecification.deadline(timeoutAt: address4)
    let waitsForOne = argument3 & 0x1_0000 != 0
    var flags = MessageFlags(rawValue: argument3.u32 & ~0x1_0000)
    let count = min(argument2.u32, 1024).int
    var received = 0
    while received < count {
      let header = address1 + received &* 64
      do throws(Errno) {
        let bytes = try receive(headerAt: header, from: socket, flags)
        try UserSpan.write(bytes.u32, at: header + 56)
      } catch {
        guard received > 0 else { throw error }
        break
      }
      received &+= 1
      if waitsForOne { flags.insert(.noWait) }
      if deadline != .never, Clock.now() >= deadline.nanoseconds { break }
    }
    return received
  }

  private func receive(headerAt address: VirtualAddress, from socket: Socket, _ flags: MessageFlags) throws(Errno)
    -> Int
  {
    var header = try UserSpan.read(MessageHeader.self, at: address)
    guard header.vectorCount <= 1024 else { throw .EMSGSIZE }
    guard header.name == 0 || header.nameByteCount.i32 >= 0 else { throw .EINVAL }
    var transfer = try Transfer(programVectors: VirtualAddress(header.vectors), count: header.vectorCount.int)
    let message = try socket.receive(&transfer, flags)
    if header.name != 0 {
      if let sender = message.address {
        try store(sender, at: VirtualAddress(header.name), room: header.nameByteCount.i32.int)
      }
      header.nameByteCount = (message.address?.byteCount ?? 0).u32
    }
    var result = message.flags
    var writer = ControlWriter(at: VirtualAddress(header.control), room: header.controlByteCount)
    if let sender = message.credentials {
      try writer.put(ControlHeader.socketLevel, ControlHeader.credentials, sender)
    }
    try socket.writeControl(message, &writer)
    if let files = message.files?.files { try install(files, flags, &writer) }
    if writer.isTruncated { result.insert(.controlTruncated) }
    header.controlByteCount = writer.used
    if flags.contains(.closeOnExec) { result.insert(.closeOnExec) }
    header.flags = result.rawValue
    try UserSpan.write(header, at: address)
    return message.count
  }

  /// Gives the program descriptors of files that came along, as many as there is room for.
  private func install(_ files: [OpenFile], _ flags: MessageFlags, _ writer: inout ControlWriter) throws(Errno) {
    var count = 0
    if let (data, room) = writer.next {
      while count < min(room / 4, files.count) {
        guard
          let number = try? process.descriptors.install(files[count], closeOnExec: flags.contains(.closeOnExec))
        else { break }
        do throws(Errno) { try UserSpan.write(number.i32, at: data + count &* 4) } catch {
          try? process.descriptors.close(number)
          break
        }
        count &+= 1
      }
    }
    if count < files.count { writer.truncate() }
    if count > 0 { try writer.finish(ControlHeader.socketLevel, ControlHeader.rights, byteCount: count &* 4) }
  }
}
