/* SPDX-License-Identifier: Apache-2.0 */
/* --chmod values: what is accepted gives 12 bits on any mode, the error of what is not names the value. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "builder/file_mode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct file_mode change;
	struct err err;
	uint32_t mode;

	if (file_mode_parse(str_of(data, size), &change, &err) < 0) {
		assert(strstr(err.text, "invalid chmod parameter"));
		return 0;
	}
	for (mode = 0; mode <= 07777; mode += 7) {
		assert(file_mode_apply(&change, mode, false) <= 07777);
		assert(file_mode_apply(&change, mode, true) <= 07777);
		/* Bits of the type are no bits of the mode. */
		assert(file_mode_apply(&change, mode | 0100000, false) ==
		       file_mode_apply(&change, mode, false));
	}
	return 0;
}
