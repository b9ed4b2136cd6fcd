/* SPDX-License-Identifier: Apache-2.0 */
/* Platforms compare after normalisation only, so both sides go through one table of spellings.
 *
 * Ranks are positions in the candidate vector of REG-312: what a CPU also executes, best first. Instead of writing the
 * vectors out, the level of each side is computed and the distance is the rank; the families (amd64 before 386, arm64/v9
 * before v8 before 32-bit arm) are spaced so that they never overlap. */
#include "formats/platform.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "formats/base/io.h"

struct spelling {
	const char *arch, *variant; /* as written; variant NULL: any */
	const char *to_arch;	    /* NULL: unchanged */
	const char *to_variant;	    /* NULL: unchanged */
};

static const struct spelling spellings[] = {
	{ "x86_64", NULL, "amd64", NULL },  { "x86-64", NULL, "amd64", NULL },
	{ "i386", NULL, "386", "" },	    { "i486", NULL, "386", "" },
	{ "i586", NULL, "386", "" },	    { "i686", NULL, "386", "" },
	{ "aarch64", NULL, "arm64", NULL }, { "armhf", NULL, "arm", "v7" },
	{ "armel", NULL, "arm", "v6" },	    { "armv7l", NULL, "arm", "v7" },
	{ "armv6l", NULL, "arm", "v6" },    { "ppc64el", NULL, "ppc64le", NULL },
	{ "arm", "", NULL, "v7" },	    { "arm", "7", NULL, "v7" },
	{ "arm", "5", NULL, "v5" },	    { "arm", "6", NULL, "v6" },
	{ "arm", "8", NULL, "v8" },	    { "arm64", "8", NULL, "" },
	{ "arm64", "v8", NULL, "" },	    { "arm64", "v8.0", NULL, "" },
	{ "arm64", "9", NULL, "v9" },	    { "arm64", "9.0", NULL, "v9" },
	{ "arm64", "v9.0", NULL, "v9" },    { "amd64", "v1", NULL, "" },
};

static void lower(char *text)
{
	for (; *text; text++) {
		if (*text >= 'A' && *text <= 'Z')
			*text += 'a' - 'A';
	}
}

static void set(char part[PLATFORM_PART_MAX], const char *text)
{
	snprintf(part, PLATFORM_PART_MAX, "%s", text);
}

void platform_normalise(struct platform *platform)
{
	size_t i;

	lower(platform->os);
	lower(platform->arch);
	lower(platform->variant);
	if (platform->os[0] == '\0')
		set(platform->os, "linux");
	if (strcmp(platform->os, "macos") == 0)
		set(platform->os, "darwin");
	/* The table is ordered so that one pass suffices: names of architectures stand before variants. */
	for (i = 0; i < sizeof(spellings) / sizeof(spellings[0]); i++) {
		const struct spelling *s = &spellings[i];

		if (strcmp(platform->arch, s->arch) != 0 ||
		    (s->variant && strcmp(platform->variant, s->variant) != 0))
			continue;
		if (s->to_arch)
			set(platform->arch, s->to_arch);
		if (s->to_variant)
			set(platform->variant, s->to_variant);
	}
}

void platform_host(struct platform *ret_platform)
{
	struct utsname name;

	*ret_platform = (struct platform){ .os = "linux" };
	if (uname(&name) == 0)
		snprintf(ret_platform->arch, sizeof(ret_platform->arch), "%.*s",
			 PLATFORM_PART_MAX - 1, name.machine);
	platform_normalise(ret_platform);
}

/* True when the space-separated 'flags' have all of 'wanted' (ended by NULL). */
static bool has_flags(const char *flags, const char *const *wanted)
{
	for (; *wanted; wanted++) {
		size_t len = strlen(*wanted);
		const char *at = flags;

		while ((at = strstr(at, *wanted)) != NULL) {
			if (at > flags && at[-1] == ' ' &&
			    (at[len] == ' ' || at[len] == '\n' || at[len] == '\0'))
				break;
			at += len;
		}
		if (!at)
			return false;
	}
	return true;
}

static void find_best(struct platform *ret_platform)
{
	/* The levels of the x86-64 psABI, by the flags that set them apart. */
	static const char *const v2[] = { "sse4_2", "popcnt", "ssse3", "cx16", NULL };
	static const char *const v3[] = { "avx2", "bmi1", "bmi2", "fma", "movbe", NULL };
	static const char *const v4[] = { "avx512f",  "avx512bw", "avx512cd",
					  "avx512dq", "avx512vl", NULL };
	char text[8192];
	const char *flags;
	ssize_t len;
	int fd;

	platform_host(ret_platform);
	if (strcmp(ret_platform->arch, "amd64") != 0)
		return;
	fd = open("/proc/cpuinfo", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	/* The first processor's flags lie in the first 3 KiB. */
	len = io_read(fd, text, sizeof(text) - 1);
	close(fd);
	if (len <= 0)
		return;
	text[len] = '\0';
	flags = strstr(text, "\nflags");
	if (!flags || !has_flags(flags, v2))
		return;
	set(ret_platform->variant, !has_flags(flags, v3)   ? "v2"
				   : !has_flags(flags, v4) ? "v3"
							   : "v4");
}

static struct platform host_best;

static void remember_best(void)
{
	find_best(&host_best);
}

/* The kernel asks every processor for what it says there, which takes longer than the rest of a step from the cache. */
void platform_host_best(struct platform *ret_platform)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, remember_best);
	*ret_platform = host_best;
}

/* --- Text --- */

static bool is_part(struct str part)
{
	size_t i;

	if (part.len == 0 || part.len >= PLATFORM_PART_MAX)
		return false;
	for (i = 0; i < part.len; i++) {
		char c = part.ptr[i];

		if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') &&
		    c != '-' && c != '_' && c != '.')
			return false;
	}
	return true;
}

static bool is_system(struct str word)
{
	static const char *const systems[] = { "linux",	  "darwin",  "windows", "freebsd", "netbsd",
					       "openbsd", "solaris", "macos",	"wasip1",  NULL };
	const char *const *system;

	for (system = systems; *system; system++) {
		if (str_is_nocase(word, *system))
			return true;
	}
	return false;
}

/* "v7": the second of two parts is then a variant ("arm/v7"), not an architecture. */
static bool is_level(struct str word)
{
	return word.len >= 2 && (word.ptr[0] | 0x20) == 'v' && word.ptr[1] >= '0' &&
	       word.ptr[1] <= '9';
}

int platform_parse(struct str text, struct platform *ret_platform, struct err *err)
{
	struct platform platform = { .os = "" }, host;
	struct str parts[3], rest = text;
	size_t count = 0, i;
	bool more;

	do {
		more = str_cut(rest, '/', &parts[count], &rest);
		if (!is_part(parts[count++]))
			goto malformed;
	} while (more && count < 3);
	if (more)
		goto malformed;

	i = 0;
	if ((count > 1 && !(count == 2 && is_level(parts[1]))) || is_system(parts[0]))
		snprintf(platform.os, sizeof(platform.os), "%.*s", (int)parts[0].len,
			 parts[i++].ptr);
	if (i < count) {
		snprintf(platform.arch, sizeof(platform.arch), "%.*s", (int)parts[i].len,
			 parts[i].ptr);
		i++;
	} else {
		platform_host(&host);
		set(platform.arch, host.arch);
		set(platform.variant, host.variant);
	}
	if (i < count)
		snprintf(platform.variant, sizeof(platform.variant), "%.*s", (int)parts[i].len,
			 parts[i].ptr);
	platform_normalise(&platform);
	*ret_platform = platform;
	return 0;

malformed:
	err_set(err, ERR_USAGE, "invalid platform '%.*s'", (int)(text.len < 100 ? text.len : 100),
		text.ptr);
	return err_hint(err, "write it as OS/ARCH or OS/ARCH/VARIANT, for example linux/arm64");
}

const char *platform_text(const struct platform *platform, char text[PLATFORM_TEXT_MAX])
{
	snprintf(text, PLATFORM_TEXT_MAX, "%s/%s%s%s", platform->os, platform->arch,
		 platform->variant[0] ? "/" : "", platform->variant);
	return text;
}

/* --- Suitability --- */

/* "v3" -> 3, "v8.2" -> major 8, minor 2; false: not of that shape. */
static bool level_of(const char *variant, unsigned *ret_major, unsigned *ret_minor)
{
	struct str major, minor;
	uint64_t number;

	if (variant[0] != 'v')
		return false;
	*ret_minor = 0;
	if (str_cut(str_from(variant + 1), '.', &major, &minor)) {
		if (str_to_u64(minor, 99, &number) < 0)
			return false;
		*ret_minor = (unsigned)number;
	}
	if (str_to_u64(major, 99, &number) < 0)
		return false;
	*ret_major = (unsigned)number;
	return true;
}

/* Ranks of another family start here, above every distance within one. */
enum { NEXT_FAMILY = 1000, LAST_FAMILY = 2000 };

static int rank_amd64(const struct platform *wanted, const struct platform *offered)
{
	unsigned want = 1, have = 1, minor;

	if (wanted->variant[0] && !level_of(wanted->variant, &want, &minor))
		return strcmp(wanted->variant, offered->variant) == 0 ? 0 : -1;
	if (strcmp(offered->arch, "386") == 0)
		return NEXT_FAMILY;
	if (strcmp(offered->arch, "amd64") != 0 ||
	    (offered->variant[0] && !level_of(offered->variant, &have, &minor)))
		return -1;
	return have <= want ? (int)(want - have) : -1;
}

static int rank_arm(unsigned want, const struct platform *offered)
{
	unsigned have, minor;

	if (strcmp(offered->arch, "arm") != 0 || !level_of(offered->variant, &have, &minor) ||
	    have > want || have < 5)
		return -1;
	return (int)(want - have);
}

static int rank_arm64(const struct platform *wanted, const struct platform *offered)
{
	unsigned major = 8, minor = 0, have_major = 8, have_minor = 0, best;
	int r;

	if (wanted->variant[0] && !level_of(wanted->variant, &major, &minor))
		return strcmp(wanted->arch, offered->arch) == 0 &&
				       strcmp(wanted->variant, offered->variant) == 0
			       ? 0
			       : -1;
	if (strcmp(offered->arch, "arm64") != 0) {
		r = rank_arm(8, offered);
		return r < 0 ? -1 : LAST_FAMILY + r;
	}
	if (offered->variant[0] && !level_of(offered->variant, &have_major, &have_minor))
		return -1;
	if (have_major == major)
		return have_minor <= minor ? (int)(minor - have_minor) : -1;
	if (major != 9 || have_major != 8)
		return -1;
	/* v9.x executes v8.(x + 5), and v8.9 is the last of its line. */
	best = minor + 5 < 9 ? minor + 5 : 9;
	return have_minor <= best ? NEXT_FAMILY + (int)(best - have_minor) : -1;
}

int platform_rank(const struct platform *wanted, const struct platform *offered)
{
	if (strcmp(wanted->os, offered->os) != 0)
		return -1;
	/* Also of a kind that no machine has. */
	if (strcmp(wanted->arch, offered->arch) == 0 &&
	    strcmp(wanted->variant, offered->variant) == 0)
		return 0;
	if (strcmp(wanted->arch, "amd64") == 0)
		return rank_amd64(wanted, offered);
	if (strcmp(wanted->arch, "arm64") == 0)
		return rank_arm64(wanted, offered);
	if (strcmp(wanted->arch, "arm") == 0) {
		unsigned major, minor;

		if (level_of(wanted->variant, &major, &minor))
			return rank_arm(major, offered);
	}
	return strcmp(wanted->arch, offered->arch) == 0 &&
			       strcmp(wanted->variant, offered->variant) == 0
		       ? 0
		       : -1;
}
