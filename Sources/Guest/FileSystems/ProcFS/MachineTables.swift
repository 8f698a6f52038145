// Files of /proc that are tables of things this machine has none of: their headers alone, as programs that parse them expect; and those of
// the network, as far as there is one.
import Base
import Files

extension ProcessFileSystem {
  /// Adds them.
  func addTables() {
    let tables: [(path: StaticString, text: StaticString)] = [
      ("swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"), ("modules", ""),
      ("partitions", "major minor  #blocks  name\n\n"), ("diskstats", ""),
      ("mdstat", "Personalities : \nunused devices: <none>\n"),
      ("cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"), ("locks", ""), ("kallsyms", ""),
      (
        "sysvipc/msg",
        "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n"
      ),
      ("sysvipc/sem", "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n"),
      ("devices", "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n\nBlock devices:\n"),
      ("misc", ""), ("fb", ""), ("execdomains", "0-0\tLinux           \t[kernel]\n"),
    ]
    for table in tables { add(table.path, text: table.text) }
    addNetwork()
    let network: [(path: StaticString, text: StaticString)] = [
      ("net/igmp", "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"),
      ("net/dev_mcast", ""),
      (
        "net/wireless",
        """
        Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE
         face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22

        """
      ),
    ]
    for table in network { add(table.path, text: table.text) }
    // What hangs on no process' life: Linux's values for those that are in no group.
    add(processFile: "cgroup") { (_, text) throws(Errno) in text.append("0::/\n") }
    add(processFile: "oom_score") { (_, text) throws(Errno) in text.append("0\n") }
    add(processFile: "oom_score_adj") { (_, text) throws(Errno) in text.append("0\n") }
    add(processFile: "oom_adj") { (_, text) throws(Errno) in text.append("0\n") }
    add(processFile: "loginuid") { (_, text) throws(Errno) in text.append("4294967295") }
    add(processFile: "sessionid") { (_, text) throws(Errno) in text.append("4294967295") }
    add(processFile: "wchan") { (_, text) throws(Errno) in text.append("0") }
    add(processFile: "personality", mode: 0o400) { (_, text) throws(Errno) in text.append("00000000\n") }
    add(processFile: "coredump_filter") { (_, text) throws(Errno) in text.append("00000033\n") }
    for name in ["uid_map", "gid_map"] as [StaticString] {
      add(processFile: name) { (_, text) throws(Errno) in text.append("         0          0 4294967295\n") }
    }
    add(processFile: "setgroups") { (_, text) throws(Errno) in text.append("allow\n") }
  }
}
