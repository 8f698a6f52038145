// DeviceFileSystem: /dev: the devices that every program expects, the standard streams, and what drivers add.
import Base
import Files

/// The tree of /dev.
public final class DeviceFileSystem: FileSystem {
  private var lastInode: UInt64 = 1
  /// The console, if there is one.
  public private(set) var console: Terminal?

  /// /dev with null, zero, full, random, urandom, tty, console, the links to /proc/self/fd and the directories shm and pts.
  /// - Parameters:
  ///   - random: fills memory with random bytes, never failing, never sleeping.
  ///   - input: where the console reads from: the terminal, if there is one.
  ///   - output: where the console writes to, likewise.
  public init(
    random: @escaping (UnsafeMutableRawBufferPointer) -> Void, input: any ConsoleEndpoint,
    output: any ConsoleEndpoint
  ) {
    super.init(kind: "devtmpfs", magic: 0x0102_1994)
    let root = PseudoDirectory(self, inode: 1, mode: 0o755)
    setRoot(root)
    add("null", NullDevice(self, inode: newInode(), mode: 0o666, specialDevice: DeviceNumber.make(1, 3)))
    add("zero", ZeroDevice(self, inode: newInode(), mode: 0o666, specialDevice: DeviceNumber.make(1, 5)))
    add("full", FullDevice(self, inode: newInode(), mode: 0o666, specialDevice: DeviceNumber.make(1, 7)))
    add("random", RandomDevice(self, inode: newInode(), minor: 8, random))
    add("urandom", RandomDevice(self, inode: newInode(), minor: 9, random))
    let settings = TerminalSettings()
    let console = Terminal(
      self, inode: newInode(), mode: 0o620, specialDevice: DeviceNumber.make(5, 1), input: input, output: output,
      settings: settings)
    self.console = console
    add("console", console)
    add(
      "tty",
      Terminal(
        self, inode: newInode(), mode: 0o666, specialDevice: DeviceNumber.make(5, 0), input: input, output: output,
        settings: settings, needsTerminal: true))
    link("fd", to: "/proc/self/fd")
    link("stdin", to: "/proc/self/fd/0")
    link("stdout", to: "/proc/self/fd/1")
    link("stderr", to: "/proc/self/fd/2")
    link("ptmx", to: "pts/ptmx")
    add("shm", PseudoDirectory(self, inode: newInode(), mode: 0o1777))
    add("pts", PseudoDirectory(self, inode: newInode(), mode: 0o755))
  }

  /// A number for another file. At boot, before a second thread could ask.
  public func newInode() -> UInt64 {
    lastInode &+= 1
    return lastInode
  }

  /// Adds a file to the root directory.
  public func add(_ name: StaticString, _ node: Vnode) {
    // SAFETY: `init` gave `setRoot` a PseudoDirectory.
    unsafeDowncast(root.vnode.unsafelyUnwrapped, to: PseudoDirectory.self).add(PathBytes(name), node)
  }

  private func link(_ name: StaticString, to target: StaticString) {
    add(name, PseudoLink(self, inode: newInode(), target: PathBytes(target)))
  }

  /// The open file for a standard stream: the console if the stream is a terminal, otherwise what looks like a pipe.
  /// - Parameters:
  ///   - endpoint: where its bytes come from or go to.
  ///   - isInput: whether it is for reading (a terminal is open for both).
  ///   - mount: where this file system is mounted, for the stream's name.
  public func standardStream(_ endpoint: any ConsoleEndpoint, isInput: Bool, mount: Mount) -> OpenFile {
    if endpoint.isTerminal, let console {
      let vnode =
        endpoint === console.output || endpoint === console.input
        ? console : Terminal(sameAs: console, output: endpoint)
      let place = Location(mount: mount, dentry: rootEntry(PathBytes("console"), console))
      return StreamFile(vnode, at: place, flags: .readWrite, endpoint)
    }
    let vnode = StreamNode(endpoint)
    return StreamFile(
      vnode, at: AnonymousFileSystem.location(of: vnode, prefix: "pipe:["), flags: isInput ? [] : .writeOnly, endpoint)
  }
}
