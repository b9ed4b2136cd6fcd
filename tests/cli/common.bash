# SPDX-License-Identifier: Apache-2.0
# Shared by the bats files: a store of its own for each file with a busybox base image in it, and small helpers.
# Shellcheck: bats sets variables that it cannot see.
# shellcheck disable=SC2154,SC2034
bats_require_minimum_version 1.5.0

: "${MICA:=$PWD/build/mica}"
: "${MICA_TEST_TOOLS:=$PWD/tests/tools}"

# Once a file: $MICA_ROOT with image 'base'.
mica_setup_file() {
	export MICA MICA_TEST_TOOLS
	export MICA_ROOT="$BATS_FILE_TMPDIR/store"
	unset SOURCE_DATE_EPOCH MICA_DRIVER MICA_PROGRESS GITHUB_OUTPUT GITHUB_STEP_SUMMARY
	"$MICA_TEST_TOOLS/make-busybox-base" "$BATS_FILE_TMPDIR/rootfs"
	"$MICA" import "$BATS_FILE_TMPDIR/rootfs" base --change 'CMD ["/bin/sh"]' >/dev/null
}

# A context directory for one test, made empty.
context() {
	ctx="$BATS_TEST_TMPDIR/ctx"
	rm -rf "$ctx"
	mkdir -p "$ctx"
}

# Standard input becomes the Dockerfile of the context.
dockerfile() {
	cat >"$ctx/Dockerfile"
}

mica() {
	"$MICA" "$@"
}

# Manifest digest of an image.
manifest_of() {
	mica inspect "$1" | jq -r '.[0].Descriptor.digest'
}

needs_root() {
	[ "$(id -u)" = 0 ] || skip "needs root"
}

# What a test must not leave behind.
assert_clean() {
	run ! grep "$BATS_FILE_TMPDIR" /proc/self/mountinfo
	[ -z "$(ls "$MICA_ROOT/steps" 2>/dev/null)" ]
	mica fsck
}
