#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Images in the store: names, inspection, files, moving in and out, space, consistency.

load common

setup_file() {
	mica_setup_file
	mkdir "$BATS_FILE_TMPDIR/ctx"
	echo content >"$BATS_FILE_TMPDIR/ctx/file"
	printf 'FROM base\nCOPY file /dir/file\nENV A=1\n' >"$BATS_FILE_TMPDIR/ctx/Dockerfile"
	"$MICA" build -q -t app:1 "$BATS_FILE_TMPDIR/ctx" >/dev/null
}

teardown() {
	assert_clean
}

@test "images: a table, ids, JSON lines with docker's keys (UX-54)" {
	run -0 mica images
	[[ ${lines[0]} == REPOSITORY*TAG*"IMAGE ID"*CREATED*SIZE* ]]
	[[ $output == *app*1* ]]
	run -0 mica images -q app
	[[ $output =~ ^[0-9a-f]{12}$ ]]
	run -0 mica images --format json app
	[ "$(jq -r .Repository <<<"$output")" = app ]
	[ "$(jq -r 'keys | join(" ")' <<<"$output")" = "Containers CreatedAt CreatedSince Digest ID Repository SharedSize Size Tag UniqueSize VirtualSize" ]
}

@test "tag, untag, rm by name and by id" {
	mica tag app:1 other:2 third
	run -0 mica images -q third
	id=$output
	mica untag other:2
	run -125 mica untag other:2
	[[ $output == *"other:2"* ]]
	run -0 mica rm third
	[ "$output" = third:latest ]
	mica tag app:1 a b
	[ "$(mica images -q app)" = "$id" ]
	printf 'FROM base\nENV UNIQUE=1\n' >"$BATS_TEST_TMPDIR/Dockerfile"
	id=$(mica build -q -t x:1 -t x:2 "$BATS_TEST_TMPDIR")
	run -0 mica rm "${id:7:12}"
	[ "$output" = $'x:1\nx:2' ]
	mica untag a b
}

@test "a missing image names itself and the nearest name" {
	run -125 mica inspect app:3
	[[ $output == *"no image 'app:3'"* ]]
	[[ $output == *"app:1"* ]]
	run -2 mica inspect UPPER
	[[ $output == *lower* ]]
}

@test "inspect: docker's document; --raw and --config are the stored bytes" {
	run -0 mica inspect app:1
	[ "$(jq -r '.[0].RepoTags[0]' <<<"$output")" = app:1 ]
	[ "$(jq -r '.[0].Os' <<<"$output")" = linux ]
	[ "$(jq -r '.[0].RootFS.Layers | length' <<<"$output")" = 2 ]
	id=$(jq -r '.[0].Id' <<<"$output")
	[ "sha256:$(mica inspect --config app:1 | sha256sum | cut -d' ' -f1)" = "$id" ]
	[ "sha256:$(mica inspect --raw app:1 | sha256sum | cut -d' ' -f1)" = "$(manifest_of app:1)" ]
}

@test "history: newest first, sizes by layer" {
	run -0 mica history app:1
	[[ ${lines[0]} == IMAGE*"CREATED BY"* ]]
	[[ ${lines[1]} == *"ENV A=1"*0B* ]]
	[[ ${lines[2]} == *"COPY file /dir/file"* ]]
	run -0 mica history --format json app:1
	[ "$(jq -r .CreatedBy <<<"${lines[1]}")" = "COPY file /dir/file # buildkit" ]
}

@test "ls and cat read the image without a mount" {
	run -0 mica ls -l app:1 /dir
	[[ $output == -rw-r--r--*" file" ]]
	[ "$(mica cat app:1 /dir/file)" = content ]
	run -0 mica ls app:1 bin/sh
	run -125 mica cat app:1 /dir
	[[ $output == *"not a regular file"* ]]
	run -125 mica ls app:1 /none
	[[ $output == *"/none"* ]]
}

@test "export tar: GNU tar sees the files; import makes the same tree again" {
	mica export app:1 -o "$BATS_TEST_TMPDIR/app.tar"
	run -0 tar -xOf "$BATS_TEST_TMPDIR/app.tar" dir/file
	[ "$output" = content ]
	run -0 mica import "$BATS_TEST_TMPDIR/app.tar" again
	diff <(mica ls -lR app:1) <(mica ls -lR again)
	gzip <"$BATS_TEST_TMPDIR/app.tar" | mica import - again2 >/dev/null
	xz -0 <"$BATS_TEST_TMPDIR/app.tar" | mica import - again3 >/dev/null
	diff <(mica ls -lR again) <(mica ls -lR again2)
	diff <(mica ls -lR again) <(mica ls -lR again3)
	mica rm again again2 again3
}

@test "docker-archive, oci-archive and OCI layout go out and come back with the same id" {
	id=$(mica inspect app:1 | jq -r '.[0].Id')
	for format in docker-archive oci-archive; do
		mica export --format $format app:1 -o "$BATS_TEST_TMPDIR/$format.tar"
		run -0 --separate-stderr mica load --root "$BATS_TEST_TMPDIR/$format" -i "$BATS_TEST_TMPDIR/$format.tar"
		[ "$output" = "$id" ]
		[ "$(mica cat --root "$BATS_TEST_TMPDIR/$format" app:1 /dir/file)" = content ]
	done
	mica export --format oci app:1 -o "$BATS_TEST_TMPDIR/layout"
	run -0 --separate-stderr mica load --root "$BATS_TEST_TMPDIR/s3" "oci:$BATS_TEST_TMPDIR/layout:app:1"
	[ "$output" = "$id" ]
}

@test "an archive never goes to a terminal, a truncated one never into the store" {
	mica save app:1 -o "$BATS_TEST_TMPDIR/whole.tar"
	head -c 300000 "$BATS_TEST_TMPDIR/whole.tar" >"$BATS_TEST_TMPDIR/short.tar"
	run -125 mica load -i "$BATS_TEST_TMPDIR/short.tar"
	run -125 mica load -i "$BATS_TEST_TMPDIR/none.tar"
	[[ $output == *none.tar* ]]
	run ! script -qec "$MICA save app:1" /dev/null
}

@test "skopeo and umoci read the store in place (REG-904)" {
	command -v skopeo >/dev/null || skip "no skopeo"
	[ "$(skopeo inspect --format '{{.Digest}}' "oci:$MICA_ROOT/oci:app:1")" = "$(manifest_of app:1)" ]
	command -v umoci >/dev/null || skip "no umoci"
	run -0 umoci stat --image "$MICA_ROOT/oci:app:1" --json
}

@test "du adds up, gc keeps what is named and frees what is not" {
	printf 'FROM base\nRUN head -c 5000000 /dev/urandom >/big\n' >"$BATS_TEST_TMPDIR/Dockerfile"
	mica build -q -t big "$BATS_TEST_TMPDIR" >/dev/null
	before=$(mica du --json | jq .totalBytes)
	mica rm big
	run -0 --separate-stderr mica gc --all
	after=$(mica du --json | jq .totalBytes)
	((before - after > 5000000))
	[ "$(mica cat app:1 /dir/file)" = content ]
}

@test "fsck finds a damaged blob, index and tar, and says which" {
	cp -r "$MICA_ROOT" "$BATS_TEST_TMPDIR/broken"
	index=$(find "$BATS_TEST_TMPDIR/broken/layers" -name index.erofs | head -1)
	printf 'x' | dd of="$index" bs=1 seek=2000 conv=notrunc status=none
	run -1 mica fsck --data --root "$BATS_TEST_TMPDIR/broken"
	[[ $output == *fault* ]]
	run -0 mica fsck --data --repair --root "$BATS_TEST_TMPDIR/broken"
	run -0 mica fsck --data --root "$BATS_TEST_TMPDIR/broken"
}

@test "help for every verb, version, no verb" {
	for verb in $(mica help | awk '/^  [a-z]/ { print $1 }'); do
		run -0 mica help "$verb"
		[[ ${lines[0]} == "Usage: mica $verb"* ]]
		run -0 mica "$verb" --help
	done
	run -0 mica version --json
	[ "$(jq -r .version <<<"$output")" != null ]
	run -2 mica
	[[ $output == *"Usage: mica VERB"* ]]
}

@test "a format that a report does not have is a matter of usage, for each of them (UX-13, UX-51)" {
	for verb in images "history base" "inspect base" du version doctor builds why timing "cache ls"; do
		# shellcheck disable=SC2086 # words
		run -2 --separate-stderr mica $verb --format yaml
		[[ $stderr == *"unknown format 'yaml': table or json"* ]]
	done
}
