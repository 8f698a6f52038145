// Builds the guest kernel inside `swift build`.
//
// The plugin reads the guest's module graph (every target that Kernel and GuestAPI reach, all under
// Sources/Guest or Sources/Virtio/ABI) from the package and writes it as a makefile fragment; the rules
// are in guest.mk beside this file. make then compiles the modules with Embedded Swift in the order of
// their imports, links the kernel, and leaves one assembly file that carries it into osv-run.
import Foundation
import PackagePlugin

@main struct GuestImagePlugin: BuildToolPlugin {
  func createBuildCommands(context: PluginContext, target: Target) throws -> [Command] {
    let work = context.pluginWorkDirectoryURL
    let root = context.package.directoryURL
    let rules = root.appending(path: "Plugins/GuestImagePlugin/guest.mk")
    let boot = root.appending(path: "Sources/Guest/Boot")

    var modules: [Target] = []
    func visit(_ target: Target) {
      guard !modules.contains(where: { $0.name == target.name }) else { return }
      for case .target(let imported) in target.dependencies { visit(imported) }
      modules.append(target)
    }
    for name in ["GuestAPI", "Kernel"] {
      guard let module = context.package.targets.first(where: { $0.name == name }) else { continue }
      visit(module)
    }

    var fragment = "ROOT := \(root.path)\nSWIFTC := \(try context.tool(named: "swiftc").url.path)\n"
    var inputs = [rules] + Self.sources(in: boot) + Self.sources(in: root.appending(path: "Sources/Guest/VDSO"))
    for module in modules {
      let folder = module.directoryURL
      let sources = Self.sources(in: folder)
      inputs += sources
      let imports = module.dependencies.compactMap { dependency -> String? in
        if case .target(let imported) = dependency { return imported.name }
        return nil
      }
      if module is SwiftSourceModuleTarget {
        fragment += "MODULES += \(module.name)\n"
        let swift = sources.filter { $0.pathExtension == "swift" }.map(\.path)
        fragment += "SOURCES_\(module.name) := \(swift.joined(separator: " "))\n"
        fragment += "IMPORTS_\(module.name) := \(imports.joined(separator: " "))\n"
      } else {
        fragment += "HEADERS += \(sources.map(\.path).joined(separator: " "))\n"
        fragment += "INCLUDES += \(folder.appending(path: "include").path)\nHEADER_MODULES += \(module.name)\n"
      }
    }
    let list = work.appending(path: "modules.mk")
    if (try? String(contentsOf: list, encoding: .utf8)) != fragment {
      try fragment.write(to: list, atomically: true, encoding: .utf8)
    }
    inputs.append(list)
    return [
      .buildCommand(
        displayName: "Building the guest kernel (x86_64-unknown-none-elf)",
        executable: URL(filePath: "/usr/bin/make"),
        arguments: ["--no-print-directory", "-s", "-j2", "-C", work.path, "-f", rules.path, "guest_image.S"],
        inputFiles: inputs,
        outputFiles: [work.appending(path: "guest_image.S")])
    ]
  }

  /// Every file below a folder that takes part in the guest's build, in a stable order.
  static func sources(in folder: URL) -> [URL] {
    let kinds: Set = ["swift", "h", "c", "S", "ld", "modulemap"]
    var found: [URL] = []
    let walk = FileManager.default.enumerator(at: folder, includingPropertiesForKeys: nil)
    while let file = walk?.nextObject() as? URL {
      if kinds.contains(file.pathExtension) { found.append(file) }
    }
    return found.sorted { $0.path < $1.path }
  }
}
