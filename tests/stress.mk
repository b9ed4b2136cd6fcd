# SPDX-License-Identifier: Apache-2.0
# The player of operations (tests/stress/play.c): ordinary directories, kernel overlayfs and 'mica union' must answer alike.
#
#	make stress STRESS='--seconds 600 --seed 7'
#	make scale SCALE='--entries 100000 layers directory'

STRESS ?=
SCALE  ?=

PLAY_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/stress/*.c))

$(BUILD)/tests/stress/play: $(PLAY_OBJ)
	$(call say,LINK)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(PLAY_OBJ)

stress: all $(BUILD)/tests/stress/play
	$(Q)tests/stress/run --build $(BUILD) $(STRESS)

# Long: that cost grows with what is used (tests/stress/scale).
scale: all
	$(Q)tests/stress/scale --build $(BUILD) $(SCALE)

.PHONY: stress scale
-include $(PLAY_OBJ:.o=.d)
