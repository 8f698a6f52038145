# How the guest kernel is made: Embedded Swift, one object a module, in the order of the imports.
# Included: modules.mk, written by GuestImagePlugin.swift from Package.swift.
include modules.mk
# What is built anew when the way in which it is built changes.
RECIPE := $(ROOT)/Plugins/GuestImagePlugin/guest.mk modules.mk

BIN := $(dir $(realpath $(SWIFTC)))
TRIPLE := x86_64-unknown-none-elf
RESOURCES := $(realpath $(BIN)../lib/swift/embedded/$(TRIPLE))
BOOT := $(ROOT)/Sources/Guest/Boot
VDSO := $(ROOT)/Sources/Guest/VDSO

# No vector, MMX or x87 code may reach the kernel (a test disassembles the image): a system call that
# does not block then preserves the program's vector state for free. No red zone: interrupts that hit the
# kernel push onto the stack they found.
CODE := -mno-red-zone -mno-sse -mno-mmx -msoft-float -ffreestanding
CFLAGS := --target=$(TRIPLE) $(CODE) -fno-stack-protector -fpie -fvisibility=hidden -O2 -g -DGUEST \
  -ffunction-sections -fdata-sections -Werror $(addprefix -I,$(INCLUDES))
SWIFTFLAGS := -target $(TRIPLE) -enable-experimental-feature Embedded -enable-experimental-feature Lifetimes \
  -enable-experimental-feature Extern \
  -wmo -g -parse-as-library -swift-version 6 -DGUEST -warnings-as-errors \
  $(addprefix -Xcc ,$(CODE)) -Xcc -DGUEST -Xfrontend -disable-stack-protector -Xfrontend -function-sections \
  -enforce-exclusivity=unchecked -module-cache-path ModuleCache -I . $(addprefix -I ,$(INCLUDES))

# Modules that are asked seldom are compiled for size.
OPTIMISE := -O
OPTIMISE_Bootstrap := -Osize
OPTIMISE_DevFS := -Osize
OPTIMISE_Kernel := -Osize
OPTIMISE_Network := -Osize
OPTIMISE_ProcFS := -Osize
OPTIMISE_VirtioFS := -Osize

# There is no heap yet: what would allocate does not compile.
MORE_Bootstrap := -no-allocations

# The image's note and the kernel in it say the same version: the one that BootInformation.swift has.
ABI := $(ROOT)/Sources/Virtio/ABI/BootInformation.swift
BOOT_VERSION := $(shell sed -n 's/.*currentVersion: UInt32 = \([0-9]*\)$$/\1/p' $(ABI))
$(if $(BOOT_VERSION),,$(error $(ABI) does not say its version where it is looked for))
boot-image.o: $(ABI)
boot-image.o: CFLAGS += -DBOOT_INFORMATION_VERSION=$(BOOT_VERSION)

ASSEMBLY := $(sort $(wildcard $(BOOT)/*.S))
BOOT_OBJECTS := $(patsubst $(BOOT)/%.S,boot-%.o,$(ASSEMBLY))
# GuestAPI belongs to the programs that images/link.sh links with the kernel, not to the kernel.
OBJECTS := $(addsuffix .o,$(filter-out GuestAPI,$(MODULES)))

guest_image.S: kernel.elf GuestAPI.o
	@printf '%s\n' "// $$(sha256sum < kernel.elf)" \
	  '    .section .rodata.guest_image,"a",@progbits' '    .balign 4096' \
	  '    .globl osv_guest_image' 'osv_guest_image:' '    .incbin "$(CURDIR)/kernel.elf"' \
	  '    .globl osv_guest_image_end' 'osv_guest_image_end:' \
	  '    .section .note.GNU-stack,"",@progbits' > $@

# The debug image has all symbols (the disassembly test). The other is what osv-run carries: the names of functions for backtraces, in readable form
# without types, which is a third of the mangled names' size.
kernel.elf: kernel.debug.elf
	$(BIN)llvm-nm --defined-only $< | sed 's/^[0-9a-f]* //' | sort -u > symbols.txt
	sed -n 's/^[^tTwW] //p' symbols.txt > data-names.txt
	sed -n 's/^[tTwW] //p' symbols.txt | grep '^\$$[es]' > mangled-names.txt
	$(BIN)swift-demangle --simplified < mangled-names.txt | tr -d '#' | tr ' ' '_' | paste -d' ' mangled-names.txt - > names.txt
	$(BIN)llvm-objcopy --strip-debug --strip-symbols=data-names.txt --redefine-syms=names.txt $< $@

# The kernel as one relocatable object: images of Swift programs are linked from it.
kernel.o: $(BOOT_OBJECTS) $(OBJECTS)
	$(BIN)ld.lld -r -o $@ $^

# Linked from the modules' own objects: in one relocatable object, functions that several modules have copies of lie in one
# section, and all copies stay. Functions of equal code become one (generic code made for types of equal layout): nothing
# compares their addresses.
kernel.debug.elf: kernel.o $(BOOT)/kernel.ld $(RECIPE)
	$(BIN)ld.lld -pie --no-dynamic-linker -z norelro -z notext -z max-page-size=4096 --gc-sections --icf=all --pack-dyn-relocs=relr \
	  -T $(BOOT)/kernel.ld $(BOOT_OBJECTS) $(OBJECTS) $(RESOURCES)/libswiftUnicodeDataTables.a -o $@

boot-%.o: $(BOOT)/%.S $(HEADERS) modules.mk
	$(BIN)clang $(CFLAGS) -c $< -o $@

# The kernel's code for programs: a shared object of its own, carried by boot-vdso.o.
boot-vdso.o: vdso.so
vdso.so: vdso.o $(VDSO)/vdso.ld
	$(BIN)ld.lld -shared -soname linux-vdso.so.1 --hash-style=both -Bsymbolic -z max-page-size=4096 -z norelro -s \
	  --eh-frame-hdr --no-undefined -T $(VDSO)/vdso.ld vdso.o -o $@

vdso.o: $(VDSO)/vdso.c $(HEADERS) modules.mk
	$(BIN)clang --target=$(TRIPLE) -mno-sse -mno-mmx -msoft-float -ffreestanding -fno-stack-protector -fPIC \
	  -fvisibility=hidden -fasynchronous-unwind-tables -fomit-frame-pointer -O2 -Wall -Wextra -Werror \
	  $(addprefix -I,$(INCLUDES)) -c $< -o $@

# One module: its object depends on its sources, the C headers and the modules it imports. The compiler leaves an
# unchanged object's time alone, yet modules above may have inlined code from below: the touch passes the change on.
define module
$(1).o: $(SOURCES_$(1)) $(HEADERS) $(RECIPE) $(foreach m,$(filter $(MODULES),$(IMPORTS_$(1))),$(m).o)
	$(SWIFTC) $(SWIFTFLAGS) $(or $(OPTIMISE_$(1)),$(OPTIMISE)) $(MORE_$(1)) -module-name $(1) $(SOURCES_$(1)) \
	  -emit-module -emit-module-path $(1).swiftmodule -c -o $(1).o
	@touch $(1).o
endef
$(foreach m,$(MODULES),$(eval $(call module,$(m))))
