/* SPDX-License-Identifier: Apache-2.0 */
/* What is available is the smaller of two shares: of the machine's memory (MemAvailable, the kernel's own estimate of what can be
 * had without swapping) and of the limit of our control group, where page cache that nobody used lately counts as available too.
 * The thresholds are those of RCP-645. */
#include "builder/headroom.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "formats/base/buf.h"
#include "formats/base/io.h"

enum { AVAILABLE_MIN_PERCENT = 15, PRESSURE_MAX_PERCENT = 20, TEXT_MAX = 64 << 10 };

/* "MemTotal:       24683044 kB" */
static bool read_kilobytes(struct str text, const char *key, uint64_t *ret_value)
{
	struct str line, name, value, unit;

	while (text.len) {
		str_cut(text, '\n', &line, &text);
		if (!str_cut(line, ':', &name, &value) || !str_is(name, key))
			continue;
		str_cut(str_trim(value), ' ', &value, &unit);
		return str_to_u64(value, UINT64_MAX / 1024, ret_value) == 0;
	}
	return false;
}

static bool is_short(uint64_t available, uint64_t total)
{
	return total && available < total / 100 * AVAILABLE_MIN_PERCENT;
}

/* "some avg10=12.34 avg60=..." */
static bool is_pressed(struct str pressure)
{
	struct str line, word, rest, whole, fraction;
	uint64_t percent;

	str_cut(pressure, '\n', &line, &pressure);
	if (!str_cut(line, ' ', &word, &rest) || !str_is(word, "some") ||
	    !str_starts(rest, "avg10="))
		return false;
	str_cut(rest, ' ', &word, &rest);
	str_cut(str_from_index(word, 6), '.', &whole, &fraction);
	return str_to_u64(whole, 100, &percent) == 0 && percent >= PRESSURE_MAX_PERCENT;
}

bool headroom_judge(struct str meminfo, struct str pressure, const struct cgroup_memory *memory)
{
	uint64_t available, total;

	if (read_kilobytes(meminfo, "MemAvailable", &available) &&
	    read_kilobytes(meminfo, "MemTotal", &total) && is_short(available, total))
		return true;
	if (memory && memory->limit_bytes != CGROUP_UNLIMITED) {
		uint64_t used = memory->current_bytes - memory->reclaimable_bytes;

		if (used > memory->limit_bytes ||
		    is_short(memory->limit_bytes - used, memory->limit_bytes))
			return true;
	}
	return is_pressed(pressure);
}

bool headroom_is_low(void)
{
	auto_buf struct buf meminfo = BUF_INIT(TEXT_MAX), pressure = BUF_INIT(TEXT_MAX);
	struct cgroup_memory memory;
	struct err ignored;
	bool v2 = false, known;
	auto_close int dir_fd = cgroup_own_dir(NULL, CGROUP_MEMORY, &v2);

	known = dir_fd >= 0 && cgroup_read_memory_at(dir_fd, v2, &memory);
	if (io_read_file(AT_FDCWD, "/proc/meminfo", &meminfo, &ignored) < 0)
		buf_clear(&meminfo);
	/* The group's own where there is one: that of the machine may be somebody else's. */
	if (!(v2 && io_read_file(dir_fd, "memory.pressure", &pressure, &ignored) == 0) &&
	    io_read_file(AT_FDCWD, "/proc/pressure/memory", &pressure, &ignored) < 0)
		buf_clear(&pressure);
	return headroom_judge(buf_str(&meminfo), buf_str(&pressure), known ? &memory : NULL);
}
