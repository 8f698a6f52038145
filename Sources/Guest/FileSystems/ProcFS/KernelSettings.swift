// The files under /proc/sys that programs look at: what is so, though none can be set. Where Linux has a setting for what this kernel
// does in one way only, the file says which of Linux's ways that is. Those of which higher layers know the values are added there.
import Base
import Files
import Pages

extension ProcessFileSystem {
  /// Adds the settings that need nothing from above.
  func addSettings() {
    let settings: [(path: StaticString, text: StaticString)] = [
      ("sys/kernel/randomize_va_space", "2\n"), ("sys/kernel/pid_max", "32768\n"),
      ("sys/kernel/threads-max", "32768\n"),
      ("sys/kernel/cap_last_cap", "40\n"), ("sys/kernel/core_pattern", "core\n"),
      ("sys/kernel/ngroups_max", "65536\n"), ("sys/kernel/sched_child_runs_first", "0\n"),
      ("sys/kernel/perf_event_paranoid", "4\n"), ("sys/kernel/kptr_restrict", "1\n"),
      ("sys/kernel/dmesg_restrict", "1\n"), ("sys/kernel/panic", "0\n"), ("sys/kernel/sysrq", "0\n"),
      ("sys/kernel/tainted", "0\n"), ("sys/kernel/random/entropy_avail", "256\n"),
      ("sys/kernel/random/poolsize", "256\n"),
      ("sys/vm/overcommit_memory", "0\n"), ("sys/vm/overcommit_ratio", "50\n"), ("sys/vm/overcommit_kbytes", "0\n"),
      ("sys/vm/max_map_count", "65530\n"), ("sys/vm/mmap_min_addr", "65536\n"), ("sys/vm/swappiness", "60\n"),
      ("sys/vm/nr_hugepages", "0\n"), ("sys/vm/nr_overcommit_hugepages", "0\n"), ("sys/vm/page-cluster", "3\n"),
      ("sys/vm/zone_reclaim_mode", "0\n"), ("sys/vm/panic_on_oom", "0\n"), ("sys/vm/vfs_cache_pressure", "100\n"),
      ("sys/vm/dirty_ratio", "20\n"), ("sys/vm/dirty_background_ratio", "10\n"),
      ("sys/fs/file-max", "1048576\n"), ("sys/fs/nr_open", "1048576\n"), ("sys/fs/pipe-max-size", "1048576\n"),
      ("sys/fs/pipe-user-pages-hard", "0\n"), ("sys/fs/pipe-user-pages-soft", "16384\n"),
      ("sys/fs/aio-max-nr", "65536\n"), ("sys/fs/aio-nr", "0\n"), ("sys/fs/leases-enable", "0\n"),
      ("sys/fs/lease-break-time", "45\n"), ("sys/fs/protected_symlinks", "0\n"),
      ("sys/fs/protected_hardlinks", "0\n"), ("sys/fs/suid_dumpable", "0\n"),
      ("sys/fs/inotify/max_queued_events", "16384\n"), ("sys/fs/inotify/max_user_instances", "128\n"),
      ("sys/fs/inotify/max_user_watches", "65536\n"), ("sys/fs/epoll/max_user_watches", "1048576\n"),
      ("sys/net/core/somaxconn", "4096\n"), ("sys/net/core/rmem_default", "212992\n"),
      ("sys/net/core/rmem_max", "212992\n"), ("sys/net/core/wmem_default", "212992\n"),
      ("sys/net/core/wmem_max", "212992\n"), ("sys/net/core/optmem_max", "131072\n"),
      ("sys/net/unix/max_dgram_qlen", "10\n"),
    ]
    for setting in settings { add(setting.path, text: setting.text) }
    addNetworkSettings()
    add("sys/vm/min_free_kbytes") { (text) throws(Errno) in
      text.append((Frames.reserve &* 4).u64)
      text.append("\n")
    }
  }
}
