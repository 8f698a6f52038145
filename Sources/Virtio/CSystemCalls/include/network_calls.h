// The Linux calls that network interfaces of the host and programs that carry packets need and Swift's Glibc module does not have.
// Every wrapper returns the call's result, or the error number negated.
#pragma once

#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/// A TAP's properties (TUNSETIFF's flags).
extern const int osv_tap_has_header, osv_tap_multi_queue, osv_tap_no_information;

/// Opens a queue of the TAP interface `name` (16 bytes, NUL-terminated), which is made if it is not there and may be; non-blocking and
/// closed on exec. `name` is afterwards what the interface is called: "%d" in it becomes a number.
/// `flags`: the properties it shall have.
int osv_tap_open(char *name, int flags);

/// What an open descriptor is a queue of: fills in the name (16 bytes) and gives the properties. EBADFD or ENOTTY if it is no TAP.
int osv_tap_identify(int tap, char *name);

/// Sets the bytes of the header in front of each frame.
int osv_tap_set_header(int tap, int byte_count);

/// Which offloads whoever reads the TAP takes: bits of `osv_tap_offload`, EINVAL if the kernel does not know one of them.
int osv_tap_set_offloads(int tap, unsigned offloads);
enum osv_tap_offload {
  OSV_TAP_CHECKSUM = 1,
  OSV_TAP_TCP4 = 2,
  OSV_TAP_TCP6 = 4,
  OSV_TAP_ECN = 8,
  OSV_TAP_UDP4 = 32,
  OSV_TAP_UDP6 = 64,
};

/// Puts a queue to use, or out of use.
int osv_tap_use_queue(int tap, int is_used);

/// The ioctl requests of the two calls above, which a running machine makes.
extern const unsigned long osv_tap_requests[2];

/// The MTU of the interface `name`.
int osv_interface_mtu(const char *name);

/// Sets it.
int osv_interface_set_mtu(const char *name, int mtu);

/// The MAC address of the interface `name`.
int osv_interface_mac(const char *name, uint8_t address[6]);

/// Gives the interface an IPv4 address (4 bytes, in the order on the wire) with a prefix of so many bits.
int osv_interface_add_ipv4(const char *name, const uint8_t address[4], int prefix);

/// Gives it an IPv6 address likewise (16 bytes).
int osv_interface_add_ipv6(const char *name, const uint8_t address[16], int prefix);

/// Switches it on.
int osv_interface_up(const char *name);

/// Two connected stream sockets of the UNIX domain, non-blocking and closed on exec.
int osv_socket_pair(int sockets[2]);

/// Starts a program, searched for in PATH, in a process group of its own, with signals as a shell gives them, standard input and output
/// /dev/null, standard error `errors`, and the descriptor `passed` as number 3; nothing else is open in it.
/// `arguments` ends with NULL. Gives the process's id.
int osv_start_program(char *const arguments[], int passed, int errors);

/// Waits until a child ends, `milliseconds` at most: its wait status, or -ETIME; -ECHILD if it was waited for before.
int osv_wait_child(int child, int milliseconds);

/// A file without a name (memfd_create(2)) of `byte_count` zeros that does not grow: what is written beyond its end fails.
int osv_bounded_file(const char *name, long byte_count);

/// ppoll(2) without a signal mask; `limit` may be NULL.
int osv_ppoll(struct pollfd *waits, unsigned long count, const struct timespec *limit);

/// Bytes that were sent on a socket and that the other side has not read.
int osv_unread_bytes(int socket);

/// What kind of descriptor it is: SOCK_STREAM and so on for a socket of the UNIX domain, -ENOTSOCK for anything that is none.
int osv_unix_socket_type(int descriptor);

/// fcntl(2): makes it non-blocking.
int osv_set_nonblocking(int descriptor);

/// sched_getaffinity(2) and sched_setaffinity(2) with a set of so many bytes, a bit for each processor; `thread` 0: the caller.
int osv_get_affinity(int thread, void *set, size_t byte_count);
int osv_set_affinity(int thread, const void *set, size_t byte_count);

/// The processor that the calling thread runs on.
int osv_current_processor(void);
