# SPDX-License-Identifier: Apache-2.0
# mica: one non-recursive Makefile. 'make help' lists the targets, the variables stand first.

CC        ?= cc
PREFIX    ?= /usr/local
DESTDIR   ?=
MOUNTDIR  ?= /sbin
V         ?= 0
SAN       ?=
T         ?=
BUILD     ?= build$(if $(SAN),-san)

PACKAGES  := libcrypto libzstd jansson libisal zlib fuse3 sqlite3
HEADERS_ONLY := libarchive libcurl	# opened at first use, so that commands without them start fast
CSTD      := -std=gnu17 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DFUSE_USE_VERSION=314
WARNINGS  := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition \
	     -Wvla -Wformat=2 -Wwrite-strings -Wundef -Wpointer-arith -fno-common -Werror
HARDENING := -fstack-protector-strong -fstack-clash-protection -fcf-protection -fPIE
ifeq ($(SAN),)
OPTIMISE  := -O2 -g -D_FORTIFY_SOURCE=2
else
OPTIMISE  := -O1 -g -fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=undefined
endif
CFLAGS    ?=
VERSION   := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
# pkg-config is asked once, when first needed: on a fresh machine it is not there yet when this file is read.
PKG_CFLAGS = $(eval PKG_CFLAGS := $(shell pkg-config --cflags $(PACKAGES) $(HEADERS_ONLY)))$(PKG_CFLAGS)
PKG_LIBS   = $(eval PKG_LIBS := $(shell pkg-config --libs $(PACKAGES)))$(PKG_LIBS)
ALL_CFLAGS = $(CSTD) $(WARNINGS) $(OPTIMISE) $(HARDENING) -I. -I$(BUILD)/gen $(PKG_CFLAGS) $(CFLAGS)
ALL_LDFLAGS = $(if $(SAN),-fsanitize=$(SAN)) -pie -Wl,-z,relro,-z,now,-z,noexecstack,--as-needed $(LDFLAGS)
LIBS       = $(PKG_LIBS) -lm -lpthread -ldl

# Folders, lowest first; each is a library that knows only those before it (registry-client does not know layerfs).
SRC_formats  := $(wildcard formats/base/*.c formats/*.c)
SRC_layerfs  := $(wildcard layerfs/*.c)
SRC_registry := $(wildcard registry-client/*.c)
# The other files of the sandbox are the spawner, a program of its own inside the library (builder/sandbox/seccomp.mk).
SRC_builder  := $(wildcard builder/*.c) builder/sandbox/sandbox.c builder/sandbox/enter.c \
		builder/sandbox/probe.c
SRC_cli      := $(wildcard builder/cli/*.c)
SRC_all      := $(SRC_formats) $(SRC_layerfs) $(SRC_registry) $(SRC_builder) $(SRC_cli)

obj = $(patsubst %.c,$(BUILD)/%.o,$(1))
LIB_formats  := $(BUILD)/libformats.a
LIB_layerfs  := $(BUILD)/liblayerfs.a
LIB_registry := $(BUILD)/libregistry-client.a
LIB_builder  := $(BUILD)/libbuilder.a

Q := $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),,@printf '  %-7s %s\n' '$(1)' '$@')

.PHONY: all demo test layers headers lint fuzz bench install clean help format FORCE
.SECONDARY:
.DELETE_ON_ERROR:

all: $(BUILD)/mica

help:
	@echo 'make            build $(BUILD)/mica'
	@echo 'make demo       install what is missing, build an example image, run and mount it'
	@echo 'make test       everything; T=layerfs/tar runs a part'
	@echo 'make bench      measurements against rivals and floors; make fuzz: long fuzzing'
	@echo 'make stress     random operations on unions beside other file systems; make crash: servers killed; make scale'
	@echo 'make corpus     real and random recipes beside BuildKit (PEERS is a command prefix that runs docker)'
	@echo 'make lint       formatting, static analysis; make layers headers: dependency direction'
	@echo 'make install    PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)'
	@echo 'SAN=address,undefined builds with sanitizers; V=1 shows commands'

$(BUILD)/mica: $(call obj,$(SRC_cli)) $(LIB_builder) $(LIB_registry) $(LIB_layerfs) $(LIB_formats) $(BUILD)/flags
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o %.a,$^) $(LIBS)

$(LIB_formats):  $(call obj,$(SRC_formats))
$(LIB_layerfs):  $(call obj,$(SRC_layerfs))
$(LIB_registry): $(call obj,$(SRC_registry))
$(LIB_builder):  $(call obj,$(SRC_builder))
$(LIB_formats) $(LIB_layerfs) $(LIB_registry) $(LIB_builder):
	$(call say,AR)
	$(Q)rm -f $@ && ar rcs $@ $^

$(BUILD)/%.o: %.c $(BUILD)/flags
	$(call say,CC)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -DMICA_VERSION='"$(VERSION)"' -MMD -MP -c -o $@ $<

# Rebuild when the flags change.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS)' | cmp -s - $@ || echo '$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS)' >$@

include builder/sandbox/seccomp.mk
include $(wildcard tests/*.mk)

format:
	clang-format -i $(shell git ls-files '*.c' '*.h')

clean:
	rm -rf build build-san build-fuzz

-include $(patsubst %.c,$(BUILD)/%.d,$(SRC_all))
