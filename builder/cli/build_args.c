/* SPDX-License-Identifier: Apache-2.0 */
/* Where build arguments come from, the weakest source first (RCP-208, RCP-503):
 *
 *	the caller's proxy variables, with --http-proxy
 *	"proxies" of docker's config.json, a default for every build
 *	--build-arg-file
 *	--build-arg
 *
 * The plan takes the last of a name. Proxies count as one name in upper and lower case: whoever gives http_proxy means
 * HTTP_PROXY too, so a stronger source takes both away from the weaker. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "builder/cli/build.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/json.h"

enum { CLIENT_CONFIG_BYTES_MAX = 1 << 20 };

static const struct {
	const char *variable, *lower, *key;
} proxies[] = {
	{ "HTTP_PROXY", "http_proxy", "httpProxy" }, { "HTTPS_PROXY", "https_proxy", "httpsProxy" },
	{ "FTP_PROXY", "ftp_proxy", "ftpProxy" },    { "NO_PROXY", "no_proxy", "noProxy" },
	{ "ALL_PROXY", "all_proxy", "allProxy" },
};
enum { PROXY_COUNT = sizeof(proxies) / sizeof(proxies[0]) };

/* Takes over 'text', which may be NULL: out of memory. */
static int add(struct text_list *list, char *text, struct err *err)
{
	const char **items;

	if (!text)
		return err_nomem(err);
	/* One more for the NULL at the end. */
	items = realloc(list->items, (list->count + 2) * sizeof(*items));
	if (!items) {
		free(text);
		return err_nomem(err);
	}
	list->items = items;
	items[list->count++] = text;
	items[list->count] = NULL;
	return 0;
}

static int add_pair(struct text_list *list, const char *name, const char *value, struct err *err)
{
	char *text = NULL;

	if (asprintf(&text, "%s=%s", name, value) < 0)
		text = NULL;
	return add(list, text, err);
}

/* "NAME=VALUE", or "NAME": the caller's variable; unset there means not given. */
static int add_given(struct text_list *list, const char *given, struct err *err)
{
	if (strchr(given, '='))
		return add(list, strdup(given), err);
	return getenv(given) ? add_pair(list, given, getenv(given), err) : 0;
}

static bool is_given(const struct text_list *list, const char *name)
{
	size_t len = strlen(name), i;

	for (i = 0; i < list->count; i++)
		if (strncmp(list->items[i], name, len) == 0 && list->items[i][len] == '=')
			return true;
	return false;
}

/* --- The file --- */

static int add_line(struct text_list *list, struct str line, struct err *err)
{
	auto_free char *text = NULL;

	line = str_trim(line);
	if (line.len == 0 || line.ptr[0] == '#')
		return 0;
	if (memchr(line.ptr, '\0', line.len))
		return err_set(err, ERR_USAGE, "a build argument cannot hold a NUL byte");
	text = str_dup(line);
	if (!text)
		return err_nomem(err);
	if (text[0] == '=')
		return err_set(err, ERR_USAGE, "a build argument needs a name: '%s'", text);
	return add_given(list, text, err);
}

static int add_file(struct text_list *list, const char *path, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(LIMIT_RECIPE_BYTES);
	struct str rest, line;
	unsigned number = 0;
	bool more = true;
	int r = io_read_file(AT_FDCWD, path, &text, err);

	rest = buf_str(&text);
	while (r == 0 && more) {
		more = str_cut(rest, '\n', &line, &rest);
		number++;
		r = add_line(list, line, err);
		if (r < 0)
			err_wrap(err, "%s:%u", path, number);
	}
	return r;
}

/* --- Proxies --- */

static bool proxy_is_given(const struct text_list *list, size_t proxy)
{
	return is_given(list, proxies[proxy].variable) || is_given(list, proxies[proxy].lower);
}

static int read_client_config(struct buf *text, struct err *err)
{
	const char *directory = getenv("DOCKER_CONFIG"), *home = getenv("HOME");
	auto_free char *path = NULL;
	int len;

	if (directory && *directory)
		len = asprintf(&path, "%s/config.json", directory);
	else if (home && *home)
		len = asprintf(&path, "%s/.docker/config.json", home);
	else
		return err_set(err, ENOENT, "no home directory");
	if (len < 0) {
		path = NULL;
		return err_nomem(err);
	}
	return io_read_file(AT_FDCWD, path, text, err);
}

/* Only what is said for every daemon: mica has none whose address could choose another entry. A file that cannot be read or
 * makes no sense is the concern of those who log in with it; a build has no proxies from it then. */
static int add_configured_proxies(struct text_list *list, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(CLIENT_CONFIG_BYTES_MAX);
	auto_json struct json *config = NULL;
	struct json *entries, *entry;
	struct err ignored = { 0 };
	size_t i;
	int r = 0;

	if (read_client_config(&text, &ignored) < 0 ||
	    json_parse(buf_str(&text), "config.json", &config, &ignored) < 0)
		return 0;
	entries = json_kind(config) == JSON_MAP ? json_get(config, "proxies") : NULL;
	entry = json_kind(entries) == JSON_MAP ? json_get(entries, "default") : NULL;
	for (i = 0; i < PROXY_COUNT && r == 0 && json_kind(entry) == JSON_MAP; i++) {
		const char *value = json_text(json_get(entry, proxies[i].key));

		if (value && *value && !proxy_is_given(list, i))
			r = add_pair(list, proxies[i].variable, value, err);
	}
	return r;
}

static int add_callers_proxies(struct text_list *list, struct err *err)
{
	size_t i;
	int r = 0;

	for (i = 0; i < PROXY_COUNT && r == 0; i++) {
		const char *value = getenv(proxies[i].variable);

		if (!value)
			value = getenv(proxies[i].lower);
		if (value && *value && !proxy_is_given(list, i))
			r = add_pair(list, proxies[i].variable, value, err);
	}
	return r;
}

int build_collect_args(const struct build_flags *flags, struct text_list *ret_args, struct err *err)
{
	size_t i;
	int r = 0;

	*ret_args = (struct text_list){ 0 };
	for (i = 0; i < flags->build_arg_files.count && r == 0; i++)
		r = add_file(ret_args, flags->build_arg_files.items[i], err);
	for (i = 0; i < flags->build_args.count && r == 0; i++)
		r = add_given(ret_args, flags->build_args.items[i], err);
	/* What is given already is left out, so these are the weakest although they come last. */
	if (r == 0)
		r = add_configured_proxies(ret_args, err);
	if (r == 0 && flags->http_proxy)
		r = add_callers_proxies(ret_args, err);
	return r;
}
