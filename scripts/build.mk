# SPDX-License-Identifier: Apache-2.0
# `deno task build`: the native library, build/libtegula.so, and the preloaded library of confined
# processes, build/libtegula_seal.so, from ffi/*.c. libxdp and its dependencies are linked in, so that a
# built tree needs only libc of the host. Symbols that no binding names are hidden. Also builds the modules
# of confined processes as JavaScript, build/program/.

WARNINGS = -Wall -Wextra -Werror
# Builds are reproducible in any folder.
NO_PATHS = -ffile-prefix-map=$(CURDIR)=.
CFLAGS = -std=gnu11 -O2 -g1 $(WARNINGS) $(NO_PATHS) -fvisibility=hidden -fPIC -shared \
	-fstack-protector-strong -D_FORTIFY_SOURCE=2
LDFLAGS = -Wl,--exclude-libs,ALL,--gc-sections,-z,defs,-z,now,-z,relro
FILTER = build/xdp_filter.bpf.o
# Writes a temporary file and renames it, so that a running program keeps the old one.
INTO_PLACE = -o $@.$$$$ && mv $@.$$$$ $@ && echo built $@ >&2

PROGRAM = build/program/imports.json
MODULES := $(shell find apps ffi netbase tiles -name '*.ts' -o -name '*.html' -o -name '*.css' -o -name '*.json')
DENO ?= deno

all: build/libtegula.so build/libtegula_seal.so $(PROGRAM) build/commit

# Outside a clone of the repository it stays unchanged, or empty.
build/commit: FORCE | build
	git rev-parse --short=12 HEAD >$@.$$$$ 2>/dev/null && mv $@.$$$$ $@ || { rm $@.$$$$; touch $@; }
FORCE:

# Depends on the folders, too, as a module may have been removed.
$(PROGRAM): $(MODULES) $(sort $(dir $(MODULES))) scripts/program.ts deno.json deno.lock | build
	$(DENO) run --allow-all --no-check scripts/program.ts

build/libtegula.so: $(foreach name,host process region sockets tile xsk,ffi/$(name).c) \
		ffi/native.h ffi/policy.h build/shared.h build/system_calls.inc $(FILTER) scripts/build.mk | build
	gcc $(CFLAGS) -Ibuild -DFILTER_OBJECT='"$(abspath $(FILTER))"' $(filter %.c,$^) -Wl,--wrap=stderr \
		-Wl,-Bstatic -lxdp -lbpf -lelf -lz -lzstd -Wl,-Bdynamic $(LDFLAGS) $(INTO_PLACE)

build/libtegula_seal.so: ffi/seal.c build/shared.h scripts/build.mk | build
	gcc $(CFLAGS) -Ibuild $< $(LDFLAGS) $(INTO_PLACE)

# The names of this architecture's system calls, by number.
build/system_calls.inc: scripts/build.mk | build
	echo '#include <asm/unistd.h>' | gcc -dM -E - >$@.$$$$ && \
		sed -n 's/^#define __NR_\([a-z_0-9]*\) .*/[__NR_\1] = "\1",/p' $@.$$$$ >$@ && rm $@.$$$$

# What C and TypeScript share.
build/shared.h: ffi/shared.ts | build
	$(DENO) run --no-check $< >$@.$$$$ && mv $@.$$$$ $@

$(FILTER): ffi/xdp_filter.bpf.c build/shared.h scripts/build.mk | build
	clang -target bpf -O2 -g $(WARNINGS) $(NO_PATHS) -Ibuild -I/usr/include/$$(gcc -print-multiarch) -c $< $(INTO_PLACE)

build:
	mkdir -p build
