#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Options of a build about the host: volumes, modes of a checkout, how old a base image may be (RCP-528, RCP-615, RCP-520).

load common

setup_file() {
	mica_setup_file
}

setup() {
	context
}

@test "--volume: read-write, read-only, thrown away; nothing of it in the image (RCP-528)" {
	mkdir "$ctx/host"
	echo host >"$ctx/host/file"
	dockerfile <<-'EOT'
		FROM base
		RUN cat /v/file >/seen; echo changed >/v/new 2>/dev/null || echo refused >/refused
	EOT
	mica build -q -t v -v "$ctx/host:/v" "$ctx"
	[ "$(mica cat v /seen)" = host ]
	[ "$(cat "$ctx/host/new")" = changed ]
	run ! mica ls v /v
	rm "$ctx/host/new"
	mica build -q -t v --no-cache -v "$ctx/host:/v:ro" "$ctx"
	[ "$(mica cat v /refused)" = refused ]
	mica build -q -t v --no-cache -v "$ctx/host:/v:O" "$ctx"
	run ! mica cat v /refused
	[ "$(ls "$ctx/host")" = file ]
	assert_clean
}

@test "--volume: where it lies enters the key, what is in it does not, and that is said (RCP-528)" {
	mkdir "$ctx/host"
	echo 1 >"$ctx/host/file"
	dockerfile <<-'EOT'
		FROM base
		RUN cat /v/file /w/file >/seen 2>/dev/null; true
	EOT
	run -0 --separate-stderr mica build -t v --volume "$ctx/host:/v" "$ctx"
	[[ $stderr == *"the cache does not see what is in volumes"* ]]
	echo 2 >"$ctx/host/file"
	run -0 --separate-stderr mica build -t v --volume "$ctx/host:/v" "$ctx"
	[[ $stderr == *CACHED* ]]
	mica build -q -t v --volume "$ctx/host:/w" "$ctx"
	[ "$(mica cat v /seen)" = 2 ]
	run -2 mica build -v "$ctx/host" "$ctx"
	run -2 mica build -v "$ctx/host:relative" "$ctx"
	run -2 mica build -v "$ctx/host:/v:rx" "$ctx"
	run -125 --separate-stderr mica build -v "$ctx/nonesuch:/v" "$ctx"
	[[ $stderr == *"cannot open volume '$ctx/nonesuch'"* ]]
}

@test "--normalize-modes: a checkout with another umask is the same image and hits (RCP-615)" {
	dockerfile <<-'EOT'
		FROM scratch
		COPY tree /tree
	EOT
	mkdir -p "$ctx/tree/sub"
	echo text >"$ctx/tree/sub/text"
	echo program >"$ctx/tree/program"
	chmod 700 "$ctx/tree/program" "$ctx/tree/sub"
	chmod 600 "$ctx/tree/sub/text"
	first=$(mica build -q -t n --normalize-modes "$ctx")
	mica ls -l n /tree | grep -q 'rwxr-xr-x.*program'
	mica ls -l n /tree/sub | grep -q 'rw-r--r--.*text'
	chmod 775 "$ctx/tree/program" "$ctx/tree/sub"
	chmod 664 "$ctx/tree/sub/text"
	run -0 --separate-stderr mica build -t n --normalize-modes "$ctx"
	[[ $stderr == *CACHED* ]]
	[ "$output" = "$first" ]
	# Without it modes count.
	[ "$(mica build -q -t n "$ctx")" != "$first" ]
}

@test "--tag-ttl: an old tag is asked for again, and kept when nobody answers (RCP-520)" {
	registry=$("$MICA_TEST_TOOLS/registry-server" start "$BATS_TEST_TMPDIR/registry") || skip "no registry"
	printf 'FROM base\nRUN echo 1 >/v\n' | dockerfile
	mica build -q -t "$registry/moving" --push "$ctx" >/dev/null
	# Somebody else moves the tag.
	printf 'FROM base\nRUN echo 2 >/v\n' | dockerfile
	MICA_ROOT="$BATS_TEST_TMPDIR/other" bash -c '"$1" import "$2" base >/dev/null && "$1" build -q -t "$3" --push "$4"' \
		- "$MICA" "$BATS_FILE_TMPDIR/rootfs" "$registry/moving" "$ctx"
	printf 'FROM %s/moving\nRUN cat /v >/seen\n' "$registry" | dockerfile
	mica build -q -t old --tag-ttl 1h "$ctx"
	[ "$(mica cat old /seen)" = 1 ]
	mica build -q -t new --tag-ttl 0s "$ctx"
	[ "$(mica cat new /seen)" = 2 ]
	"$MICA_TEST_TOOLS/registry-server" stop "$BATS_TEST_TMPDIR/registry"
	mica build -q -t new --tag-ttl 0s --retry 0 "$ctx"
	[ "$(mica cat new /seen)" = 2 ]
	run -2 mica build --tag-ttl soon "$ctx"
	run -2 mica build --retry x "$ctx"
}

@test "--isolation: the names of one thing, and the one that is not there (RCP-525)" {
	printf 'FROM base\nRUN true\n' | dockerfile
	for name in auto ns oci rootless default; do
		mica build -q --isolation "$name" "$ctx"
	done
	run -125 --separate-stderr mica build --isolation chroot "$ctx"
	[[ $stderr == *"there is no isolation without namespaces"* ]]
	run -2 mica build --isolation nonesuch "$ctx"
}
