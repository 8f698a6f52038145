// swift-tools-version: 6.3;(experimentalCGen)
// The one manifest of both worlds. Host targets are ordinary; every target under Sources/Guest is
// compiled twice from the same files: here for the host (define HOSTED), where editors and unit tests
// see it, and by GuestImagePlugin for x86_64-unknown-none-elf (define GUEST). The plugin reads the
// guest's module graph from this file, so the layer table below is the only one.
import PackageDescription

let strict: [SwiftSetting] = [
  .treatAllWarnings(as: .error),
  .enableExperimentalFeature("Lifetimes"),
]
let hosted: [SwiftSetting] = strict + [.define("HOSTED")]

/// A guest module: compiled for the host here, for the guest by the plugin.
func guest(_ name: String, imports: [Target.Dependency], folder: String? = nil) -> Target {
  .target(name: name, dependencies: imports, path: "Sources/Guest/\(folder ?? name)", swiftSettings: hosted)
}

/// A host module of the devices or the monitor. It names every module that it imports, not only those it cannot reach through others:
/// it is compiled again when one of them changes, and with the layout of an old class it would corrupt the heap.
func host(_ name: String, imports: [Target.Dependency] = [], path: String) -> Target {
  .target(name: name, dependencies: imports, path: "Sources/\(path)", swiftSettings: strict)
}

/// What every device on the bus imports.
let transport: [Target.Dependency] = ["VirtioABI", "VirtioQueue", "VirtioPCI"]

/// The unit tests of one module (or of a pair that is tested end to end), in Tests/NAME.
func tests(_ name: String, of modules: [Target.Dependency]) -> Target {
  .testTarget(name: name, dependencies: modules, path: "Tests/\(name)", swiftSettings: hosted)
}

let package = Package(
  name: "osv",
  products: [
    .executable(name: "osv-run", targets: ["osv-run"]),
    // What the package under Fuzz drives (Kernel and GuestAPI so that the plugin can see them from there).
    .library(
      name: "Fuzzed",
      targets: ["Kernel", "GuestAPI", "Machine", "VirtioFileSystem", "VirtioQueue", "Closure", "Command"]),
  ],
  targets: [
    // Wire formats shared by both worlds.
    .target(name: "VirtioABI", path: "Sources/Virtio/ABI", swiftSettings: hosted),

    // ---- The guest, lowest layer first. Imports point downwards only. ----
    guest("Base", imports: []),
    .target(name: "Instructions", path: "Sources/Guest/Instructions"),
    guest("Platform", imports: ["Base", "Instructions", "VirtioABI"]),
    guest("Locks", imports: ["Platform"]),
    guest("Pages", imports: ["Locks"]),
    guest("Threads", imports: ["Pages"]),
    guest("Memory", imports: ["Threads"]),
    guest("Devices", imports: ["Memory", "VirtioABI"]),
    guest("Files", imports: ["Memory"]),
    guest("RamFS", imports: ["Files", "Devices"], folder: "FileSystems/RamFS"),
    guest("DevFS", imports: ["Files", "Devices"], folder: "FileSystems/DevFS"),
    guest("ProcFS", imports: ["Files", "Devices"], folder: "FileSystems/ProcFS"),
    guest("VirtioFS", imports: ["Files", "Devices"], folder: "FileSystems/VirtioFS"),
    guest("Network", imports: ["Files", "Devices"]),
    guest("Linux", imports: ["RamFS", "DevFS", "ProcFS", "VirtioFS", "Network"]),
    // The kernel's start under another monitor than osv-run: before there is a kernel, so it knows nothing of it.
    guest("Bootstrap", imports: ["Base", "Instructions", "VirtioABI"]),
    guest("Kernel", imports: ["Linux", "Bootstrap"]),
    guest("GuestAPI", imports: ["Locks"]),

    // ---- The host's devices: both know the ring, neither knows KVM. ----
    .target(
      name: "CSystemCalls", path: "Sources/Virtio/CSystemCalls", linkerSettings: [.linkedLibrary("cap")]),
    host("VirtioQueue", imports: ["VirtioABI"], path: "Virtio/Queue"),
    host("VirtioPCI", imports: ["VirtioABI", "VirtioQueue"], path: "Virtio/PCI"),
    host("VirtioConsole", imports: transport + ["CSystemCalls"], path: "Virtio/Console"),
    host("VirtioEntropy", imports: transport + ["CSystemCalls"], path: "Virtio/Entropy"),
    host("VirtioBalloon", imports: transport, path: "Virtio/Balloon"),
    host("VirtioNet", imports: transport + ["CSystemCalls"], path: "Virtio/Net"),
    host("VirtioFileSystem", imports: transport + ["CSystemCalls"], path: "Virtio/FileSystem"),

    // ---- The monitor. Machine alone joins devices and KVM. ----
    .target(name: "CKVM", path: "Sources/VMM/CKVM"),
    host("KVM", imports: ["CKVM"], path: "VMM/KVM"),
    host("Jail", imports: ["CSystemCalls"], path: "VMM/Jail"),
    .plugin(name: "GuestImagePlugin", capability: .buildTool()),
    .target(name: "GuestImage", path: "Sources/VMM/GuestImage", plugins: ["GuestImagePlugin"]),
    host(
      "Machine",
      imports: transport + [
        "CKVM", "KVM", "VirtioConsole", "VirtioEntropy", "VirtioBalloon", "VirtioNet", "VirtioFileSystem", "Jail",
        "GuestImage", "CSystemCalls",
      ],
      path: "VMM/Machine"),
    host("Closure", imports: ["Machine", "KVM", "CSystemCalls"], path: "VMM/Closure"),
    host("Command", imports: ["Closure", "Machine", "CSystemCalls", "VirtioABI"], path: "VMM/Command"),
    .executableTarget(
      name: "osv-run", dependencies: ["Command"], path: "Sources/VMM/Main", swiftSettings: strict,
      linkerSettings: [.unsafeFlags(["-static-executable"])]),

    // ---- Tests mirror Sources. ----
    tests("BaseTests", of: ["Base"]),
    .target(name: "CFibers", path: "Tests/CFibers"),
    .target(
      name: "ModelChecker", dependencies: ["Locks", "CFibers"], path: "Tests/ModelChecker", swiftSettings: hosted),
    tests("LocksTests", of: ["Locks", "ModelChecker"]),
    tests("ThreadsTests", of: ["Threads", "ModelChecker"]),
    tests("VirtioABITests", of: ["VirtioABI"]),
    tests("PlatformTests", of: ["Platform", "Base", "VirtioABI"]),
    tests("VirtioFileSystemTests", of: ["VirtioFileSystem", "VirtioQueue", "CSystemCalls"]),
    .target(
      name: "VirtioTestGuest", dependencies: ["VirtioPCI"], path: "Tests/VirtioTestGuest", swiftSettings: strict),
    tests("VirtioQueueTests", of: ["VirtioQueue", "VirtioTestGuest"]),
    tests("VirtioPCITests", of: ["VirtioPCI", "VirtioTestGuest"]),
    tests("VirtioConsoleTests", of: ["VirtioConsole", "VirtioTestGuest"]),
    tests("VirtioEntropyTests", of: ["VirtioEntropy", "VirtioTestGuest"]),
    .target(
      name: "NetTestBackend", dependencies: ["VirtioNet", "VirtioABI"], path: "Tests/NetTestBackend",
      swiftSettings: strict),
    tests("VirtioNetTests", of: ["VirtioNet", "NetTestBackend", "VirtioTestGuest", "CSystemCalls"]),
    tests("VirtioBalloonTests", of: ["VirtioBalloon", "VirtioTestGuest"]),
    tests("DevicesTests", of: ["Devices", "VirtioConsole", "VirtioEntropy", "VirtioBalloon"]),
    tests("VirtioFSTests", of: ["VirtioFS", "Devices", "VirtioFileSystem"]),
    tests("PagesTests", of: ["Pages"]),
    tests("KVMTests", of: ["KVM"]),
    tests("JailTests", of: ["Jail"]),
    tests("MachineTests", of: ["Machine"]),
    tests("ClosureTests", of: ["Closure"]),
    tests("CommandTests", of: ["Command"]),
    tests("MemoryTests", of: ["Memory"]),
    tests("LinuxTests", of: ["Linux", "Threads", "Locks", "Base", "ModelChecker"]),
    tests("FilesTests", of: ["Files", "Locks", "Base", "ModelChecker"]),
    tests("NetworkTests", of: ["Network", "RamFS", "Devices", "Pages", "Threads", "Locks", "Base", "ModelChecker"]),
    tests("RamFSTests", of: ["RamFS", "ModelChecker"]),
    tests("DevFSTests", of: ["DevFS"]),
    tests("ProcFSTests", of: ["ProcFS", "RamFS"]),
    tests("GuestAPITests", of: ["GuestAPI"]),
    tests(
      "BootstrapTests", of: ["Bootstrap", "Base", "VirtioABI", "Machine", "VirtioPCI", "VirtioEntropy", "VirtioQueue"]),
    tests("VMTests", of: []),
  ]
)
