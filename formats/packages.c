/* SPDX-License-Identifier: Apache-2.0 */
#include "formats/packages.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/limits.h"

static int add(struct package_list *list, const struct package *package, struct err *err)
{
	if (list->arena.max == 0)
		arena_init(&list->arena, 64 * MIB);
	if (!package->name.len || !package->version.len)
		return 0;
	if (list->count >= PACKAGES_MAX)
		return err_set(err, ERR_LIMIT, "more than %d packages", PACKAGES_MAX);
	list->items = arena_grow(&list->arena, list->items, list->count, sizeof(*list->items));
	if (!list->items)
		return err_nomem(err);
	list->items[list->count++] = *package;
	return 0;
}

/* The next line without its end; false behind the last. */
static bool next_line(struct str *rest, struct str *ret_line)
{
	if (!rest->len)
		return false;
	str_cut(*rest, '\n', ret_line, rest);
	if (str_ends(*ret_line, "\r"))
		ret_line->len--;
	return true;
}

static void take_dpkg_field(struct str key, struct str value, struct package *package,
			    bool *installed)
{
	value = str_trim(value);
	if (str_is_nocase(key, "Package"))
		package->name = value;
	else if (str_is_nocase(key, "Version"))
		package->version = value;
	else if (str_is_nocase(key, "Architecture"))
		package->arch = value;
	else if (str_is_nocase(key, "Source"))
		package->source = value;
	else if (str_is_nocase(key, "Status"))
		*installed = str_ends(value, " installed");
}

int packages_add_dpkg(struct package_list *list, struct str text, struct err *err)
{
	struct package package = { .type = "deb" };
	struct str line, key, value;
	bool installed = true;
	int r = 0;

	while (r == 0 && next_line(&text, &line)) {
		if (line.len == 0) {
			if (installed)
				r = add(list, &package, err);
			package = (struct package){ .type = "deb" };
			installed = true;
		} else if (line.ptr[0] != ' ' && line.ptr[0] != '\t' &&
			   str_cut(line, ':', &key, &value)) {
			take_dpkg_field(key, value, &package, &installed);
		}
	}
	return r == 0 && installed ? add(list, &package, err) : r;
}

static void take_apk_field(char key, struct str value, struct package *package)
{
	switch (key) {
	case 'P':
		package->name = value;
		break;
	case 'V':
		package->version = value;
		break;
	case 'A':
		package->arch = value;
		break;
	case 'o':
		package->source = value;
		break;
	case 'L':
		package->license = value;
		break;
	default:
		break;
	}
}

int packages_add_apk(struct package_list *list, struct str text, struct err *err)
{
	struct package package = { .type = "apk" };
	struct str line;
	int r = 0;

	while (r == 0 && next_line(&text, &line)) {
		if (line.len == 0) {
			r = add(list, &package, err);
			package = (struct package){ .type = "apk" };
		} else if (line.len >= 2 && line.ptr[1] == ':') {
			take_apk_field(line.ptr[0], str_trim(str_from_index(line, 2)), &package);
		}
	}
	return r == 0 ? add(list, &package, err) : r;
}

static int compare(const void *a_pointer, const void *b_pointer)
{
	const struct package *a = a_pointer, *b = b_pointer;
	int r = strcmp(a->type, b->type);

	if (r == 0)
		r = str_cmp(a->name, b->name);
	if (r == 0)
		r = str_cmp(a->version, b->version);
	return r ? r : str_cmp(a->arch, b->arch);
}

void packages_sort(struct package_list *list)
{
	if (list->count)
		qsort(list->items, list->count, sizeof(*list->items), compare);
}

void packages_release(struct package_list *list)
{
	arena_release(&list->arena);
	list->items = NULL;
	list->count = 0;
}
