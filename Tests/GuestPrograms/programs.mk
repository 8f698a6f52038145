# Compiles every C program of this folder in the flavours that Linux users bring:
#   .build/guest-programs/FLAVOUR/NAME
# glibc-static, glibc-static-pie (as gcc makes them), fixed (non-PIE at 0x400000), musl-static, musl-static-pie,
# glibc-dynamic, musl-dynamic.
# A program may narrow its flavours by a line "// flavours: A B" and add compiler options by "// cflags: ...".
HERE := $(dir $(lastword $(MAKEFILE_LIST)))
OUT := .build/guest-programs
PROGRAMS := $(patsubst $(HERE)%.c,%,$(wildcard $(HERE)*.c))
HEADERS := $(wildcard $(HERE)*.h)
FLAVOURS := glibc-static glibc-static-pie fixed musl-static musl-static-pie glibc-dynamic musl-dynamic

COMPILE_glibc-static := gcc -static
COMPILE_glibc-static-pie := gcc -static-pie -fPIE
COMPILE_fixed := gcc -static -no-pie -Wl,-Ttext-segment=0x400000
COMPILE_musl-static := musl-gcc -static
COMPILE_glibc-dynamic := gcc -pie -fPIE
COMPILE_musl-dynamic := musl-gcc -pie -fPIE
# Debian's musl-gcc does not know -static-pie: its start files are named here.
MUSL := /usr/lib/x86_64-linux-musl
COMPILE_musl-static-pie := musl-gcc -fPIE -static -nostartfiles -Wl,-pie,--no-dynamic-linker,-z,text $(MUSL)/rcrt1.o $(MUSL)/crti.o
FINISH_musl-static-pie := $(MUSL)/crtn.o

flavours = $(or $(shell sed -n 's,^// flavours: ,,p' $(HERE)$(1).c),$(FLAVOURS))
cflags = $(shell sed -n 's,^// cflags: ,,p' $(HERE)$(1).c)
TARGETS := $(foreach p,$(PROGRAMS),$(foreach f,$(call flavours,$(p)),$(OUT)/$(f)/$(p)))

.PHONY: all
all: $(TARGETS)

define rule
$(OUT)/$(1)/%: $(HERE)%.c $(HERE)programs.mk $(HEADERS)
	@mkdir -p $$(@D)
	$(COMPILE_$(1)) -O2 -g -Wall -Werror -pthread $$(call cflags,$$*) -o $$@ $$< $$(FINISH_$(1))
endef
$(foreach f,$(FLAVOURS),$(eval $(call rule,$(f))))
