#!/bin/bash
# Links a Swift program with the kernel into one image: images/link.sh NAME OUTPUT
# NAME "kernel" gives the kernel alone, for other monitors than osv-run, which has it inside.
#
# The kernel is linked first and every symbol of it made local except its C ABI (osv_*) and the entry, so that the weak symbols the
# two worlds share (generic code, compiled here with vector registers) can never stand in for the kernel's. The program follows.
set -euo pipefail
name=$1 output=$2
root=$(cd "$(dirname "$0")/.." && pwd)
kernel=$(find "$root/.build/plugins" -path '*GuestImagePlugin*' -name kernel.o -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -1 | cut -d' ' -f2)
[ -n "$kernel" ] || { echo "link.sh: the guest kernel is not built; run 'make build'" >&2; exit 1; }
work=$(dirname "$kernel")
if [ "$name" = kernel ]; then
  mkdir -p "$(dirname "$output")"
  cp "$work/kernel.elf" "$output"
  exit
fi
bin=$(dirname "$(readlink -f "$(command -v swiftc)")")
triple=x86_64-unknown-none-elf
objects=$root/.build/images/objects/$name
mkdir -p "$objects" "$(dirname "$output")"

# The program's world may use SSE: it runs as a program, not as kernel.
swiftc -target $triple -enable-experimental-feature Embedded -enable-experimental-feature Lifetimes -wmo -O -g \
  -parse-as-library -swift-version 6 -DGUEST -warnings-as-errors -Xfrontend -disable-stack-protector \
  -Xfrontend -function-sections -I "$work" -Xcc -DGUEST \
  -I "$root/Sources/Guest/Instructions/include" -module-cache-path "$objects/ModuleCache" -module-name "Image_$name" \
  "$root/images/$name"/*.swift -c -o "$objects/program.o"

# The C ABI that a program may call, and the memory functions that compilers call; all else in the kernel becomes local. osv_main
# is the kernel's weak reference to the program.
"$bin/llvm-objcopy" --wildcard --keep-global-symbol='osv_*' --keep-global-symbol=kernel_start \
  --keep-global-symbol=memcpy --keep-global-symbol=memmove --keep-global-symbol=memset \
  --keep-global-symbol=memcmp --keep-global-symbol=strlen "$kernel" "$objects/kernel.o"
"$bin/ld.lld" -pie --no-dynamic-linker -z norelro -z notext -z max-page-size=4096 --gc-sections --pack-dyn-relocs=relr \
  --defsym=osv_image_kind=1 -T "$root/Sources/Guest/Boot/kernel.ld" "$objects/kernel.o" "$objects/program.o" "$work/GuestAPI.o" "$work/Base.o" \
  --defsym=free=osv_image_free --defsym=osv_image_kind=1 \
  "$bin/../lib/swift/embedded/$triple/libswiftUnicodeDataTables.a" -o "$output.debug"
"$bin/llvm-objcopy" --strip-debug "$output.debug" "$output"
