// The devices of a machine's network interfaces, with their threads in the jail and the record of their frames.

import Jail
import VirtioNet
import VirtioQueue

#if canImport(Glibc)
  import Glibc
#endif

/// Makes the devices of a machine's interfaces, one after the other.
struct NetworkDevices {
  private let configuration: MachineConfiguration
  private let capture: PacketCapture?

  /// Begins the record of frames, if one is wanted.
  init(_ configuration: MachineConfiguration) {
    self.configuration = configuration
    capture = configuration.captureDescriptor.map { descriptor in
      PacketCapture(descriptor: descriptor, interfaces: configuration.networks.indices.map { "eth\($0)" }) { code in
        StandardStreams.report(
          "osv-run: the record of the network's frames ends here (\(StandardStreams.message(code)))\n")
      } onLoss: {
        StandardStreams.report(
          "osv-run: the record of the network's frames is read more slowly than they come; it lacks some from here on\n"
        )
      }
    }
  }

  /// The device of interface `number`.
  /// - Parameter attach: `VirtioNetwork.Configuration.attach`.
  func make(
    _ number: Int, attach: (@Sendable (_ queue: Int, _ event: CInt) -> Void)? = nil
  ) throws(Failure) -> VirtioNetwork {
    let network = configuration.networks[number]
    let requests = configuration.requests
    let sockets = configuration.networks.compactMap(\.socket)
    let isJailed = configuration.isJailed
    // The first interface's: one worker a vCPU has a place to look for.
    let host = number == 0 ? LinuxPlacementHost() : nil
    let placement = host.flatMap { WorkerPlacement(cpuCount: configuration.cpuCount, host: $0) }
    let accounts = placement == nil ? [] : host?.descriptors ?? []
    var choices = VirtioNetwork.Configuration(address: network.mac) { body in
      Thread.start("net \(number)") {
        if isJailed { Thread.restrict(.network, requests: requests, sockets: sockets, accounts: accounts) }
        body()
      }
    }
    choices.mtu = network.mtu
    choices.pairCount = network.backend.pairCount
    choices.rate = network.rate
    if let capture { choices.capture = (capture, number) }
    choices.attach = attach
    if let placement {
      choices.place = { pair in if pair == 0 { placement.look(now: MonotonicClock.now) } }
    }
    let passt = network.passt
    choices.onLinkLost = {
      if passt?.isEnding == true { return }
      let reason = passt == nil ? "its other side is gone" : "passt has ended"
      StandardStreams.report("osv-run: eth\(number) has no network any more (\(reason)); the guest goes on\n")
    }
    do throws(VirtioNetwork.OpenFailure) {
      return try VirtioNetwork(choices, backend: network.backend)
    } catch {
      throw Failure(.network, "a network interface needs a file descriptor (\(StandardStreams.message(error.code)))")
    }
  }
}
