/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel hands a program that it cannot execute itself to the first enabled entry of binfmt_misc whose magic matches the
 * first bytes under its mask. So the question is put the same way: a program's ELF header is made up for the platform and
 * compared with every entry. A platform whose header is not known here is taken to run: the kernel knows better. */
#include "builder/binfmt.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "formats/base/io.h"
#include "formats/base/limits.h"

enum { ELF_HEAD = 20, MAGIC_MAX = 128 };

static const struct machine {
	const char *arch;
	uint8_t class, data;
	uint16_t machine;
} machines[] = {
	{ "386", ELFCLASS32, ELFDATA2LSB, EM_386 },
	{ "amd64", ELFCLASS64, ELFDATA2LSB, EM_X86_64 },
	{ "arm", ELFCLASS32, ELFDATA2LSB, EM_ARM },
	{ "arm64", ELFCLASS64, ELFDATA2LSB, EM_AARCH64 },
	{ "loong64", ELFCLASS64, ELFDATA2LSB, 258 /* EM_LOONGARCH, newer than the headers */ },
	{ "mips64le", ELFCLASS64, ELFDATA2LSB, EM_MIPS },
	{ "mips64", ELFCLASS64, ELFDATA2MSB, EM_MIPS },
	{ "ppc64le", ELFCLASS64, ELFDATA2LSB, EM_PPC64 },
	{ "riscv64", ELFCLASS64, ELFDATA2LSB, EM_RISCV },
	{ "s390x", ELFCLASS64, ELFDATA2MSB, EM_S390 },
};

static const struct machine *find_machine(const char *arch)
{
	size_t i;

	for (i = 0; i < sizeof(machines) / sizeof(machines[0]); i++)
		if (strcmp(machines[i].arch, arch) == 0)
			return &machines[i];
	return NULL;
}

/* e_ident, e_type and e_machine of an executable. */
static void make_head(const struct machine *machine, uint8_t head[ELF_HEAD])
{
	bool big = machine->data == ELFDATA2MSB;

	memset(head, 0, ELF_HEAD);
	memcpy(head, ELFMAG, SELFMAG);
	head[EI_CLASS] = machine->class;
	head[EI_DATA] = machine->data;
	head[EI_VERSION] = EV_CURRENT;
	head[big ? 17 : 16] = ET_EXEC;
	head[18] = (uint8_t)(big ? machine->machine >> 8 : machine->machine);
	head[19] = (uint8_t)(big ? machine->machine : machine->machine >> 8);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Bytes of a line of hexadecimal digits; 0: none. */
static size_t read_hex(struct str text, uint8_t *bytes, size_t room)
{
	size_t i;

	for (i = 0; i < room && 2 * i + 1 < text.len; i++) {
		int high = hex_digit(text.ptr[2 * i]), low = hex_digit(text.ptr[2 * i + 1]);

		if (high < 0 || low < 0)
			return 0;
		bytes[i] = (uint8_t)(high << 4 | low);
	}
	return i;
}

/* An entry reads as lines: "enabled", "interpreter PATH", "flags: F", "offset 0", "magic 7f45...", "mask ffff...". */
static bool entry_matches(struct str text, const uint8_t head[ELF_HEAD])
{
	uint8_t magic[MAGIC_MAX], mask[MAGIC_MAX];
	size_t len = 0, i;
	struct str line;
	bool more = true, enabled = false, shifted = false;

	memset(mask, 0xff, sizeof(mask));
	while (more) {
		more = str_cut(text, '\n', &line, &text);
		if (str_is(line, "enabled"))
			enabled = true;
		else if (str_starts(line, "offset "))
			shifted = !str_is(line, "offset 0");
		else if (str_starts(line, "magic "))
			len = read_hex(str_from_index(line, 6), magic, sizeof(magic));
		else if (str_starts(line, "mask "))
			(void)read_hex(str_from_index(line, 5), mask, sizeof(mask));
	}
	if (!enabled || shifted || len < ELF_HEAD)
		return false;
	for (i = 0; i < len; i++)
		if (((i < ELF_HEAD ? head[i] : 0) ^ magic[i]) & mask[i])
			return false;
	return true;
}

static bool has_interpreter(const char *dir, const struct machine *machine)
{
	auto_closedir DIR *entries = io_opendirat(AT_FDCWD, dir);
	uint8_t head[ELF_HEAD];
	struct dirent *entry;

	make_head(machine, head);
	while (entries && (entry = readdir(entries))) {
		auto_buf struct buf text = BUF_INIT(64 * KIB);
		struct err ignored;

		if (entry->d_name[0] == '.' || strcmp(entry->d_name, "register") == 0 ||
		    strcmp(entry->d_name, "status") == 0)
			continue;
		if (io_read_file(dirfd(entries), entry->d_name, &text, &ignored) == 0 &&
		    entry_matches(buf_str(&text), head))
			return true;
	}
	return false;
}

/* What the CPU executes itself. */
static bool is_native(const struct platform *platform)
{
	struct platform host;

	platform_host_best(&host);
	if (strcmp(host.arch, platform->arch) == 0)
		return true;
	return (strcmp(host.arch, "amd64") == 0 && strcmp(platform->arch, "386") == 0) ||
	       (strcmp(host.arch, "arm64") == 0 && strcmp(platform->arch, "arm") == 0);
}

int binfmt_check(const char *dir, const struct platform *platform, struct err *err)
{
	const struct machine *machine = find_machine(platform->arch);
	char text[PLATFORM_TEXT_MAX];

	if (is_native(platform) || !machine || has_interpreter(dir, machine))
		return 0;
	err_set(err, ERR_UNSUPPORTED, "RUN for platform '%s' needs an emulator: none is registered",
		platform_text(platform, text));
	return err_hint(err, "install qemu-user-static (Debian), or build on the build platform "
			     "and copy: FROM --platform=$BUILDPLATFORM");
}
