/* SPDX-License-Identifier: Apache-2.0 */
/* Credential files, also as the legacy form. No helper runs here. */
#include <assert.h>
#include <stdint.h>

#include "formats/base/log.h"
#include "registry-client/auth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ignore_line(void *argument, enum log_level level, const char *line)
{
	(void)argument;
	(void)level;
	(void)line;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const domains[] = { "h.io", "docker.io" };
	size_t i;

	log_set_printer(ignore_line, NULL);
	for (i = 0; i < 4; i++) {
		auto_credentials struct credentials c = { .username = NULL };
		auto_buf struct buf helper = BUF_INIT(256);
		enum auth_file_answer answer;
		struct err err;

		if (auth_file_find(str_of(data, size), "f", i & 1, domains[i / 2], "a/b", &answer,
				   &c, &helper, &err) == 0)
			assert(answer != AUTH_FILE_CREDENTIALS || c.origin);
	}
	return 0;
}
