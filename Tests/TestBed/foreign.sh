#!/bin/bash
# osv-run as the monitor of somebody else's kernel: in the bed (hardware KVM, emulated) it boots Debian's Linux, as a bzImage and by PVH, and
# that Linux drives our devices with its own drivers. foreign-init runs in there, foreign-script in the bed around it.
#
#   foreign.sh OSV-RUN
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
fail() { echo "foreign: $*" >&2; exit 125; }
. "$root/Tests/TestBed/kernel.sh"
files=$(mktemp -d "$bed/foreign.XXXXXX")
trap 'rm -rf "$files"' EXIT

new_tree "$files/tree"
for module in virtio_pci virtiofs virtio-rng virtio_balloon virtio_net ipv6; do add_module "$files/tree" $module; done
cp "$root/Tests/TestBed/foreign-init" "$files/tree/init"
cp "$root/Tests/TestBed/foreign-init" "$files/inner-init"
pack "$files/tree" "$files/inner.gz"

# The bzImage's payload, an ELF file: where it lies say bytes 0x248 and 0x24c of the header, counted from behind the set-up sectors. Its
# last four bytes are its size.
word() { od -An -t u4 -j $(($1)) -N 4 "$vmlinuz" | tr -d ' '; }
sectors=$(od -An -t u1 -j $((0x1f1)) -N 1 "$vmlinuz" | tr -d ' ')
tail -c +$(((sectors + 1) * 512 + $(word 0x248) + 1)) "$vmlinuz" | head -c $(($(word 0x24c) - 4)) > "$files/payload" || true
case $(od -An -t x4 -N 4 "$files/payload" | tr -d ' ') in
184c2102) lz4 -dcq "$files/payload" > "$files/vmlinux" ;;
587a37fd) xz -dc "$files/payload" > "$files/vmlinux" ;;
*) fail "the kernel is compressed in a way that is not known here" ;;
esac
cp "$vmlinuz" "$files/vmlinuz"
"$root/Tests/TestBed/testbed.sh" "$root/Tests/TestBed/foreign-script" "$1" "$files/vmlinuz" "$files/vmlinux" "$files/inner.gz" "$files/inner-init"
