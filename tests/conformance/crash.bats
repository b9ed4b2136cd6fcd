#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# A server of a union killed at instants of its work: a sample of what 'make crash' does (FS-709, FS-1254).

load ../cli/common

@test "union: killed at any instant, a new server and the kernel take the upper up again (FS-709)" {
	needs_root
	run -0 "$BATS_TEST_DIRNAME/../stress/crash" --build "$(dirname "$MICA")" --seconds 7
	[[ $output == *" 0 failures, "* ]]
}

@test "union: what the player found stays mended (FS-1254)" {
	needs_root
	run -0 "$BATS_TEST_DIRNAME/../stress/run" --build "$(dirname "$MICA")" --finds-only
	[[ $output == *" 0 failures, "* ]]
}
