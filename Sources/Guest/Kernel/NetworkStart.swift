// The interfaces that the monitor has described. None of them delays the program: they come up beside
// it, and who wants the network waits for them.
#if GUEST
  import Base
  import Devices
  import Linux
  import Locks
  import Network
  import Platform
  import VirtioABI

  enum NetworkStart {
    /// Takes the interfaces into the network, if there are any. A device that does not work is left out.
    static func run() {
      NetworkEnvironment.randomSource = { Random.next() }
      if Boot.networks.isEmpty { return }
      let stack = NetworkStack.main
      MachineEnd.installSending { stack.finishSending(isKilled: $0) }
      for index in 0..<Boot.networks.count { start(Boot.networks[index], number: index, stack) }
    }

    private static func start(_ entry: BootNetwork, number: Int, _ stack: NetworkStack) {
      guard entry.deviceIndex < Boot.devices.count.u32,
        let function = VirtioFunction(Boot.devices[entry.deviceIndex.int])
      else { return }
      do throws(Errno) {
        let driver = try NetworkDriver(function)
        let link = DeviceInterface(stack, index: number.u32 &+ 2, name: name(number), driver: driver)
        try stack.enter(link)
        try stack.configure(link, setup(entry))
        try link.begin()
      } catch {
        return
      }
    }

    /// eth0, eth1…
    private static func name(_ number: Int) -> [UInt8] {
      var name: [UInt8] = [0x65, 0x74, 0x68]
      if number >= 10 { name.append(0x30 &+ (number / 10 % 10).u8) }
      name.append(0x30 &+ (number % 10).u8)
      return name
    }

    /// Where the interface's addresses come from.
    private static func setup(_ entry: BootNetwork) -> InterfaceSetup {
      var setup = InterfaceSetup()
      setup.usesDHCP = entry.flags & BootNetwork.dhcp != 0
      setup.autoconfigures = entry.flags & BootNetwork.autoconfiguration != 0
      if entry.prefix4 != 0 {
        setup.addresses.append((four(entry.address4), entry.prefix4.int))
        let gateway = four(entry.gateway4)
        if !gateway.isUnspecified { setup.gateways.append(gateway) }
      }
      if entry.prefix6 != 0 {
        setup.addresses.append((six(entry.address6), entry.prefix6.int))
        let gateway = six(entry.gateway6)
        if !gateway.isUnspecified { setup.gateways.append(gateway) }
      }
      return setup
    }

    private static func four(_ bytes: [4 of UInt8]) -> IPAddress {
      var value: UInt32 = 0
      for index in 0..<4 { value = value &<< 8 | bytes[index].u32 }
      return IPAddress(v4: value)
    }

    private static func six(_ bytes: [16 of UInt8]) -> IPAddress {
      var (high, low): (UInt64, UInt64) = (0, 0)
      for index in 0..<8 {
        high = high &<< 8 | bytes[index].u64
        low = low &<< 8 | bytes[index &+ 8].u64
      }
      return IPAddress(high: high, low: low)
    }
  }
#endif
