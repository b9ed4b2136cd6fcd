/* SPDX-License-Identifier: Apache-2.0 */
/* The bill of materials of an image: the packages that its own databases list, read from the merged index.
 *
 * What this can honestly say is what dpkg and apk wrote down. Files that no package brought, an rpm database, and the modules
 * of language runtimes are not looked at, and the document says so. Licences are given as the databases have them, as a
 * comment: few are expressions of SPDX. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "builder/attest.h"
#include "formats/base/limits.h"
#include "formats/packages.h"
#include "layerfs/tree.h"

enum { DATABASE_BYTES_MAX = 256 << 20, DATABASE_FILES_MAX = 20000 };

#define IMAGE_ID "SPDXRef-Image"

struct sbom {
	struct tree *tree;
	struct package_list packages;
	struct arena arena; /* texts of the databases */
	struct str distro, distro_version;
	bool other_database; /* one that is not read */
};

/* --- Reading --- */

/* 1: the file is there, and its text lasts as long as the arena. */
static int read_text(struct sbom *sbom, struct tree_node *node, struct str *ret_text,
		     struct err *err)
{
	auto_buf struct buf text = BUF_INIT(DATABASE_BYTES_MAX);
	const char *copy;
	int r;

	if (!S_ISREG(tree_attr(node)->mode))
		return 0;
	r = tree_read_file(sbom->tree, node, &text, err);
	if (r < 0)
		return r;
	copy = arena_strdup(&sbom->arena, buf_str(&text));
	if (!copy)
		return err_nomem(err);
	*ret_text = str_of(copy, text.len);
	return 1;
}

static int read_path(struct sbom *sbom, const char *path, struct str *ret_text, struct err *err)
{
	auto_tree_node struct tree_node *node = NULL;
	struct err missing;

	if (tree_resolve(sbom->tree, str_from(path), true, &node, NULL, &missing) < 0)
		return 0;
	return read_text(sbom, node, ret_text, err);
}

static bool path_exists(struct sbom *sbom, const char *path)
{
	auto_tree_node struct tree_node *node = NULL;
	struct err missing;

	return tree_resolve(sbom->tree, str_from(path), true, &node, NULL, &missing) == 0;
}

/* Distroless images have a file for each package. */
static int read_status_dir(struct sbom *sbom, struct err *err)
{
	auto_tree_node struct tree_node *dir = NULL;
	auto_tree_dir struct tree_dir *names = NULL;
	unsigned count = 0;
	struct err missing;
	struct str name, text;
	int r;

	if (tree_resolve(sbom->tree, STR("var/lib/dpkg/status.d"), true, &dir, NULL, &missing) <
		    0 ||
	    !S_ISDIR(tree_attr(dir)->mode))
		return 0;
	r = tree_open_dir(sbom->tree, dir, &names, err);
	while (r == 0) {
		auto_tree_node struct tree_node *node = NULL;

		r = tree_next(names, &name, &node, err);
		if (r <= 0)
			break;
		if (++count > DATABASE_FILES_MAX)
			return err_set(err, ERR_LIMIT, "more than %d package files",
				       DATABASE_FILES_MAX);
		r = str_ends(name, ".md5sums") ? 0 : read_text(sbom, node, &text, err);
		if (r > 0)
			r = packages_add_dpkg(&sbom->packages, text, err);
	}
	return r;
}

/* ID and VERSION_ID of os-release, without quotes. */
static int read_distro(struct sbom *sbom, struct err *err)
{
	struct str text, line, key, value;
	int r = read_path(sbom, "etc/os-release", &text, err);

	if (r == 0)
		r = read_path(sbom, "usr/lib/os-release", &text, err);
	if (r <= 0)
		return r;
	while (text.len) {
		str_cut(text, '\n', &line, &text);
		if (!str_cut(line, '=', &key, &value))
			continue;
		if (value.len >= 2 && (value.ptr[0] == '"' || value.ptr[0] == '\'') &&
		    value.ptr[value.len - 1] == value.ptr[0])
			value = str_sub(value, 1, value.len - 2);
		if (str_is(key, "ID"))
			sbom->distro = value;
		else if (str_is(key, "VERSION_ID"))
			sbom->distro_version = value;
	}
	return 0;
}

static int read_databases(struct sbom *sbom, struct err *err)
{
	struct str text = STR("");
	int r = read_distro(sbom, err);

	if (r == 0)
		r = read_path(sbom, "var/lib/dpkg/status", &text, err);
	if (r > 0)
		r = packages_add_dpkg(&sbom->packages, text, err);
	if (r == 0)
		r = read_status_dir(sbom, err);
	if (r == 0)
		r = read_path(sbom, "lib/apk/db/installed", &text, err);
	if (r == 0)
		r = read_path(sbom, "usr/lib/apk/db/installed", &text, err);
	if (r > 0)
		r = packages_add_apk(&sbom->packages, text, err);
	sbom->other_database = path_exists(sbom, "var/lib/rpm") ||
			       path_exists(sbom, "usr/lib/sysimage/rpm") ||
			       path_exists(sbom, "var/lib/pacman");
	packages_sort(&sbom->packages);
	return r;
}

/* --- Writing --- */

static void set_view(struct json *map, const char *key, struct str text)
{
	if (text.len)
		(void)json_set(map, key, json_new_text(text));
}

static void package_purl(const struct sbom *sbom, const struct package *package, struct buf *purl)
{
	struct str distro = sbom->distro.len			? sbom->distro
			    : strcmp(package->type, "deb") == 0 ? STR("debian")
								: STR("alpine");

	buf_printf(purl, "pkg:%s/", package->type);
	attest_encode(distro, purl);
	buf_putc(purl, '/');
	attest_encode(package->name, purl);
	buf_putc(purl, '@');
	attest_encode(package->version, purl);
	if (package->arch.len) {
		buf_puts(purl, "?arch=");
		attest_encode(package->arch, purl);
	}
	if (sbom->distro.len && sbom->distro_version.len) {
		buf_puts(purl, package->arch.len ? "&distro=" : "?distro=");
		attest_encode(sbom->distro, purl);
		buf_putc(purl, '-');
		attest_encode(sbom->distro_version, purl);
	}
}

/* What SPDX asks for and nobody here knows. */
static void set_unknown(struct json *map)
{
	(void)json_set_text(map, "downloadLocation", "NOASSERTION");
	(void)json_set(map, "filesAnalyzed", json_new_bool(false));
	(void)json_set_text(map, "licenseConcluded", "NOASSERTION");
	(void)json_set_text(map, "licenseDeclared", "NOASSERTION");
	(void)json_set_text(map, "copyrightText", "NOASSERTION");
}

static struct json *purl_reference(const char *purl)
{
	struct json *map = json_new_map(), *list = json_new_list();

	(void)json_set_text(map, "referenceCategory", "PACKAGE-MANAGER");
	(void)json_set_text(map, "referenceType", "purl");
	(void)json_set_text(map, "referenceLocator", purl);
	(void)json_append(list, map);
	return list;
}

static int add_package(const struct sbom *sbom, size_t number, struct json *list, struct err *err)
{
	const struct package *package = &sbom->packages.items[number];
	auto_buf struct buf purl = BUF_INIT(64 * KIB), source = BUF_INIT(64 * KIB);
	struct json *map = json_new_map();
	char id[48];

	snprintf(id, sizeof(id), "SPDXRef-Package-%zu", number + 1);
	package_purl(sbom, package, &purl);
	(void)json_set_text(map, "SPDXID", id);
	set_view(map, "name", package->name);
	set_view(map, "versionInfo", package->version);
	set_unknown(map);
	if (package->license.len)
		set_view(map, "licenseComments", package->license);
	if (package->source.len) {
		buf_printf(&source, "built from source package: %.*s", (int)package->source.len,
			   package->source.ptr);
		if (!source.failed)
			(void)json_set_text(map, "sourceInfo", source.data);
	}
	if (!purl.failed)
		(void)json_set(map, "externalRefs", purl_reference(purl.data));
	return json_append(list, map) < 0 ? err_nomem(err) : 0;
}

static struct json *relationship(const char *from, const char *type, const char *to)
{
	struct json *map = json_new_map();

	(void)json_set_text(map, "spdxElementId", from);
	(void)json_set_text(map, "relationshipType", type);
	(void)json_set_text(map, "relatedSpdxElement", to);
	return map;
}

static struct json *image_package(const struct attest_subject *subject)
{
	struct json *map = json_new_map(), *checksums = json_new_list(), *sum = json_new_map();
	auto_buf struct buf purl = BUF_INIT(4096);
	char hex[DIGEST_HEX_MAX];

	(void)json_set_text(map, "SPDXID", IMAGE_ID);
	(void)json_set_text(map, "name", subject->name_count ? subject->names[0] : "image");
	set_unknown(map);
	(void)json_set_text(map, "primaryPackagePurpose", "CONTAINER");
	(void)json_set_text(sum, "algorithm", "SHA256");
	(void)json_set_text(sum, "checksumValue", digest_hex(&subject->manifest->digest, hex));
	(void)json_append(checksums, sum);
	(void)json_set(map, "checksums", checksums);
	if (subject->name_count) {
		attest_image_purl(subject->names[0], &subject->platform, &purl);
		if (!purl.failed)
			(void)json_set(map, "externalRefs", purl_reference(purl.data));
	}
	return map;
}

static struct json *creation_info(const struct sbom *sbom, const char *created)
{
	struct json *info = json_new_map(), *creators = json_new_list();
	char time[TIME_TEXT_MAX];
	int64_t ns;

	/* SPDX wants seconds. */
	if (!created || time_parse(str_from(created), &ns) < 0)
		ns = 0;
	(void)json_set_text(info, "created", time_text(ns - ns % 1000000000, time));
	(void)json_append(creators, json_new_text(STR("Tool: mica-" MICA_VERSION)));
	(void)json_set(info, "creators", creators);
	(void)json_set_text(
		info, "comment",
		sbom->other_database
			? "Packages of the databases of dpkg and apk in the image. Another package "
			  "database is "
			  "there and was not read; files that no package brought are not listed."
			: "Packages of the databases of dpkg and apk in the image; files that no "
			  "package brought "
			  "are not listed.");
	return info;
}

static int write_document(const struct sbom *sbom, const struct image_config *config,
			  const struct attest_subject *subject, struct json **ret_document,
			  struct err *err)
{
	struct json *map = json_new_map(), *packages = json_new_list(),
		    *relations = json_new_list();
	char space[DIGEST_TEXT_MAX + 32], hex[DIGEST_HEX_MAX], id[48];
	size_t i;
	int r = 0;

	snprintf(space, sizeof(space), "urn:mica:sbom:%s",
		 digest_hex(&subject->manifest->digest, hex));
	(void)json_set_text(map, "spdxVersion", "SPDX-2.3");
	(void)json_set_text(map, "dataLicense", "CC0-1.0");
	(void)json_set_text(map, "SPDXID", "SPDXRef-DOCUMENT");
	(void)json_set_text(map, "name", subject->name_count ? subject->names[0] : "image");
	(void)json_set_text(map, "documentNamespace", space);
	(void)json_set(map, "creationInfo", creation_info(sbom, config->created));
	(void)json_append(packages, image_package(subject));
	(void)json_append(relations, relationship("SPDXRef-DOCUMENT", "DESCRIBES", IMAGE_ID));
	for (i = 0; i < sbom->packages.count && r == 0; i++) {
		r = add_package(sbom, i, packages, err);
		snprintf(id, sizeof(id), "SPDXRef-Package-%zu", i + 1);
		(void)json_append(relations, relationship(IMAGE_ID, "CONTAINS", id));
	}
	(void)json_set(map, "packages", packages);
	(void)json_set(map, "relationships", relations);
	*ret_document = map;
	return r;
}

int attest_sbom(struct store *store, const struct image_config *config,
		const struct attest_subject *subject, struct image_statements *statements,
		struct err *err)
{
	struct image image = { .config = *config };
	struct sbom sbom = { .arena = ARENA_INIT(2 * GIB) };
	auto_stack struct stack stack = { .elements = NULL };
	struct json *document = NULL;
	int r;

	image.manifest.layer_count = config->diff_id_count;
	r = image_stack(store, &image, &stack, err);
	if (r == 0)
		r = tree_new(&stack, &sbom.tree, err);
	if (r == 0)
		r = read_databases(&sbom, err);
	if (r == 0)
		r = write_document(&sbom, config, subject, &document, err);
	if (r == 0)
		r = attest_statement(subject, PREDICATE_SPDX, take(document), statements, err);
	json_free(document);
	tree_free(sbom.tree);
	packages_release(&sbom.packages);
	arena_release(&sbom.arena);
	return r < 0 ? err_wrap(err, "cannot list the packages of the image") : 0;
}
