/* SPDX-License-Identifier: Apache-2.0 */
/* Private keys of ssh: what is parsed has a public blob of its kind and signs. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "formats/ssh_key.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	auto_ssh_key struct ssh_key *key = NULL;
	auto_buf struct buf signature = BUF_INIT(1 << 16);
	struct str rest, type, algorithm, bytes;
	struct err err;

	if (ssh_key_parse(str_of(data, size), "key", &key, &err) < 0)
		return 0;
	rest = ssh_key_public(key);
	assert(ssh_take_string(&rest, &type) && rest.len && strlen(ssh_key_comment(key)) < size);
	if (ssh_key_sign(key, STR("data"), SSH_SIGN_SHA512, &signature, &err) < 0)
		return 0;
	rest = buf_str(&signature);
	assert(ssh_take_string(&rest, &algorithm) && ssh_take_string(&rest, &bytes) && !rest.len);
	return 0;
}
