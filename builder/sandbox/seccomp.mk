# SPDX-License-Identifier: Apache-2.0
# What the sandbox needs made before it is compiled: the system call filter as constant BPF (SEC-I33), and the spawner as a
# small static program inside the library (see builder/sandbox/spawner.c).

SPAWNER_SOURCES := builder/sandbox/gen/program.c $(addprefix builder/sandbox/,spawner.c base.c setup.c place.c confine.c)
SPAWNER_HEADERS := $(wildcard builder/sandbox/*.h)

$(BUILD)/gen/seccomp_gen: builder/sandbox/gen/seccomp_gen.c builder/sandbox/seccomp_policy.h
	$(call say,CC)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CSTD) $(WARNINGS) -O1 -I. -o $@ $< -lseccomp

$(BUILD)/gen/seccomp_filter.h: $(BUILD)/gen/seccomp_gen
	$(call say,GEN)
	$(Q)$< >$@

# Never with sanitizers: their runtime does not go into a static program, nor through a container's exec.
$(BUILD)/gen/spawner: $(SPAWNER_SOURCES) $(SPAWNER_HEADERS) $(BUILD)/gen/seccomp_filter.h
	$(call say,LINK)
	$(Q)$(CC) $(CSTD) $(WARNINGS) -O2 -D_FORTIFY_SOURCE=2 $(HARDENING) -I. -I$(BUILD)/gen -static-pie \
		-Wl,-z,relro,-z,now,-z,noexecstack,--gc-sections -ffunction-sections -s -o $@ $(SPAWNER_SOURCES)

# Symbols _binary_spawner_start and _binary_spawner_end come from the file's name.
$(BUILD)/gen/spawner.o: $(BUILD)/gen/spawner
	$(call say,LD)
	$(Q)cd $(@D) && ld -r -b binary -z noexecstack -o spawner.o spawner

$(LIB_builder): $(BUILD)/gen/spawner.o
$(BUILD)/builder/sandbox/confine.o $(BUILD)/tests/unit/builder/sandbox.o: $(BUILD)/gen/seccomp_filter.h
