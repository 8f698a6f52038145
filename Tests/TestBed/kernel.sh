# Sourced by the scripts here: Debian's cloud kernel, downloaded once into .build/testbed, and initial RAM disks with modules of it.
# Needs `root`, the project's folder, and `fail`, a function that ends with a sentence. Sets `bed`, `version`, `modules` and `vmlinuz`.
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
