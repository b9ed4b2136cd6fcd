/* SPDX-License-Identifier: Apache-2.0 */
#include "builder/account.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "formats/base/limits.h"

/* Numbers in USER beyond this are errors, never names (CVE-2024-40635). */
#define USER_ID_MAX  2147483647ULL
#define OWNER_ID_MAX 4294967294ULL

enum { PASSWD_FIELDS = 7, GROUP_FIELDS = 4 };

/* One account file as text; empty when the root filesystem has none. */
static int read_accounts(struct tree *tree, const char *path, struct buf *text, struct err *err)
{
	auto_tree_node struct tree_node *node = NULL;
	int r = tree_resolve(tree, str_from(path), true, &node, NULL, err);

	if (r == -ENOENT || r == -ENOTDIR)
		return 0;
	if (r == 0 && !S_ISREG(tree_attr(node)->mode))
		r = err_set(err, EINVAL, "not a regular file");
	if (r == 0)
		r = tree_read_file(tree, node, text, err);
	return r < 0 ? err_wrap(err, "cannot read '%s' of the image", path) : 0;
}

/* Cuts the next line with 'count' fields or more off 'rest'; others are skipped. */
static bool next_line(struct str *rest, struct str *fields, size_t count)
{
	while (rest->len) {
		struct str line, field;
		size_t i;

		str_cut(*rest, '\n', &line, rest);
		for (i = 0; i < count; i++) {
			bool more = str_cut(line, ':', &field, &line);

			fields[i] = field;
			if (!more)
				break;
		}
		/* The last field ends the line, so it is the one without a colon behind it. */
		if (i + 1 >= count && fields[0].len)
			return true;
	}
	return false;
}

/* An id in an account file; malformed lines are skipped by their readers. */
static bool parse_id(struct str text, uint32_t *ret_id)
{
	uint64_t value;

	if (str_to_u64(text, OWNER_ID_MAX, &value) < 0)
		return false;
	*ret_id = (uint32_t)value;
	return true;
}

struct user_entry {
	struct str name, home;
	uint32_t uid, gid;
};

/* By name, or by id when 'name' is empty. */
static bool find_user(struct str text, struct str name, uint32_t uid, struct user_entry *ret_user)
{
	struct str fields[PASSWD_FIELDS];

	while (next_line(&text, fields, PASSWD_FIELDS)) {
		struct user_entry user = { .name = fields[0], .home = fields[5] };

		if (!parse_id(fields[2], &user.uid) || !parse_id(fields[3], &user.gid))
			continue;
		if (name.len ? str_eq(user.name, name) : user.uid == uid) {
			*ret_user = user;
			return true;
		}
	}
	return false;
}

static bool find_group(struct str text, struct str name, uint32_t *ret_gid)
{
	struct str fields[GROUP_FIELDS];

	while (next_line(&text, fields, GROUP_FIELDS))
		if (str_eq(fields[0], name) && parse_id(fields[2], ret_gid))
			return true;
	return false;
}

static bool lists_member(struct str members, struct str name)
{
	bool more = true;

	while (more) {
		struct str member;

		more = str_cut(members, ',', &member, &members);
		if (str_eq(str_trim(member), name))
			return true;
	}
	return false;
}

static int add_group(struct account *account, uint32_t gid, struct arena *arena, struct err *err)
{
	uint32_t *groups;
	size_t i;

	for (i = 0; i < account->group_count; i++)
		if (account->groups[i] == gid)
			return 0;
	groups = arena_grow(arena, account->groups, account->group_count, sizeof(*groups));
	if (!groups)
		return err_nomem(err);
	account->groups = groups;
	groups[account->group_count++] = gid;
	return 0;
}

/* Groups whose member list has the user's name. */
static int add_memberships(struct account *account, struct str text, struct str name,
			   struct arena *arena, struct err *err)
{
	struct str fields[GROUP_FIELDS];
	int r = 0;

	while (r == 0 && name.len && next_line(&text, fields, GROUP_FIELDS)) {
		uint32_t gid;

		if (parse_id(fields[2], &gid) && lists_member(fields[3], name))
			r = add_group(account, gid, arena, err);
	}
	return r;
}

static bool is_number(struct str text)
{
	size_t i;

	for (i = 0; i < text.len; i++)
		if (text.ptr[i] < '0' || text.ptr[i] > '9')
			return false;
	return text.len > 0;
}

static int number(struct str text, uint64_t max, const char *what, uint32_t *ret_id,
		  struct err *err)
{
	uint64_t value;

	if (str_to_u64(text, max, &value) < 0)
		return err_set(err, ERR_FORMAT, "%s '%.*s' is not in 0 to %llu", what,
			       (int)text.len, text.ptr, (unsigned long long)max);
	*ret_id = (uint32_t)value;
	return 0;
}

static int unknown(const char *what, struct str name, const char *file, struct err *err)
{
	return err_set(err, ERR_FORMAT, "unable to find %s '%.*s': not in %s of the image", what,
		       (int)name.len, name.ptr, file);
}

struct account_files {
	struct buf passwd, group;
};

static int resolve_user(struct account_files *files, struct str user, struct account *account,
			struct user_entry *entry, struct err *err)
{
	bool numeric = is_number(user);
	bool found;
	int r = 0;

	*entry = (struct user_entry){ .home = STR("/") };
	if (user.len == 0 || str_is(user, "root"))
		user = STR("0"), numeric = true;
	if (numeric)
		r = number(user, USER_ID_MAX, "user", &entry->uid, err);
	if (r < 0)
		return r;
	found = find_user(buf_str(&files->passwd), numeric ? STR("") : user, entry->uid, entry);
	/* 'root' needs no file; a number that nobody has is itself, with group 0 (RCP-277). */
	if (!found && !numeric)
		return unknown("user", user, "/etc/passwd", err);
	account->uid = entry->uid;
	account->gid = entry->gid;
	return 0;
}

int account_resolve(struct tree *tree, const char *user, struct arena *arena,
		    struct account *ret_account, struct err *err)
{
	struct account_files files = { BUF_INIT(LIMIT_ACCOUNT_FILE_BYTES),
				       BUF_INIT(LIMIT_ACCOUNT_FILE_BYTES) };
	struct account account = { .home = "/" };
	struct str name, group;
	bool has_group = str_cut(str_from(user), ':', &name, &group);
	struct user_entry entry;
	int r = read_accounts(tree, "/etc/passwd", &files.passwd, err);

	if (r == 0)
		r = read_accounts(tree, "/etc/group", &files.group, err);
	if (r == 0)
		r = resolve_user(&files, name, &account, &entry, err);
	if (r == 0 && has_group && is_number(group))
		r = number(group, USER_ID_MAX, "group", &account.gid, err);
	else if (r == 0 && has_group && !find_group(buf_str(&files.group), group, &account.gid))
		r = unknown("group", group, "/etc/group", err);
	if (r == 0)
		r = add_group(&account, account.gid, arena, err);
	if (r == 0 && !has_group)
		r = add_memberships(&account, buf_str(&files.group), entry.name, arena, err);
	if (r == 0 && entry.home.len)
		account.home = arena_strdup(arena, entry.home);
	if (r == 0 && !account.home)
		r = err_nomem(err);
	buf_release(&files.passwd);
	buf_release(&files.group);
	if (r == 0)
		*ret_account = account;
	return r;
}

int account_resolve_owner(struct tree *tree, struct str owner, uint32_t *ret_uid, uint32_t *ret_gid,
			  struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_ACCOUNT_FILE_BYTES);
	struct str name, group;
	bool has_group = str_cut(owner, ':', &name, &group);
	struct user_entry entry = { .uid = 0 };
	int r = 0;

	if (is_number(name)) {
		r = number(name, OWNER_ID_MAX, "user", &entry.uid, err);
		entry.gid = entry.uid;
	} else if (!str_is(name, "root")) {
		r = read_accounts(tree, "/etc/passwd", &text, err);
		if (r == 0 && !find_user(buf_str(&text), name, 0, &entry))
			r = unknown("user", name, "/etc/passwd", err);
	}
	buf_clear(&text);
	if (r == 0 && has_group && is_number(group)) {
		r = number(group, OWNER_ID_MAX, "group", &entry.gid, err);
	} else if (r == 0 && has_group && str_is(group, "root")) {
		entry.gid = 0;
	} else if (r == 0 && has_group) {
		r = read_accounts(tree, "/etc/group", &text, err);
		if (r == 0 && !find_group(buf_str(&text), group, &entry.gid))
			r = unknown("group", group, "/etc/group", err);
	}
	if (r < 0)
		return r;
	*ret_uid = entry.uid;
	*ret_gid = entry.gid;
	return 0;
}
