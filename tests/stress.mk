# SPDX-License-Identifier: Apache-2.0
# The player of operations (tests/stress/play.c): ordinary directories, kernel overlayfs and 'mica union' must answer alike.
#
#	make stress STRESS='--seconds 600 --seed 7'

STRESS ?=

$(BUILD)/tests/stress/play: $(BUILD)/tests/stress/play.o
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $<

stress: all $(BUILD)/tests/stress/play
	$(Q)tests/stress/run --build $(BUILD) $(STRESS)

.PHONY: stress
-include $(BUILD)/tests/stress/play.d
