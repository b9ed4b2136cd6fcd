/* SPDX-License-Identifier: Apache-2.0 */
/* mica union: directories and images as one writable directory; takes the place of fuse-overlayfs (FS-151).
 *
 * Called as 'mica union', by a name that ends in 'fuse-overlayfs', or by a mount helper. The options are one list of words
 * behind '-o', as mount(8) has them; an unknown word is a warning, for such lists come from other programs. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "builder/cli/cli.h"
#include "builder/cli/operand.h"
#include "formats/base/arena.h"
#include "formats/base/limits.h"
#include "formats/base/log.h"
#include "formats/base/xattr_at.h"
#include "layerfs/rootfs.h"
#include "layerfs/rootfs_union.h"

struct union_flags {
	struct text_list words;
	bool foreground, debug, as_fuse_overlayfs;
};

static const struct option options[] = {
	{ "options", 'o', OPTION_LIST, offsetof(struct union_flags, words), "WORD[,WORD...]",
	  "words of mount(8): lower directories, upper directory and more" },
	{ "foreground", 'f', OPTION_FLAG, offsetof(struct union_flags, foreground), NULL,
	  "serve in this process, until the directory is unmounted" },
	{ "as-fuse-overlayfs", 0, OPTION_FLAG, offsetof(struct union_flags, as_fuse_overlayfs),
	  NULL, NULL },
	{ "fuse-debug", 'd', OPTION_FLAG, offsetof(struct union_flags, debug), NULL,
	  "the same; accepted for programs that pass it" },
	{ .name = NULL },
};

/* What the words say. */
struct request {
	struct arena arena;
	struct rootfs_union_options rootfs;
	char *lowers, *upper, *work;
	struct union_id_range *uids, *gids;
	bool user_marks, remount;
};

/* --- Words --- */

/* A word up to the next comma that no backslash protects; escapes of ':' and '\' stay for who cuts the value up. */
static bool next_word(const char **at, struct arena *arena, char **ret_word)
{
	size_t len = 0;
	char *word;

	if (!**at)
		return false;
	word = arena_alloc(arena, strlen(*at) + 1);
	*ret_word = word;
	if (!word)
		return true;
	for (; **at && **at != ','; (*at)++) {
		if (**at == '\\' && (*at)[1] == ',')
			(*at)++;
		else if (**at == '\\' && (*at)[1])
			word[len++] = *(*at)++;
		word[len++] = **at;
	}
	if (**at == ',')
		(*at)++;
	return true;
}

static int parse_id(struct str text, const char *what, uint32_t *ret_id, struct err *err)
{
	uint64_t value;

	if (str_to_u64(text, UINT32_MAX - 1, &value) < 0)
		return err_set(err, ERR_USAGE, "'%.*s' in %s is no id", (int)text.len, text.ptr,
			       what);
	*ret_id = (uint32_t)value;
	return 0;
}

/* ID:MAPPED:LEN, separated by ':' or ',' (FS-151). */
static int parse_ranges(struct request *request, const char *word, const char *value,
			struct union_ids *ids, struct err *err)
{
	struct union_id_range *ranges = NULL;
	struct str rest = str_from(value);

	while (rest.len) {
		uint32_t numbers[3];
		size_t i;

		for (i = 0; i < 3; i++) {
			size_t end = strcspn(rest.ptr, ":,");
			int r = parse_id(str_sub(rest, 0, end), word, &numbers[i], err);

			if (r < 0)
				return r;
			rest = str_from_index(rest, end + (end < rest.len));
			if (i < 2 && rest.len == 0)
				return err_set(err, ERR_USAGE, "%s wants ID:MAPPED:LENGTH", word);
		}
		ranges = arena_grow(&request->arena, ranges, ids->count, sizeof(*ranges));
		if (!ranges)
			return err_nomem(err);
		ranges[ids->count++] = (struct union_id_range){ numbers[0], numbers[1],
								numbers[2] };
	}
	ids->ranges = ranges;
	return 0;
}

struct word {
	const char *name;
	size_t offset; /* of a bool in struct rootfs_union_options; SIZE_MAX: without effect */
	bool value;
};

#define FLAG(field) offsetof(struct rootfs_union_options, field)
#define IGNORED	    SIZE_MAX

static const struct word words[] = {
	{ "ro", FLAG(read_only), true },
	{ "rw", FLAG(read_only), false },
	{ "allow_other", FLAG(allow_other), true },
	{ "dev", FLAG(allow_dev), true },
	{ "nodev", FLAG(allow_dev), false },
	{ "suid", FLAG(allow_suid), true },
	{ "nosuid", FLAG(allow_suid), false },
	{ "exec", FLAG(no_exec), false },
	{ "noexec", FLAG(no_exec), true },
	{ "volatile", FLAG(semantics.is_volatile), true },
	{ "fsync=0", FLAG(semantics.is_volatile), true },
	{ "fsync=1", FLAG(semantics.is_volatile), false },
	{ "noacl", FLAG(semantics.without_acls), true },
	{ "noxattrs=1", FLAG(semantics.without_xattrs), true },
	{ "static_nlink", FLAG(semantics.static_nlink), true },
	{ "aufs_marks", FLAG(semantics.aufs_marks), true },
	{ "passthrough=off", FLAG(no_passthrough), true },
	{ "squash_to_root", FLAG(semantics.uids.squashed), true },
	{ "default_permissions", IGNORED, true },
	{ "async", IGNORED, true },
	{ "sync", IGNORED, true },
	{ "atime", FLAG(no_atime), false },
	{ "noatime", FLAG(no_atime), true },
	{ "strictatime", FLAG(strict_atime), true },
	{ "diratime", FLAG(no_dir_atime), false },
	{ "nodiratime", FLAG(no_dir_atime), true },
	{ "relatime", IGNORED, true },
	{ "lazytime", IGNORED, true },
	{ "nolazytime", IGNORED, true },
	{ "auto", IGNORED, true },
	{ "noauto", IGNORED, true },
	{ "user", IGNORED, true },
	{ "nouser", IGNORED, true },
	{ "fast_ino", IGNORED, true },
	{ "nonempty", IGNORED, true },
	{ .name = NULL },
};

/* Accepted with any value, without effect. */
static const char *const ignored_values[] = {
	"threaded=", "writeback=", "plugins=",	  "fast_ino=",	  "xino=",     "redirect_dir=",
	"metacopy=", "index=",	   "timeout=",	  "context=",	  "noxattrs=", "max_idle_threads=",
	"clone_fd",  "uuid=",	   "nfs_export=", "passthrough=", "x-",	       NULL
};

static bool take_flag(struct request *request, const char *word)
{
	const struct word *known;

	for (known = words; known->name; known++) {
		if (strcmp(known->name, word) != 0)
			continue;
		if (known->offset != IGNORED)
			*(bool *)((char *)&request->rootfs + known->offset) = known->value;
		return true;
	}
	return false;
}

static bool is_ignored(const char *word)
{
	size_t i;

	for (i = 0; ignored_values[i]; i++)
		if (strncmp(word, ignored_values[i], strlen(ignored_values[i])) == 0)
			return true;
	return false;
}

/* The value behind 'name=', or NULL. */
static char *value_of(char *word, const char *name)
{
	size_t len = strlen(name);

	return strncmp(word, name, len) == 0 && word[len] == '=' ? word + len + 1 : NULL;
}

static int take_word(struct request *request, char *word, struct err *err)
{
	struct union_options *semantics = &request->rootfs.semantics;
	char *value;

	if (take_flag(request, word))
		return 0;
	if ((value = value_of(word, "lowerdir")))
		request->lowers = value;
	else if ((value = value_of(word, "upperdir")))
		request->upper = value;
	else if ((value = value_of(word, "workdir")))
		request->work = value;
	else if (strcmp(word, "userxattr") == 0)
		request->user_marks = true;
	else if (strcmp(word, "remount") == 0)
		request->remount = true;
	else if ((value = value_of(word, "uidmapping")))
		return parse_ranges(request, "uidmapping", value, &semantics->uids, err);
	else if ((value = value_of(word, "gidmapping")))
		return parse_ranges(request, "gidmapping", value, &semantics->gids, err);
	else if ((value = value_of(word, "squash_to_uid")))
		return semantics->uids.squashed = true,
		       parse_id(str_from(value), "squash_to_uid", &semantics->uids.squash, err);
	else if ((value = value_of(word, "squash_to_gid")))
		return semantics->gids.squashed = true,
		       parse_id(str_from(value), "squash_to_gid", &semantics->gids.squash, err);
	else if ((value = value_of(word, "fsname")))
		request->rootfs.source = value;
	else if ((value = value_of(word, "subtype")))
		request->rootfs.subtype = value;
	else if ((value = value_of(word, "counters")))
		request->rootfs.counters_path = value;
	else if (!is_ignored(word))
		log_warn("unknown mount option '%s'", word);
	return 0;
}

static int parse_words(const struct text_list *lists, struct request *request, struct err *err)
{
	size_t i;
	int r = 0;

	for (i = 0; i < lists->count; i++) {
		const char *at = lists->items[i];
		char *word;

		while (r == 0 && next_word(&at, &request->arena, &word)) {
			if (!word)
				return err_nomem(err);
			if (*word)
				r = take_word(request, word, err);
		}
	}
	if (request->rootfs.semantics.uids.squashed && !request->rootfs.semantics.uids.squash)
		request->rootfs.semantics.gids.squashed = true; /* squash_to_root means both */
	return r;
}

/* --- Layers --- */

/* An image or layer of the store. */
static int push_object(struct command_context *context, const char *name, struct stack *stack,
		       struct err *err)
{
	auto_stack struct stack object = { 0 };
	size_t i;
	int r = operand_open(context, name, &object, err);

	for (i = 0; r == 0 && i < object.count; i++)
		r = object.elements[i].index
			    ? stack_push_index(stack, object.elements[i].index,
					       object.elements[i].is_layer, err)
			    : err_set(err, ENOENT, "'%s' is neither a directory nor an image",
				      name);
	return r;
}

/* The xattr by which container engines keep ownership that they may not give (FS-206), if the root of a layer has one. */
static const char *override_of(int fd)
{
	static const char *const names[] = { "user.containers.override_stat",
					     "user.fuseoverlayfs.override_stat",
					     "security.fuseoverlayfs.override_stat" };
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (xattr_at_get(fd, "", names[i], NULL, 0) > 0)
			return names[i];
	return NULL;
}

static int push_lower(struct command_context *context, const char *name,
		      const struct union_options *semantics, struct stack *stack, struct err *err)
{
	auto_close int fd = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0) {
		int r = stack_push_upper(stack, fd, semantics->marks, err);

		if (r < 0)
			return r;
		stack->elements[stack->count - 1].aufs_marks = semantics->aufs_marks;
		stack->elements[stack->count - 1].override = override_of(fd);
		return 0;
	}
	if ((errno == ENOENT || errno == ENOTDIR) && name[0] != '/' && name[0] != '.')
		return push_object(context, name, stack, err);
	return err_sys(err, errno, "cannot open the lower directory '%s'", name);
}

/* The names of 'lowerdir', top first, cut at ':'; a backslash takes its meaning from ':' and '\'. Given bottom first. */
static int push_lowers(struct command_context *context, struct request *request,
		       struct stack *stack, struct err *err)
{
	char **names = NULL, *from, *to;
	size_t count = 0;
	int r = 0;

	for (from = to = request->lowers; from && *from; count++) {
		names = arena_grow(&request->arena, names, count, sizeof(*names));
		if (!names)
			return err_nomem(err);
		names[count] = to;
		while (*from && *from != ':') {
			if (*from == '\\' && from[1])
				from++;
			*to++ = *from++;
		}
		from += *from == ':';
		*to++ = '\0';
	}
	while (r == 0 && count-- > 0)
		if (*names[count])
			r = push_lower(context, names[count], &request->rootfs.semantics, stack,
				       err);
	return r;
}

static int open_dir(const char *path, const char *what, int *ret_fd, struct err *err)
{
	*ret_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return *ret_fd < 0 ? err_sys(err, errno, "cannot open the %s '%s'", what, path) : 0;
}

static int mount_request(struct command_context *context, struct request *request, const char *path,
			 struct err *err)
{
	auto_stack struct stack stack = { 0 };
	auto_close int upper = -1, work = -1;
	int r;

	if (request->remount)
		return rootfs_union_remount(&request->rootfs, path, err);
	r = push_lowers(context, request, &stack, err);
	if (r == 0 && request->upper)
		r = open_dir(request->upper, "upperdir", &upper, err);
	if (r == 0 && request->work)
		r = open_dir(request->work, "workdir", &work, err);
	if (r < 0)
		return r;
	if (upper >= 0 && work < 0)
		return err_set(err, ERR_USAGE,
			       "an upperdir needs a workdir on the same file system");
	if (stack.count == 0 && upper < 0)
		return err_set(err, ERR_USAGE, "a union needs lowerdir= or upperdir=");
	if (upper < 0)
		request->rootfs.read_only = true;
	rootfs_union_detach(&stack, &upper, &work, &request->rootfs);
	return rootfs_union_mount(&stack, upper, work, &request->rootfs, path, err);
}

/* Programs give the source of mount(8) in front of the directory; it says nothing. */
static int run_union(struct command_context *context, const void *flags_, int argc, char **argv,
		     struct err *err)
{
	const struct union_flags *flags = flags_;
	struct request request = {
		.arena = ARENA_INIT(16 * MIB),
		.rootfs = { .foreground = flags->foreground || flags->debug,
			    .allow_dev = geteuid() == 0,
			    .allow_suid = geteuid() == 0 },
	};
	int r;

	/* Container engines lay their layers out with aufs' marks for it. */
	request.rootfs.semantics.aufs_marks = flags->as_fuse_overlayfs;
	r = parse_words(&flags->words, &request, err);

	request.rootfs.semantics.marks = request.user_marks ? MARKS_USER : rootfs_own_marks();
	if (r == 0)
		r = mount_request(context, &request, argv[argc - 1], err);
	arena_release(&request.arena);
	return r;
}

const struct command command_union = {
	.name = "union",
	.usage = "-o lowerdir=A[:B...][,upperdir=U,workdir=W][,WORD...] DIRECTORY",
	.summary = "Mount directories and images as one writable directory",
	.description =
		"Takes the place of fuse-overlayfs. A lower is a directory or an image of the "
		"store;\n"
		"what is written goes to the upper directory. Without one the union is read-only.",
	.examples = "  mica union -o lowerdir=/srv/base,upperdir=/srv/up,workdir=/srv/work /mnt\n"
		    "  mica union -o lowerdir=app:latest,upperdir=up,workdir=work /mnt",
	.options = options,
	.flags_size = sizeof(struct union_flags),
	.needs = NEEDS_ROOT,
	.min_arguments = 1,
	.max_arguments = 2,
	.run = run_union,
};
