// The closure against the dynamic linker's own answer: every dynamically linked program of this machine, and small trees of
// libraries made to try each rule.
import Foundation
import Machine
import Testing

@testable import Closure

/// What a command prints, and its status; its environment has no LD_ variables.
private func output(of command: [String], in directory: String? = nil, with variables: [String: String] = [:]) throws
  -> (text: String, status: Int32)
{
  let process = Process()
  process.executableURL = URL(filePath: command[0])
  process.arguments = Array(command.dropFirst())
  process.environment = ["PATH": "/usr/bin:/bin"].merging(variables) { $1 }
  if let directory { process.currentDirectoryURL = URL(filePath: directory) }
  let pipe = Pipe()
  process.standardOutput = pipe
  process.standardError = FileHandle.nullDevice
  process.standardInput = FileHandle.nullDevice
  try process.run()
  let data = try pipe.fileHandleForReading.readToEnd() ?? Data()
  process.waitUntilExit()
  return (String(decoding: data, as: UTF8.self), process.terminationStatus)
}

/// The dynamic linker's list: "name => path" each, in its order.
private func list(_ program: String, interpreter: String, _ variables: [String: String] = [:]) throws -> [String]? {
  let (text, status) = try output(of: [interpreter, "--list", program], with: variables)
  guard status == 0 else { return nil }
  return text.split(separator: "\n").compactMap { line in
    let words = line.split(separator: " ").map(String.init)
    guard words.count > 1, !words[0].contains("linux-vdso"), !words[0].hasPrefix("\t/lib64/ld-linux") else {
      return nil
    }
    let name = words[0].trimmingCharacters(in: .whitespaces)
    // A library named by its path has no arrow.
    return words[1] == "=>" ? name + " => " + words[2] : name + " => " + name
  }
}

private func closure(
  _ program: String, _ environment: [String] = [], level: Int? = nil
) throws -> (closure: LibraryClosure, interpreter: String)? {
  let descriptor = HostFile.open(Array(program.utf8))
  guard descriptor >= 0 else { return nil }
  defer { close(descriptor) }
  let file: ELFFile
  do { file = try ELFFile(try HostFile.map(descriptor)) } catch { return nil }
  guard let interpreter = file.interpreter else { return nil }
  let made = try LibraryClosure(
    program: file, name: program, path: Array(program.utf8), interpreter: interpreter,
    environment: environment.map { Array($0.utf8) }, view: GuestView(root: nil), level: level)
  return (made, String(decoding: interpreter, as: UTF8.self))
}

private func lines(_ closure: LibraryClosure) -> [String] {
  closure.libraries.filter {
    $0.reason != .interpreter && $0.neededBy != Array("glibc itself".utf8)
  }.map { String(decoding: $0.name, as: UTF8.self) + " => " + String(decoding: $0.path, as: UTF8.self) }
}

@Suite struct HostProgramTests {
  /// Programs of the folder that are files of their own.
  private static func programs(_ folder: String) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: folder).sorted().map {
      URL(filePath: folder + "/" + $0).resolvingSymlinksInPath().path
    }
  }

  @Test func everyProgramOfThisMachine() throws {
    var compared = 0
    for program in Set(try Self.programs("/usr/bin") + Self.programs("/usr/sbin")).sorted() {
      let made: (closure: LibraryClosure, interpreter: String)?
      do { made = try closure(program) } catch {
        // Then the linker finds no closure either.
        let elf = HostFile.open(Array(program.utf8))
        defer { close(elf) }
        let interpreter = try? ELFFile(try HostFile.map(elf)).interpreter
        let listed = try interpreter.flatMap { try list(program, interpreter: String(decoding: $0, as: UTF8.self)) }
        #expect(listed == nil, "\(program): \(error)")
        continue
      }
      // A monitor runs one program, a test hundreds.
      made?.closure.libraries.forEach { close($0.file.descriptor) }
      guard let made, let listed = try list(program, interpreter: made.interpreter) else { continue }
      #expect(lines(made.closure) == listed, "\(program)")
      compared += 1
    }
    #expect(compared > 100)
  }
}

/// A folder of libraries and a program, compiled for one test.
private final class Fixture {
  let folder: String

  init() throws {
    folder = URL(filePath: NSTemporaryDirectory()).resolvingSymlinksInPath().path + "/closure-\(UUID().uuidString)"
    for part in ["bin", "lib", "deep", "other", "lib/glibc-hwcaps/x86-64-v2", "lib/glibc-hwcaps/x86-64-v3"] {
      try FileManager.default.createDirectory(atPath: folder + "/" + part, withIntermediateDirectories: true)
    }
  }

  deinit { try? FileManager.default.removeItem(atPath: folder) }

  func compile(_ output: String, _ options: String, program: Bool = false) throws {
    let source = folder + "/source.c"
    try (program ? "int main(void) { return 0; }\n" : "int unused_\(UInt32.random(in: 0 ... .max));\n").write(
      toFile: source, atomically: true, encoding: .utf8)
    let command =
      "gcc \(program ? "" : "-shared -fPIC") -Wl,--no-as-needed -o \(output) source.c " + options
    let (_, status) = try shell(command, folder)
    try #require(status == 0, "\(command)")
  }

  func closureAndList(_ variables: [String: String] = [:]) throws -> (closure: [String], list: [String]?) {
    let program = folder + "/bin/program"
    let made = try #require(try closure(program, variables.map { "\($0.key)=\($0.value)" }))
    return (lines(made.closure), try list(program, interpreter: made.interpreter, variables))
  }
}

private func shell(_ command: String, _ folder: String) throws -> (String, Int32) {
  try output(of: ["/bin/sh", "-c", command + " 2>compile.log"], in: folder)
}

@Suite struct SearchRuleTests {
  @Test func runpathOfEachObjectIsItsOwn() throws {
    let fixture = try Fixture()
    try fixture.compile("deep/libinner.so", "-Wl,-soname,libinner.so")
    try fixture.compile(
      "lib/libouter.so", "-Wl,-soname,libouter.so deep/libinner.so -Wl,--enable-new-dtags,-rpath,'$ORIGIN/../deep'")
    try fixture.compile(
      "bin/program", "lib/libouter.so -Wl,-rpath-link,deep -Wl,--enable-new-dtags,-rpath,'${ORIGIN}/../lib'",
      program: true)
    let (made, listed) = try fixture.closureAndList()
    #expect(made == listed)
    #expect(made.contains("libinner.so => \(fixture.folder)/bin/../lib/../deep/libinner.so"))
  }

  @Test func rpathIsInheritedUnlessThereIsARunpath() throws {
    let fixture = try Fixture()
    try fixture.compile("deep/libinner.so", "-Wl,-soname,libinner.so")
    try fixture.compile("lib/libouter.so", "-Wl,-soname,libouter.so deep/libinner.so")
    let options = "lib/libouter.so -Wl,-rpath-link,deep -Wl,--disable-new-dtags,-rpath,'$ORIGIN/../lib:$ORIGIN/../deep'"
    try fixture.compile("bin/program", options, program: true)
    let inherited = try fixture.closureAndList()
    #expect(inherited.closure == inherited.list)
    #expect(inherited.closure.contains { $0.hasSuffix("/deep/libinner.so") })

    try fixture.compile(
      "lib/libouter.so", "-Wl,-soname,libouter.so deep/libinner.so -Wl,--enable-new-dtags,-rpath,/nowhere")
    let program = fixture.folder + "/bin/program"
    #expect(throws: Failure.self) { try closure(program) }
    let message = #expect(throws: Failure.self) { try closure(program) }
    #expect(message?.code == .library && message?.sentence.contains("libinner.so") == true)
  }

  @Test func environmentComesBetweenRpathAndRunpath() throws {
    let fixture = try Fixture()
    for place in ["lib", "other"] { try fixture.compile("\(place)/libx.so", "-Wl,-soname,libx.so") }
    for tags in ["--enable-new-dtags", "--disable-new-dtags"] {
      try fixture.compile("bin/program", "lib/libx.so -Wl,\(tags),-rpath,\(fixture.folder)/lib", program: true)
      let (made, listed) = try fixture.closureAndList(["LD_LIBRARY_PATH": fixture.folder + "/other"])
      #expect(made == listed)
    }
    let preloaded = try fixture.closureAndList(["LD_PRELOAD": fixture.folder + "/other/libx.so"])
    #expect(preloaded.closure == preloaded.list)
  }

  @Test func subdirectoriesForTheProcessorGoFirst() throws {
    let fixture = try Fixture()
    for place in ["lib", "lib/glibc-hwcaps/x86-64-v2", "lib/glibc-hwcaps/x86-64-v3"] {
      try fixture.compile("\(place)/libx.so", "-Wl,-soname,libx.so")
    }
    try fixture.compile("bin/program", "lib/libx.so -Wl,-rpath,\(fixture.folder)/lib", program: true)
    let (made, listed) = try fixture.closureAndList()
    #expect(made == listed)
    for (level, place) in [(1, "lib"), (2, "lib/glibc-hwcaps/x86-64-v2"), (4, "lib/glibc-hwcaps/x86-64-v3")] {
      let forced = try #require(try closure(fixture.folder + "/bin/program", level: level))
      #expect(lines(forced.closure).contains("libx.so => \(fixture.folder)/\(place)/libx.so"))
    }
  }

  @Test func oneFileUnderTwoNamesIsGivenOnce() throws {
    let fixture = try Fixture()
    try fixture.compile("lib/libreal.so", "")
    try FileManager.default.createSymbolicLink(
      atPath: fixture.folder + "/lib/libalias.so", withDestinationPath: "libreal.so")
    try fixture.compile("bin/program", "-Llib -lreal -Wl,-rpath,\(fixture.folder)/lib", program: true)
    let program = fixture.folder + "/bin/program"
    // Without a name of their own, libraries are needed by what the command line called them.
    let made = try #require(try closure(program, ["LD_PRELOAD=\(fixture.folder)/lib/libalias.so"]))
    let files = made.closure.files.filter { String(decoding: $0.path, as: UTF8.self).hasSuffix("lib/libalias.so") }
    #expect(files.count == 1)
    let links = made.closure.files.filter { $0.mode & 0o170000 == 0o120000 }
    #expect(links.count == 1)
  }

  @Test func defaultDirectoriesCanBeRefused() throws {
    let fixture = try Fixture()
    try fixture.compile("bin/program", "-Wl,-z,nodefaultlib", program: true)
    let program = fixture.folder + "/bin/program"
    let message = #expect(throws: Failure.self) { try closure(program) }
    #expect(message?.code == .library)
    #expect(try list(program, interpreter: "/lib64/ld-linux-x86-64.so.2") == nil)
  }

  @Test func muslHasRulesOfItsOwn() throws {
    let fixture = try Fixture()
    try fixture.compile("lib/libx.so", "-nostdlib -Wl,-soname,libx.so")
    let command = "musl-gcc -Wl,--no-as-needed -o bin/program source.c -Llib -lx -Wl,-rpath,'$ORIGIN/../lib'"
    try "int main(void) { return 0; }\n".write(toFile: fixture.folder + "/source.c", atomically: true, encoding: .utf8)
    try #require(try shell(command, fixture.folder).1 == 0)
    let made = try #require(try closure(fixture.folder + "/bin/program"))
    #expect(lines(made.closure) == ["libx.so => \(fixture.folder)/bin/../lib/libx.so"])
    #expect(made.closure.libraries[0].reason == .interpreter)
    #expect(!made.closure.libraries.contains { $0.neededBy == Array("glibc itself".utf8) })
  }

  @Test func anInterpreterThatIsNotThere() throws {
    let fixture = try Fixture()
    try fixture.compile("bin/program", "-Wl,--dynamic-linker,/nowhere/ld.so", program: true)
    let message = #expect(throws: Failure.self) { try closure(fixture.folder + "/bin/program") }
    #expect(message?.code == .interpreter)
  }
}
