# Sourced by the scripts here: Debian's cloud kernel, downloaded once into .build/testbed, and initial RAM disks with modules of it.
# Needs `root`, the project's folder, and `fail`, a function that ends with a sentence. Sets `bed`, `version`, `modules`, `vmlinuz` and `qemu`, the
# emulator's command.
bed=$root/.build/testbed
mkdir -p "$bed"
PATH=$PATH:/sbin:/usr/sbin
for tool in qemu-system-x86_64 cpio depmod busybox dpkg-deb lz4; do
  command -v $tool > /dev/null || fail "$tool is missing: run 'make prerequisites'"
done

# The newest one that the package index has, unpacked once.
if [ ! -e "$bed/kernel/.complete" ]; then
  package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/{print $2; exit}')
  [ -n "$package" ] || fail "no linux-image-cloud-amd64 in the package index: run 'apt-get update'"
  rm -rf "$bed/kernel" "$bed/download"; mkdir -p "$bed/kernel" "$bed/download"
  (cd "$bed/download" && apt-get download -qq "$package" 2>/dev/null) || fail "cannot download $package"
  dpkg-deb -x "$bed"/download/*.deb "$bed/kernel"
  depmod -b "$bed/kernel" "$(ls "$bed/kernel/lib/modules")"
  rm -rf "$bed/download"
  touch "$bed/kernel/.complete"
fi
version=$(ls "$bed/kernel/lib/modules")
modules=$bed/kernel/lib/modules/$version
vmlinuz=$(echo "$bed"/kernel/boot/vmlinuz-*)

# The emulator: the installed one; with TESTBED_NEWER_QEMU=1, where that is older than 9, one of Debian's backports, unpacked beside the
# kernel. It delivers no interrupt twice, but has the other of the bugs that testbed.sh tells of.
qemu=(qemu-system-x86_64)
qemu_major() { "$1" --version 2> /dev/null | sed -n 's/.*emulator version \([0-9]*\)\..*/\1/p'; }
newer_qemu() {
  local apt=$bed/apt package
  [ -e "$bed/qemu/.complete" ] && return
  rm -rf "$bed/qemu" "$apt"; mkdir -p "$bed/qemu" "$apt/lists/partial"
  echo "deb http://deb.debian.org/debian $(. /etc/os-release && echo "$VERSION_CODENAME")-backports main" > "$apt/sources.list"
  local options=(-qq -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$apt/lists")
  apt-get "${options[@]}" update > /dev/null 2>&1 || return
  for package in qemu-system-x86 qemu-system-common qemu-system-data seabios; do
    (cd "$apt" && apt-get "${options[@]}" download "$package" > /dev/null 2>&1) || return
  done
  for package in "$apt"/*.deb; do dpkg-deb -x "$package" "$bed/qemu" || return; done
  [ "$(qemu_major "$bed/qemu/usr/bin/qemu-system-x86_64")" -ge 9 ] && touch "$bed/qemu/.complete"
}
if [ "${TESTBED_NEWER_QEMU:-0}" = 1 ] && [ "$(qemu_major qemu-system-x86_64)" -lt 9 ] && newer_qemu; then
  qemu=("$bed/qemu/usr/bin/qemu-system-x86_64" -L "$bed/qemu/usr/share/seabios" -L "$bed/qemu/usr/share/qemu")
fi

# new_tree DIR: what a RAM disk begins with.
new_tree() {
  mkdir -p "$1"/{bin,dev,proc,sys,tmp,mod,etc,root,mnt}
  cp "$(command -v busybox)" "$1/bin/busybox"
  : > "$1/mod/order"
}
# add_module DIR NAME: a module with everything that it depends on, in the order of loading (mod/order). What the kernel has built in is there.
add_module() {
  local dependency file
  grep -q "/$2\.ko$" "$modules/modules.builtin" && return
  for dependency in $(sed -n "s|^[^:]*/$2\.ko: ||p" "$modules/modules.dep"); do add_module "$1" "$(basename "$dependency" .ko)"; done
  file=$(find "$modules" -name "$2.ko" | head -1)
  [ -n "$file" ] || fail "the kernel has no module $2"
  grep -qsx "$2.ko" "$1/mod/order" || { cp "$file" "$1/mod/"; echo "$2.ko" >> "$1/mod/order"; }
}
# pack DIR FILE: the RAM disk.
pack() { (cd "$1" && find . | cpio -o -H newc --quiet | gzip -1) > "$2"; }
