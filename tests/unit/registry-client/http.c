/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "registry-client/call.h"
#include "registry-client/http.h"

/* RFC 3986 5.4 where it applies, the forms of REG-503, and the refusals of SEC-R06 and SEC-R10. */
static void resolves(void **state)
{
	static const char base[] = "https://h.io:5000/v2/a/blobs/uploads/x?_state=1";
	static const char *const rows[][2] = {
		{ "https://o/p?q", "https://o/p?q" },
		{ "http://o:80", "http://o:80" },
		{ "//o/p", "https://o/p" },
		{ "/p/q?r=s%2F&t", "https://h.io:5000/p/q?r=s%2F&t" },
		{ "y", "https://h.io:5000/v2/a/blobs/uploads/y" },
		{ "./y?z=../w", "https://h.io:5000/v2/a/blobs/uploads/y?z=../w" },
		{ "../y", "https://h.io:5000/v2/a/blobs/y" },
		{ "../../../../../y", "https://h.io:5000/y" },
		{ "?d=1", "https://h.io:5000/v2/a/blobs/uploads/x?d=1" },
		{ " /p ", "https://h.io:5000/p" },
		{ "https://[::1]:1/p", "https://[::1]:1/p" },
		/* Refused. */
		{ "", NULL },
		{ "https://u@h/p", NULL },
		{ "https://u:p@h/p", NULL },
		{ "https://h\\@o/p", NULL },
		{ "https://h/p#f", NULL },
		{ "https://h/a b", NULL },
		{ "/a\r\nX: y", NULL },
		{ "file:///etc/passwd", NULL },
		{ "gopher://h/", NULL },
		{ "javascript:x", NULL },
		{ "https://", NULL },
		{ "https:///p", NULL },
		{ "https://h:0/", NULL },
		{ "https://h:65536/", NULL },
		{ "https://h:x/", NULL },
		{ "https://h%2eio/", NULL },
		{ "https://[::1/p", NULL },
		{ "https://\xc3\xa9/", NULL },
	};
	auto_buf struct buf url = BUF_INIT(1000);
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int r = http_resolve_url(base, str_from(rows[i][0]), &url, &err);

		if (!rows[i][1]) {
			if (r != -ERR_HTTP)
				fail_msg("'%s' was accepted as '%s'", rows[i][0], url.data);
			assert_true(str_starts(str_from(err.text), "malformed URL"));
			assert_null(strstr(err.text, "u:p"));
			continue;
		}
		if (r < 0)
			fail_msg("'%s': %s", rows[i][0], err.text);
		assert_string_equal(url.data, rows[i][1]);
	}
}

static void origins(void **state)
{
	static const char *const rows[][2] = {
		{ "https://H.io/x", "https://h.io:443" },
		{ "http://h.io", "http://h.io:80" },
		{ "https://h:8443?x", "https://h:8443" },
		{ "http://[::1]/", "http://[::1]:80" },
		{ "http://[::1]:5000", "http://[::1]:5000" },
	};
	auto_buf struct buf origin = BUF_INIT(100);
	struct err err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(http_origin(rows[i][0], &origin, &err), 0);
		assert_string_equal(origin.data, rows[i][1]);
	}
}

/* REG-703: other spellings of loopback addresses do not count. */
static void knows_loopback(void **state)
{
	static const char *const yes[] = { "localhost", "localhost:5000", "a.localhost:1",
					   "127.0.0.1", "127.255.0.9:80", "[::1]",
					   "[::1]:5000" };
	static const char *const no[] = {
		"localhost.evil.io", "10.0.0.1", "127.1",     "0x7f.0.0.1",
		"2130706433",	     "h.io",	 "[::2]",     "127.0.0.1.io",
		"127.0.0.256",	     "",	 "host.local"
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(yes) / sizeof(yes[0]); i++)
		assert_true(http_host_is_loopback(str_from(yes[i])));
	for (i = 0; i < sizeof(no) / sizeof(no[0]); i++)
		assert_false(http_host_is_loopback(str_from(no[i])));
}

static void encodes(void **state)
{
	auto_buf struct buf text = BUF_INIT(100);

	(void)state;
	http_encode(&text, str_of("a:/,@-._~ &=+%#?\r\n\0\xff", 20));
	assert_string_equal(text.data, "a:/,@-._~%20%26%3D%2B%25%23%3F%0D%0A%00%FF");
}

static void set_headers(struct http_reply *reply, const char *text)
{
	buf_init(&reply->headers, 10000);
	buf_puts(&reply->headers, text);
}

static void finds_headers(void **state)
{
	auto_http_reply struct http_reply reply = { .status = 0 };
	struct str value;

	(void)state;
	set_headers(&reply, "HTTP/1.1 200 OK\r\nContent-Type:  a/b \r\nlink: x\r\nLINK: y\r\n\r\n");
	assert_true(http_header(&reply, "content-type", 0, &value));
	assert_true(str_is(value, "a/b"));
	assert_true(http_header(&reply, "Link", 1, &value));
	assert_true(str_is(value, "y"));
	assert_false(http_header(&reply, "Link", 2, &value));
	assert_false(http_header(&reply, "HTTP/1.1 200 OK", 0, &value));
}

/* REG-653: seconds, dates, points in time; the past is a second. */
static void reads_retry_after(void **state)
{
	static const struct {
		const char *text;
		int64_t seconds;
	} rows[] = {
		{ "Retry-After: 7\r\n", 7 },
		{ "Retry-After: 0\r\n", 0 },
		{ "Retry-After: 1700000100\r\n", 100 },
		{ "Retry-After: 1699999000\r\n", 1 },
		{ "Retry-After: Tue, 14 Nov 2023 22:14:20 GMT\r\n", 60 },
		{ "Retry-After: Tue, 14 Nov 2023 20:00:00 GMT\r\n", 1 },
		{ "Retry-After: soon\r\n", -1 },
		{ "Retry-After: -5\r\n", -1 },
		{ "X: 1\r\n", -1 },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		auto_http_reply struct http_reply reply = { .status = 0 };

		set_headers(&reply, rows[i].text);
		assert_int_equal(http_retry_after_s(&reply, 1700000000), rows[i].seconds);
	}
}

/* SEC-R07 */
static void knows_networks(void **state)
{
	static const struct {
		const char *address;
		enum http_network network;
	} rows[] = {
		{ "8.8.8.8", HTTP_NETWORK_PUBLIC },
		{ "172.15.255.255", HTTP_NETWORK_PUBLIC },
		{ "172.16.0.1", HTTP_NETWORK_PRIVATE },
		{ "172.31.255.255", HTTP_NETWORK_PRIVATE },
		{ "172.32.0.0", HTTP_NETWORK_PUBLIC },
		{ "10.0.0.1", HTTP_NETWORK_PRIVATE },
		{ "127.0.0.1", HTTP_NETWORK_PRIVATE },
		{ "0.0.0.0", HTTP_NETWORK_PRIVATE },
		{ "100.64.0.1", HTTP_NETWORK_PRIVATE },
		{ "100.128.0.1", HTTP_NETWORK_PUBLIC },
		{ "192.168.1.1", HTTP_NETWORK_PRIVATE },
		{ "169.254.169.254", HTTP_NETWORK_LINK_LOCAL },
		{ "224.0.0.1", HTTP_NETWORK_PRIVATE },
		{ "255.255.255.255", HTTP_NETWORK_PRIVATE },
		{ "2001:4860::8888", HTTP_NETWORK_PUBLIC },
		{ "::1", HTTP_NETWORK_PRIVATE },
		{ "::", HTTP_NETWORK_PRIVATE },
		{ "::ffff:7f00:1", HTTP_NETWORK_PRIVATE },
		{ "::ffff:8.8.8.8", HTTP_NETWORK_PUBLIC },
		{ "64:ff9b::10.0.0.1", HTTP_NETWORK_PRIVATE },
		{ "::ffff:a9fe:a9fe", HTTP_NETWORK_LINK_LOCAL },
		{ "fe80::1", HTTP_NETWORK_LINK_LOCAL },
		{ "febf::1", HTTP_NETWORK_LINK_LOCAL },
		{ "fec0::1", HTTP_NETWORK_PUBLIC },
		{ "fc00::1", HTTP_NETWORK_PRIVATE },
		{ "fdff::1", HTTP_NETWORK_PRIVATE },
		{ "ff02::1", HTTP_NETWORK_PRIVATE },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct sockaddr_in6 six = { .sin6_family = AF_INET6 };
		struct sockaddr_in four = { .sin_family = AF_INET };
		bool is_six = strchr(rows[i].address, ':');

		assert_int_equal(is_six ? inet_pton(AF_INET6, rows[i].address, &six.sin6_addr)
					: inet_pton(AF_INET, rows[i].address, &four.sin_addr),
				 1);
		if (http_network_of(is_six ? (struct sockaddr *)&six : (struct sockaddr *)&four) !=
		    rows[i].network)
			fail_msg("%s", rows[i].address);
	}
}

/* REG-601 */
static void reads_links(void **state)
{
	static const char *const rows[][2] = {
		{ "Link: </a>; rel=\"next\"\r\n", "/a" },
		{ "Link: </a>; rel=next\r\n", "/a" },
		{ "Link: </a>;rel=\"prev next\"\r\n", "/a" },
		{ "Link: </a>; rel=prev, </b,c>; x=\"y,z;\"; REL=Next\r\n", "/b,c" },
		{ "Link: </a>; rel=prev\r\nLink: </b>; rel=next\r\n", "/b" },
		{ "Link: </a>; rel=prev\r\n", NULL },
		{ "Link: </a>; title=\"next\"\r\n", NULL },
		{ "Link: /a; rel=next\r\n", NULL },
		{ "Link: </a\r\n", NULL },
		{ "Link: </a>; rel=\"next\r\n", "/a" },
	};
	auto_http_reply struct http_reply binary = { .headers = BUF_INIT(100) };
	struct str target;
	size_t i;

	(void)state;

	/* A NUL once held the parser for ever. */
	buf_add(&binary.headers, STR("Link: <x>\0;a=\0\r\n"));
	assert_false(call_next_link(&binary, &target));
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		auto_http_reply struct http_reply reply = { .status = 0 };
		bool found;

		set_headers(&reply, rows[i][0]);
		found = call_next_link(&reply, &target);
		if (found != !!rows[i][1] || (found && !str_is(target, rows[i][1])))
			fail_msg("%s", rows[i][0]);
	}
}

/* SEC-R12 */
static void copies_foreign_text(void **state)
{
	char text[20];

	(void)state;
	call_copy_text(text, sizeof(text), STR("\x1b[31m  a\r\n\tb\x7f"));
	assert_string_equal(text, "[31m a b ");
	call_copy_text(text, sizeof(text), STR("0123456789012345678901234"));
	assert_string_equal(text, "0123456789012345678");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(resolves),
		cmocka_unit_test(origins),
		cmocka_unit_test(knows_loopback),
		cmocka_unit_test(encodes),
		cmocka_unit_test(finds_headers),
		cmocka_unit_test(reads_retry_after),
		cmocka_unit_test(knows_networks),
		cmocka_unit_test(reads_links),
		cmocka_unit_test(copies_foreign_text),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
