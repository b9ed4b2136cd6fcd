# SPDX-License-Identifier: Apache-2.0
# The player of operations (tests/stress/play.c): ordinary directories, kernel overlayfs and 'mica union' must answer alike.
#
#	make stress STRESS='--seconds 600 --seed 7'
#	make crash CRASH='--seconds 600'
#	make scale SCALE='--entries 100000 layers directory'

STRESS ?=
SCALE  ?=
CRASH  ?=

PLAY_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/stress/play*.c))
KILL_OBJ := $(BUILD)/tests/stress/kill_at.o $(BUILD)/tests/stress/play_text.o

$(BUILD)/tests/stress/play: $(PLAY_OBJ)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(PLAY_OBJ)

$(BUILD)/tests/stress/kill_at: $(KILL_OBJ)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(KILL_OBJ)

stress-programs: $(BUILD)/tests/stress/play $(BUILD)/tests/stress/kill_at

stress: all $(BUILD)/tests/stress/play
	$(Q)tests/stress/run --build $(BUILD) $(STRESS)

# A server killed at every instant of its work, and what is found after it (tests/stress/crash).
crash: all stress-programs
	$(Q)tests/stress/crash --build $(BUILD) $(CRASH)

# Long: that cost grows with what is used (tests/stress/scale).
scale: all
	$(Q)tests/stress/scale --build $(BUILD) $(SCALE)

.PHONY: stress stress-programs crash scale
-include $(PLAY_OBJ:.o=.d) $(KILL_OBJ:.o=.d)
