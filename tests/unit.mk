# SPDX-License-Identifier: Apache-2.0
# Unit tests: tests/unit/FOLDER/MODULE.c is a cmocka program. It links its folder's library and those below only, so an
# upward call is an undefined reference (STY-3).

UNIT_SOURCES  := $(wildcard tests/unit/*/*.c)
UNIT_PROGRAMS := $(patsubst %.c,$(BUILD)/%,$(UNIT_SOURCES))
BELOW_formats         := $(LIB_formats)
BELOW_layerfs         := $(LIB_layerfs) $(LIB_formats)
BELOW_registry-client := $(LIB_registry) $(LIB_formats)
BELOW_builder         := $(LIB_builder) $(LIB_registry) $(LIB_layerfs) $(LIB_formats)
folder_of = $(word 3,$(subst /, ,$(patsubst $(BUILD)/%,%,$(1))))

.SECONDEXPANSION:
$(UNIT_PROGRAMS): $(BUILD)/%: $(BUILD)/%.o $$(BELOW_$$(call folder_of,$$@))
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o %.a,$^) $(LIBS) $(shell pkg-config --libs cmocka)

unit-programs: $(UNIT_PROGRAMS)
.PHONY: unit-programs
-include $(patsubst %,%.d,$(UNIT_PROGRAMS))
