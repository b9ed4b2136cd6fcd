# SPDX-License-Identifier: Apache-2.0
# The targets around the tests. What installs packages does so first and then starts make again, so that on a fresh machine
# git and make are enough.

demo:
	$(Q)tests/tools/install-packages demo
	$(Q)$(MAKE) --no-print-directory all
	$(Q)tests/demo/run $(BUILD)/mica

test:
	$(Q)tests/tools/install-packages test
	$(Q)$(MAKE) --no-print-directory all unit-programs fuzz-programs stress-programs
	$(Q)tests/run --build $(BUILD) $(T)

bench:
	$(Q)tests/tools/install-packages bench
	$(Q)$(MAKE) --no-print-directory all
	$(Q)tests/bench/run --mica $(BUILD)/mica $(BENCH)

# Includes go downwards only, and each third-party library has one includer (STY-3, STY-5).
layers:
	$(Q)tests/tools/check-layers

# Every header compiles alone.
HEADERS := $(wildcard formats/base/*.h formats/*.h layerfs/*.h registry-client/*.h builder/*.h builder/*/*.h)
headers:
	$(Q)for h in $(HEADERS); do \
		$(CC) $(CSTD) $(WARNINGS) -I. $(PKG_CFLAGS) -fsyntax-only -x c $$h || exit 1; \
	done

C_FILES := $(shell git ls-files '*.c' '*.h' 2>/dev/null)
SHELL_FILES := $(shell git grep -lE '^\#!/bin/(sh|bash)|^\#!/usr/bin/env (ba)?sh' -- . ':!tests/corpus/*/*' ':!tests/recipe/*/*' 2>/dev/null)
TIDY_FILES := $(filter %.c,$(filter-out tests/%,$(C_FILES)))

lint: $(BUILD)/gen/seccomp_filter.h
	$(Q)clang-format --dry-run -Werror $(C_FILES)
	$(Q)tests/tools/check-banned $(filter-out tests/%,$(C_FILES))
	$(Q)shellcheck $(SHELL_FILES)
	$(Q)codespell -q 3 -L 'fo,ser,creat,te,ot,nd,inout,parth,stdio,ba,fpr,vertexes,copys,fro,passt,damon' $(C_FILES) $(SHELL_FILES) $(wildcard *.md */README.md)
	$(Q)cppcheck --quiet --std=c11 --error-exitcode=1 --inline-suppr -j 2 --suppressions-list=tests/tools/cppcheck.suppress \
		--enable=warning,portability -I. $(TIDY_FILES)
	$(Q)printf '%s\n' $(TIDY_FILES) | xargs -P 2 -n 6 sh -c 'clang-tidy --quiet --warnings-as-errors="*" "$$@" -- \
		$(CSTD) -I. -I$(BUILD)/gen $(PKG_CFLAGS) -DMICA_VERSION="\"lint\"" 2>/dev/null' tidy

install: all
	install -D -m 755 $(BUILD)/mica $(DESTDIR)$(PREFIX)/bin/mica
	$(Q)for page in $(wildcard builder/man/*.[1-8]); do \
		install -D -m 644 $$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/}; \
	done
	$(Q)ln -sf mica $(DESTDIR)$(PREFIX)/bin/mica-fuse-overlayfs
	$(Q)mkdir -p $(DESTDIR)$(MOUNTDIR) && ln -sf $(PREFIX)/bin/mica $(DESTDIR)$(MOUNTDIR)/mount.fuse.mica || \
		echo 'mount -t fuse.mica needs a link to mica as $(MOUNTDIR)/mount.fuse.mica'
