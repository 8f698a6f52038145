// A program in the guest has the kernel's own rights, so it can do to the monitor whatever a hostile guest can. Whatever that is, osv-run
// neither crashes nor hangs: the guest goes on, or ends with one of osv-run's sentences.
import Foundation
import Testing

@Suite(.serialized, .disabled(if: skipKVM, "OSV_SKIP_KVM=1"))
struct HostileGuestTests {
  private static let source = """
    #include <pthread.h>
    #include <stdio.h>
    #include <stdlib.h>
    static unsigned short port;
    static unsigned value, range;
    static void out(unsigned what) { __asm__ volatile("outl %0, %1" :: "a"(what), "d"(port)); }
    static void *storm(void *rounds) {
      for (long i = 0; i < (long)rounds; i++) out(value + i % range);
      return 0;
    }
    int main(int count, char **words) {
      port = strtoul(words[1], 0, 0), value = strtoul(words[2], 0, 0), range = strtoul(words[3], 0, 0);
      long rounds = atol(words[4]);
      pthread_t other;
      pthread_create(&other, 0, storm, (void *)rounds);
      storm((void *)rounds);
      pthread_join(other, 0);
      for (int from = 0; from < 0x600; from += 3) {
        unsigned got;
        __asm__ volatile("inl %1, %0" : "=a"(got) : "d"((unsigned short)from));
      }
      static const char text[] = "xxxx";
      __asm__ volatile("rep outsb" :: "S"(text), "c"(4L), "d"(port));
      puts("alive");
    }
    """

  /// Ports are written by two CPUs at once: phases of the start (known and unknown), text and nonsense.
  @Test(arguments: [
    ["0x4fc", "0", "2000", "20000"], ["0x4f8", "0xfff00000", "99", "2000"], ["0x500", "7", "9", "2000"],
  ])
  func portsFromTwoCPUs(_ arguments: [String]) async throws {
    let folder = try temporaryFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    try Self.source.write(toFile: folder + "/p.c", atomically: true, encoding: .utf8)
    let compiled = try await run(["/usr/bin/gcc", "-O1", "-static", "-pthread", "-o", folder + "/p", folder + "/p.c"])
    #expect(compiled.status == 0, "\(compiled.errorText)")
    let statistics = folder + "/statistics"
    let guest = try await vm(["--cpus", "2", "--stats", statistics, folder + "/p"] + arguments)
    #expect(guest.text == "alive\n", "\(guest.errorText)")
    #expect(guest.status == 0, "\(guest.errorText)")
    // What the guest may make us remember is bounded.
    let size = try FileManager.default.attributesOfItem(atPath: statistics)[.size] as? Int
    #expect(try #require(size) < 4096)
  }
}
