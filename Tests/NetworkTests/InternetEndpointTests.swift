// Addresses of sockets as programs write them.
import Base
import Testing

@testable import Network

@Suite struct InternetEndpointTests {
  @Test func family4() {
    let bytes: [UInt8] = [2, 0, 0x1f, 0x90, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    let end = InternetEndpoint(sockaddr4: SocketAddress(bytes))
    #expect(end == InternetEndpoint(IPAddress(v4: 0xc000_0201), port: 8080))
    #expect(end.sockaddr4.bytes == bytes)
    #expect(InternetEndpoint(.any6).sockaddr4.bytes == [2] + [UInt8](repeating: 0, count: 15))
  }

  @Test func family6() {
    var bytes: [UInt8] = [10, 0, 0x1f, 0x90, 0, 1, 2, 3]
    bytes += [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    bytes += [7, 0, 0, 0]
    let end = InternetEndpoint(sockaddr6: SocketAddress(bytes))
    #expect(end.address == IPAddress(high: 0xfe80 << 48, low: 0x0102_0304_0506_0708))
    #expect(end.port == 8080 && end.scope == 7 && end.flowInformation == 0x10203)
    #expect(end.sockaddr6.bytes == bytes)
    // Without a scope, as in RFC 2133.
    #expect(InternetEndpoint(sockaddr6: SocketAddress(Array(bytes.prefix(24)))).scope == 0)
    // A scope means something for link-local addresses only.
    #expect(InternetEndpoint(.loopback6, port: 1, scope: 7).sockaddr6.bytes.suffix(4) == [0, 0, 0, 0])
    let mapped = InternetEndpoint(IPAddress(v4: 0x0102_0304), port: 1).sockaddr6
    #expect(mapped.bytes.count == 28 && mapped.bytes[8..<24] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 1, 2, 3, 4])
    #expect(InternetEndpoint(sockaddr6: mapped).address.isV4)
  }
}
