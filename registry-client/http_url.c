/* SPDX-License-Identifier: Apache-2.0 */
/* URLs from servers. libcurl parses each URL again, and two parsers that disagree are a hole; so what could be read in two
 * ways is refused: userinfo, backslashes, blanks, control and non-ASCII bytes, hosts of other characters than names and
 * addresses have, schemes other than http and https. Queries are kept byte for byte (signed URLs, REG-503). */
#include "registry-client/http.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

struct url {
	struct str scheme, host, port; /* 'port' empty: the default */
	struct str rest;	       /* path and query, "" or from '/' or '?' on */
};

enum { SHOWN_MAX = 200 };

static int malformed(struct str text, const char *why, struct err *err)
{
	struct str shown, query;

	/* A query may be a signature (SEC-R11). */
	str_cut(text, '?', &shown, &query);
	return err_set(err, ERR_HTTP, "malformed URL '%.*s': %s",
		       (int)(shown.len < SHOWN_MAX ? shown.len : SHOWN_MAX), shown.ptr, why);
}

static bool is_host(struct str host)
{
	bool bracketed = host.len > 2 && host.ptr[0] == '[' && host.ptr[host.len - 1] == ']';
	size_t i;

	if (bracketed)
		host = str_sub(host, 1, host.len - 2);
	for (i = 0; i < host.len; i++) {
		unsigned char c = (unsigned char)host.ptr[i];

		if (bracketed ? !isxdigit(c) && c != ':' && c != '.'
			      : !isalnum(c) && c != '.' && c != '-' && c != '_')
			return false;
	}
	return host.len > 0;
}

static int split(struct str text, struct url *url, struct err *err)
{
	struct str authority;
	uint64_t number;
	size_t i;

	for (i = 0; i < text.len; i++) {
		unsigned char c = (unsigned char)text.ptr[i];

		if (c <= ' ' || c >= 0x7f || c == '\\' || c == '#')
			return err_set(err, ERR_HTTP, "malformed URL: byte 0x%02x is not allowed",
				       c);
	}
	*url = (struct url){ .scheme = STR("") };
	if (str_starts(text, "https://"))
		url->scheme = STR("https");
	else if (str_starts(text, "http://"))
		url->scheme = STR("http");
	else
		return malformed(text, "neither https nor http", err);
	authority = str_from_index(text, url->scheme.len + 3);
	for (i = 0; i < authority.len && authority.ptr[i] != '/' && authority.ptr[i] != '?';)
		i++;
	url->rest = str_from_index(authority, i);
	authority = str_sub(authority, 0, i);
	if (str_has(authority, '@'))
		return malformed(STR("(hidden)"), "user information is not allowed", err);
	url->host = authority;
	url->port = STR("");
	if (!str_ends(authority, "]") && str_cut_last(authority, ':', &url->host, &url->port) &&
	    (url->port.len > 5 || str_to_u64(url->port, 65535, &number) < 0 || number == 0))
		return malformed(text, "bad port", err);
	if (!is_host(url->host))
		return malformed(text, "bad host", err);
	return 0;
}

/* Removes "." and ".." of a path at the end of 'url', from 'start' (its first '/') on. */
static void remove_dots(struct buf *url, size_t start, struct str path)
{
	struct str part, rest, query;
	bool more = true;
	size_t at;

	for (at = 0; at < path.len && path.ptr[at] != '?';)
		at++;
	query = str_from_index(path, at);
	rest = str_sub(path, 1, at ? at - 1 : 0);
	while (more) {
		more = str_cut(rest, '/', &part, &rest);
		if (str_is(part, "..")) {
			while (url->len > start && url->data[url->len - 1] != '/')
				buf_truncate(url, url->len - 1);
			if (url->len > start)
				buf_truncate(url, url->len - 1);
			if (!more)
				buf_putc(url, '/');
		} else if (str_is(part, ".")) {
			if (!more)
				buf_putc(url, '/');
		} else {
			buf_putc(url, '/');
			buf_add(url, part);
		}
	}
	buf_add(url, query);
}

int http_resolve_url(const char *base, struct str location, struct buf *url, struct err *err)
{
	auto_buf struct buf joined = BUF_INIT(64 << 10);
	struct url from = { .rest = STR("") }, whole;
	struct str path, query;
	int r;

	r = split(str_from(base), &from, err);
	if (r < 0)
		return r;
	buf_clear(url);
	location = str_trim(location);
	if (location.len == 0)
		return malformed(location, "empty", err);
	if (str_starts(location, "http://") || str_starts(location, "https://")) {
		buf_add(url, location);
	} else if (str_starts(location, "//")) {
		buf_add(url, from.scheme);
		buf_putc(url, ':');
		buf_add(url, location);
	} else {
		/* A scheme of another kind would otherwise look like a relative path. */
		size_t i;

		for (i = 0; i < location.len && isalnum((unsigned char)location.ptr[i]);)
			i++;
		if (i > 0 && i < location.len && location.ptr[i] == ':')
			return malformed(location, "neither https nor http", err);
		buf_add(url, from.scheme);
		buf_puts(url, "://");
		buf_add(url, from.host);
		if (from.port.len) {
			buf_putc(url, ':');
			buf_add(url, from.port);
		}
		str_cut(from.rest, '?', &path, &query);
		if (location.ptr[0] == '/') {
			buf_add(url, location);
		} else if (location.ptr[0] == '?') {
			buf_add(url, path);
			buf_add(url, location);
		} else {
			size_t start = url->len;

			str_cut_last(path, '/', &path, &query);
			buf_add(&joined, path);
			buf_putc(&joined, '/');
			buf_add(&joined, location);
			r = buf_check(&joined, "URL", err);
			if (r < 0)
				return r;
			remove_dots(url, start, buf_str(&joined));
		}
	}
	r = buf_check(url, "URL", err);
	return r < 0 ? r : split(buf_str(url), &whole, err);
}

int http_origin(const char *url, struct buf *origin, struct err *err)
{
	struct url parts = { .rest = STR("") };
	size_t i;
	int r;

	r = split(str_from(url), &parts, err);
	if (r < 0)
		return r;
	buf_clear(origin);
	buf_add(origin, parts.scheme);
	buf_puts(origin, "://");
	for (i = 0; i < parts.host.len; i++)
		buf_putc(origin, (char)tolower((unsigned char)parts.host.ptr[i]));
	buf_putc(origin, ':');
	if (parts.port.len)
		buf_add(origin, parts.port);
	else
		buf_puts(origin, str_is(parts.scheme, "https") ? "443" : "80");
	return buf_check(origin, "URL", err);
}

void http_encode(struct buf *url, struct str text)
{
	size_t i;

	for (i = 0; i < text.len; i++) {
		unsigned char c = (unsigned char)text.ptr[i];

		/* ':', '/' and ',' are common in scopes and digests and allowed in a query. */
		if (isalnum(c) || strchr("-._~:/,@", c ? c : '#'))
			buf_putc(url, (char)c);
		else
			buf_printf(url, "%%%02X", c);
	}
}

bool http_host_is_loopback(struct str host)
{
	struct str name = host, port, part, rest;
	uint64_t number;
	unsigned count = 0;
	bool more = true;

	if (str_is(host, "[::1]") || str_starts(host, "[::1]:"))
		return true;
	str_cut(host, ':', &name, &port);
	if (str_is_nocase(name, "localhost") || str_ends(name, ".localhost"))
		return true;
	/* Four plain numbers, the first 127; other spellings of addresses are names to us. */
	for (rest = name; more; count++) {
		more = str_cut(rest, '.', &part, &rest);
		if (str_to_u64(part, 255, &number) < 0 || (count == 0 && number != 127))
			return false;
	}
	return count == 4;
}

/* --- Addresses --- */

struct network {
	uint32_t address;
	unsigned bits;
	enum http_network kind;
};

static enum http_network network_of_v4(uint32_t address)
{
	/* Special-purpose networks of RFC 6890 that no public server is in. */
	static const struct network networks[] = {
		{ 0x00000000, 8, HTTP_NETWORK_PRIVATE },     /* 0.0.0.0/8: this network */
		{ 0x0a000000, 8, HTTP_NETWORK_PRIVATE },     /* 10.0.0.0/8 */
		{ 0x64400000, 10, HTTP_NETWORK_PRIVATE },    /* 100.64.0.0/10: carrier NAT */
		{ 0x7f000000, 8, HTTP_NETWORK_PRIVATE },     /* 127.0.0.0/8 */
		{ 0xa9fe0000, 16, HTTP_NETWORK_LINK_LOCAL }, /* 169.254.0.0/16: cloud metadata */
		{ 0xac100000, 12, HTTP_NETWORK_PRIVATE },    /* 172.16.0.0/12 */
		{ 0xc0a80000, 16, HTTP_NETWORK_PRIVATE },    /* 192.168.0.0/16 */
		{ 0xe0000000, 3, HTTP_NETWORK_PRIVATE },     /* 224.0.0.0/3: multicast, reserved */
	};
	size_t i;

	for (i = 0; i < sizeof(networks) / sizeof(networks[0]); i++) {
		if ((address ^ networks[i].address) >> (32 - networks[i].bits) == 0)
			return networks[i].kind;
	}
	return HTTP_NETWORK_PUBLIC;
}

static uint32_t v4_at(const uint8_t *bytes)
{
	return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 |
	       bytes[3];
}

static enum http_network network_of_v6(const uint8_t *bytes)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	static const uint8_t translated[12] = { 0x00, 0x64, 0xff, 0x9b };
	static const uint8_t zeros[12];

	/* ::ffff:a.b.c.d, 64:ff9b::a.b.c.d; ::, ::1 and the old ::a.b.c.d. */
	if (memcmp(bytes, mapped, 12) == 0 || memcmp(bytes, translated, 12) == 0)
		return network_of_v4(v4_at(bytes + 12));
	if (memcmp(bytes, zeros, 12) == 0)
		return HTTP_NETWORK_PRIVATE;
	if (bytes[0] == 0xfe && (bytes[1] & 0xc0) == 0x80)
		return HTTP_NETWORK_LINK_LOCAL;
	if ((bytes[0] & 0xfe) == 0xfc || bytes[0] == 0xff)
		return HTTP_NETWORK_PRIVATE;
	return HTTP_NETWORK_PUBLIC;
}

enum http_network http_network_of(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
		return network_of_v4(ntohl(
			((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr));
	if (address->sa_family == AF_INET6)
		return network_of_v6(
			((const struct sockaddr_in6 *)(const void *)address)->sin6_addr.s6_addr);
	return HTTP_NETWORK_PRIVATE;
}
