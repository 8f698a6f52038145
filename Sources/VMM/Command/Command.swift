// osv-run as a command: arguments to a machine, failures to sentences.

import Machine

#if canImport(Glibc)
  import Glibc
#endif

/// The command osv-run.
public enum Command {
  /// Runs with the process's arguments; ends the process.
  public static func main() -> Never {
    let timeline = Timeline()
    do throws(Failure) {
      var configuration = MachineConfiguration()
      let arguments = CommandLine.arguments.dropFirst().map { Array($0.utf8) }
      configuration.content.arguments = arguments.isEmpty ? [Array("kernel".utf8)] : arguments
      if let kernel = getenv("OSV_KERNEL") { configuration.kernelDescriptor = open(kernel, O_RDONLY) }
      if let cpus = getenv("OSV_CPUS") { configuration.cpuCount = Int(atoi(cpus)) }
      if let memory = getenv("OSV_MEMORY") { configuration.memoryByteCount = UInt64(atoi(memory)) << 20 }
      configuration.tracesBoot = getenv("OSV_TRACE") != nil
      try Machine(configuration, timeline: timeline).run()
    } catch {
      var text = "osv-run: error \(error.label): \(error.sentence)\n"
      text.withUTF8 { _ = write(2, $0.baseAddress, $0.count) }
      _exit(125)
    }
  }
}
