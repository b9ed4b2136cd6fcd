# SPDX-License-Identifier: Apache-2.0
# Fuzz targets: tests/fuzz/NAME.c. 'make test' replays the stored inputs through them with the normal compiler
# (tests/fuzz/replay.c); 'make fuzz' builds everything once more with clang's libFuzzer and sanitizers and lets it search.
#
#	make fuzz FUZZ_SECONDS=600 FUZZ='tar erofs'	some targets, longer; -j2: two at once
#
# New inputs stay in $(BUILD)/corpus/NAME, which later runs start from; what crashes is stored beside it. An input worth
# keeping is copied to tests/fuzz/inputs/NAME by hand.

FUZZ_SECONDS ?= 60
FUZZ         ?= $(filter-out replay,$(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/*.c)))
# What calls the targets: the replayer, or libFuzzer, which brings its own main.
FUZZ_ENGINE  ?= $(BUILD)/tests/fuzz/replay.o
FUZZ_PROGRAMS := $(patsubst %,$(BUILD)/tests/fuzz/%,$(FUZZ))

$(FUZZ_PROGRAMS): %: %.o $(filter %.o,$(FUZZ_ENGINE)) $(LIB_builder) $(LIB_registry) $(LIB_layerfs) $(LIB_formats)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) $(filter -%,$(FUZZ_ENGINE)) -o $@ $(filter %.o %.a,$^) $(LIBS)

fuzz-programs: $(FUZZ_PROGRAMS)

fuzz:
	$(Q)tests/tools/install-packages fuzz
	$(Q)$(MAKE) --no-print-directory BUILD=build-fuzz CC=clang SAN=fuzzer-no-link,address,undefined \
		FUZZ_ENGINE=-fsanitize=fuzzer fuzz-search

FUZZ_SEARCHES := $(patsubst %,fuzz-search-%,$(FUZZ))
fuzz-search: $(FUZZ_SEARCHES)
$(FUZZ_SEARCHES): fuzz-search-%: $(BUILD)/tests/fuzz/%
	$(call say,FUZZ)
	$(Q)mkdir -p $(BUILD)/corpus/$* tests/fuzz/inputs/$*
	$(Q)$< -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
		-artifact_prefix=$(BUILD)/corpus/$*- $(BUILD)/corpus/$* tests/fuzz/inputs/$* >$(BUILD)/corpus/$*.log 2>&1 || \
		{ tail -n 40 $(BUILD)/corpus/$*.log; exit 1; }
	$(Q)grep -E '^Done' $(BUILD)/corpus/$*.log

.PHONY: fuzz-programs fuzz-search $(FUZZ_SEARCHES)
-include $(patsubst %,%.d,$(FUZZ_PROGRAMS)) $(BUILD)/tests/fuzz/replay.d
