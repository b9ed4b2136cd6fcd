/* SPDX-License-Identifier: Apache-2.0 */
/* packages: the databases of dpkg and apk to lists of installed packages.
 *
 * Both are text: paragraphs of fields, divided by empty lines. Nothing in them is trusted: they come out of images. A paragraph
 * without name or version, or of a package that is not installed, is left out; other damage does not matter. */
#ifndef FORMATS_PACKAGES_H
#define FORMATS_PACKAGES_H

#include <stddef.h>

#include "formats/base/arena.h"
#include "formats/base/err.h"
#include "formats/base/str.h"

enum { PACKAGES_MAX = 200000 };

struct package {
	const char *type; /* "deb", "apk" */
	struct str name, version;
	struct str arch, source, license; /* empty when not given */
};

/* Views into the texts, which must outlive the list. */
struct package_list {
	struct arena arena;
	struct package *items;
	size_t count;
};

/* /var/lib/dpkg/status, or a file of /var/lib/dpkg/status.d, where nothing says what is installed. ERR_LIMIT. */
int packages_add_dpkg(struct package_list *list, struct str text, struct err *err) must_check;
/* /lib/apk/db/installed. ERR_LIMIT. */
int packages_add_apk(struct package_list *list, struct str text, struct err *err) must_check;
/* By type, name, version, architecture. */
void packages_sort(struct package_list *list);
void packages_release(struct package_list *list);

DEFINE_AUTO_VALUE(package_list, packages_release);
#define auto_package_list __attribute__((cleanup(auto_package_list_)))

#endif
