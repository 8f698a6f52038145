// swift-tools-version: 6.3
// Coverage-guided fuzzing of everything that reads bytes from outside: one target a parser or device. A package of its own, since every
// module in it is built with libFuzzer's instrumentation: `make fuzz` builds it with `--sanitize fuzzer` and runs each target for a while.
import PackageDescription

func fuzz(_ name: String, _ module: String) -> Target {
  .executableTarget(
    name: "fuzz-\(name)", dependencies: [.product(name: "Fuzzed", package: "osv")], path: name,
    swiftSettings: [.unsafeFlags(["-parse-as-library"])])
}

let package = Package(
  name: "fuzz",
  dependencies: [.package(name: "osv", path: "..")],
  targets: [
    fuzz("ELFLoader", "Linux"),
    fuzz("ELFFile", "Machine"),
    fuzz("Closure", "Closure"),
    fuzz("FUSE", "VirtioFileSystem"),
    fuzz("Options", "Command"),
    fuzz("Kernel", "Machine"),
    fuzz("Queue", "VirtioQueue"),
  ]
)
