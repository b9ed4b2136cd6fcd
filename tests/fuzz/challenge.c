/* SPDX-License-Identifier: Apache-2.0 */
/* Header values from registries: challenges, links, and URLs, which resolve to what resolves to itself. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#include "registry-client/auth.h"
#include "registry-client/call.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_http_reply struct http_reply reply = { .headers = BUF_INIT(1 << 20) };
	auto_buf struct buf url = BUF_INIT(1 << 20), again = BUF_INIT(1 << 20);
	auto_challenge struct challenge challenge;
	struct str target;
	struct err err;

	challenge_init(&challenge);
	if (challenge_parse(str_of(data, size), &challenge, &err) == 0)
		assert(challenge.scheme != AUTH_NONE && challenge.realm.len <= size);
	buf_puts(&reply.headers, "Link: ");
	buf_append(&reply.headers, data, size);
	if (call_next_link(&reply, &target))
		assert(target.len < size);
	if (http_resolve_url("https://h.io/a/b?c", str_of(data, size), &url, &err) == 0) {
		assert(http_origin(url.data, &again, &err) == 0);
		assert(http_resolve_url("http://other/", buf_str(&url), &again, &err) == 0);
		assert(str_eq(buf_str(&url), buf_str(&again)));
	}
	return 0;
}
