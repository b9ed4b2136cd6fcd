#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# A union is one file system: as root, and in a user namespace where marks are user.overlay.* (FS-240, FS-241).

load ../cli/common

probes() {
	TMPDIR="$BATS_TEST_TMPDIR" "$@" python3 tests/conformance/union_probes.py "$MICA"
}

@test "mica union answers as one file system" {
	needs_root
	run probes
	echo "$output"
	[ "$status" = 0 ]
}

@test "the same in a user namespace of many ids" {
	needs_root
	run probes tests/tools/in-user-namespace
	echo "$output"
	[ "$status" = 0 ]
}
