#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# The step cache: what hits, what does not, and what is told about it.
# shellcheck disable=SC2016,SC2030,SC2031,SC2154 # bats sets variables and runs each test in a subshell

load common

setup_file() {
	mica_setup_file
}

setup() {
	context
}

teardown() {
	assert_clean
}

# Builds the context as 'it'; $steps has the rows of steps with their states, one a line: "DONE RUN make".
build() {
	run -0 --separate-stderr mica build --progress=plain -t it "$@" "$ctx"
	id=$output
	steps=$(states <<<"$stderr")
}

states() {
	awk '/^#[0-9]+ \[[a-z0-9-]* *[0-9]+\/[0-9]+\] / { n = $1; sub(/^#[0-9]+ \[[^]]*\] /, ""); name[n] = $0 }
		/^#[0-9]+ (CACHED|DONE|CANCELED)/ && $1 in name && name[$1] !~ /^FROM/ { print $2, name[$1] }'
}

state_of() {
	grep -F "$1" <<<"$steps" | head -n1 | cut -d' ' -f1
}

@test "COPY --from takes what it names: the same base name from elsewhere is another key (RCP-602)" {
	dockerfile <<-'D'
		FROM base AS b
		RUN mkdir /a /b && echo 1 >/a/x && echo 2 >/b/x
		FROM base
		COPY --from=b /a/x /x
	D
	build
	[ "$(mica cat it /x)" = 1 ]
	sed -i 's,/a/x /x,/b/x /x,' "$ctx/Dockerfile"
	build
	[ "$(mica cat it /x)" = 2 ]
	[ "$(state_of COPY)" = DONE ]
}

@test "RUN binds what it names of another stage (RCP-606)" {
	dockerfile <<-'D'
		FROM base AS b
		RUN mkdir /a /b && echo 1 >/a/x && echo 2 >/b/x
		FROM base
		RUN --mount=from=b,source=/a,target=/m cat /m/x >/y
	D
	build
	sed -i 's,source=/a,source=/b,' "$ctx/Dockerfile"
	build
	[ "$(mica cat it /y)" = 2 ]
	# A stage that ran again with the same there.
	sed -i 's,echo 1 >/a/x,echo 7 >/a/x,' "$ctx/Dockerfile"
	build
	[ "$(state_of 'RUN mkdir')" = DONE ]
	[ "$(state_of 'RUN --mount')" = CACHED ]
}

@test "a step of another stage that ran again with equal content: COPY of it hits (RCP-603, RCP-604, RCP-976)" {
	dockerfile <<-'D'
		FROM base AS b
		RUN mkdir /a && echo 1 >/a/x && echo 1 >/unused
		FROM base
		COPY --from=b /a/x /x
	D
	build
	sed -i 's,echo 1 >/unused,echo 2 >/unused,' "$ctx/Dockerfile"
	build
	[ "$(state_of 'RUN mkdir')" = DONE ]
	[ "$(state_of COPY)" = CACHED ]
	sed -i 's,echo 1 >/a/x,echo 3 >/a/x,' "$ctx/Dockerfile"
	build
	[ "$(state_of COPY)" = DONE ]
	[ "$(mica cat it /x)" = 3 ]
}

@test "renaming a parent of a source keeps the hit, --link does not see the state below (RCP-606, RCP-975)" {
	mkdir -p "$ctx/one/src"
	echo a >"$ctx/one/src/a"
	dockerfile <<-'D'
		FROM base
		RUN echo 1 >/below
		COPY one/src/ /src/
		COPY --link one/src/a /linked
	D
	build
	mv "$ctx/one" "$ctx/two"
	sed -i 's,one/,two/,' "$ctx/Dockerfile"
	build
	[ "$(state_of 'COPY two')" = CACHED ]
	[ "$(state_of 'COPY --link')" = CACHED ]
	sed -i 's,echo 1,echo 2,' "$ctx/Dockerfile"
	build
	[ "$(state_of 'COPY two')" = DONE ]
	[ "$(state_of 'COPY --link')" = CACHED ]
}

@test "the order of mounts counts where one covers another, else not (RCP-606)" {
	mkdir "$ctx/p" "$ctx/q"
	dockerfile <<-'D'
		FROM base
		RUN --mount=source=p,target=/m/p --mount=source=q,target=/m/q ls -R /m >/out
	D
	build
	sed -i 's,\(--mount=source=p[^ ]*\) \(--mount=source=q[^ ]*\),\2 \1,' "$ctx/Dockerfile"
	run -0 mica build --progress=plain -t it "$ctx"
	grep -A1 'RUN.*ls -R' <<<"$output" | grep -q CACHED
}

@test "mica cache: records are listed, measured, forgotten; du tells what prune --all frees (RCP-534, RCP-631)" {
	export MICA_ROOT="$BATS_TEST_TMPDIR/store"
	"$MICA" import "$BATS_FILE_TMPDIR/rootfs" base >/dev/null
	dockerfile <<-'D'
		FROM base
		RUN echo 1 >/one
		RUN head -c 100000 /dev/urandom >/two
	D
	build
	run -0 mica cache ls
	[[ ${lines[0]} == RECORD*CREATED*LAST\ USED*SIZE*STEP ]]
	[ "${#lines[@]}" = 3 ]
	run -0 mica cache ls --json
	record=$(jq -r 'select(.step | contains("/one")) | .id' <<<"$output")
	[ "$(mica cache rm -n "${record:0:12}")" = "$record" ]
	[ "$(mica cache rm "${record:0:12}")" = "$record" ]
	run -125 mica cache rm "${record:0:12}"
	[[ $output == *"no cache record '${record:0:12}' in the store"* ]]
	build
	[ "$(state_of 'RUN echo 1')" = DONE ]
	[ "$(state_of 'RUN head')" = CACHED ]

	mica rm it >/dev/null
	told=$(mica cache du --json | jq .reclaimable)
	[ "$(mica cache du -v | grep -c '/')" = "$(mica cache du --json | jq .objects)" ]
	before=$(du -s --block-size=1 "$MICA_ROOT/oci" "$MICA_ROOT/layers" "$MICA_ROOT/images" | awk '{ n += $1 } END { print n }')
	run -0 --separate-stderr mica cache prune --all
	after=$(du -s --block-size=1 "$MICA_ROOT/oci" "$MICA_ROOT/layers" "$MICA_ROOT/images" | awk '{ n += $1 } END { print n }')
	[ "$told" = $((before - after)) ]
	[ -z "$(mica cache ls)" ]
	mica cat base /bin/busybox >/dev/null

	build
	run -0 mica cache prune --until 1h
	[ "$(mica cache ls | wc -l)" = 3 ]
	mica cache prune --filter unused-for=0s
	[ -z "$(mica cache ls)" ]
	run -2 mica cache prune --until soon
	[[ $output == *"bad --until 'soon': a duration such as"* ]]
	run -2 mica cache prone
	[[ $output == *"did you mean prune?"* ]]
}

@test "--no-cache-filter runs a stage or one step again; nothing stale is paired with it later (RCP-510, RCP-605, RCP-979)" {
	dockerfile <<-'D'
		FROM base AS one
		RUN cat /proc/sys/kernel/random/uuid >/id
		RUN echo 1 >/one
		FROM base AS two
		COPY --from=one /id /id
		RUN cp /id /copy
	D
	build
	build --no-cache-filter=none,two:9
	[ "$(grep -c DONE <<<"$steps")" = 0 ]
	first=$(mica cat it /id)

	build --no-cache-filter=ONE:3
	[ "$(grep -c DONE <<<"$steps")" = 1 ]
	[ "$(state_of 'RUN echo')" = DONE ]

	build --no-cache-filter=one
	[ "$(grep -c DONE <<<"$steps")" = 4 ]
	second=$(mica cat it /id)
	[ "$first" != "$second" ]
	[ "$(mica cat it /copy)" = "$second" ]
	build
	[ "$(grep -c DONE <<<"$steps")" = 0 ]
	[ "$(mica cat it /copy)" = "$second" ]

	# A build that ended after the refreshed step leaves later steps of the old result behind.
	run -0 mica build -q --no-cache-filter=one --target one "$ctx"
	build
	[ "$(state_of 'RUN cat')" = CACHED ]
	[ "$(state_of 'RUN cp')" = DONE ]
	[ "$(mica cat it /id)" != "$second" ]
	[ "$(mica cat it /copy)" = "$(mica cat it /id)" ]
}

@test "--no-cache runs all, and what it made is found afterwards (RCP-611)" {
	dockerfile <<-'D'
		FROM base
		RUN cat /proc/sys/kernel/random/uuid >/no-cache
		RUN cp /no-cache /copy
	D
	build
	first=$id
	build --no-cache
	[ "$(grep -c DONE <<<"$steps")" = 2 ]
	[ "$id" != "$first" ]
	second=$id
	build
	[ "$(grep -c DONE <<<"$steps")" = 0 ]
	[ "$id" = "$second" ]
}

@test "--cache-ttl runs again what is older, and only that (RCP-616)" {
	dockerfile <<-'D'
		FROM base
		RUN echo ttl >/ttl
	D
	build
	build --cache-ttl 1h
	[ "$(state_of RUN)" = CACHED ]
	build --cache-ttl 0s
	[ "$(state_of RUN)" = DONE ]
	run -2 mica build --cache-ttl x "$ctx"
	[[ $output == *"bad --cache-ttl 'x'"* ]]
}

@test "secrets: the value is in no key, its version is (RCP-613, RCP-978)" {
	dockerfile <<-'D'
		FROM base
		RUN --mount=type=secret,id=s true
	D
	echo one >"$BATS_TEST_TMPDIR/s"
	build --secret "id=s,src=$BATS_TEST_TMPDIR/s"
	echo two >"$BATS_TEST_TMPDIR/s"
	build --secret "id=s,src=$BATS_TEST_TMPDIR/s"
	[ "$(state_of RUN)" = CACHED ]
	build --secret "id=s,src=$BATS_TEST_TMPDIR/s,version=2"
	[ "$(state_of RUN)" = DONE ]
	build --secret "id=s,src=$BATS_TEST_TMPDIR/s,version=auto"
	[ "$(state_of RUN)" = DONE ]
	build --secret "id=s,src=$BATS_TEST_TMPDIR/s,version=auto"
	[ "$(state_of RUN)" = CACHED ]
	echo three >"$BATS_TEST_TMPDIR/s"
	build --secret "id=s,src=$BATS_TEST_TMPDIR/s,version=auto"
	[ "$(state_of RUN)" = DONE ]
	run ! grep -rql -e three -e "$(sha256sum <"$BATS_TEST_TMPDIR/s" | cut -c1-64)" "$MICA_ROOT/state.db" "$MICA_ROOT/state.db-wal" "$MICA_ROOT/builds"
}

# Until a file has a text.
until_seen() {
	until grep -qs "$1" "$2"; do
		kill -0 "$first"
		read -r -t 0.01 <> <(:) || true
	done
}

# A build whose step does not end, as $first; the same step ends at once in builds that come later.
start_endless() {
	gate=gate-$BATS_TEST_NUMBER
	dockerfile <<-D
		FROM base
		RUN --mount=type=cache,id=$gate,target=/gate : '$gate'; [ -e /gate/open ] || { >/gate/running; sleep 60; }
	D
	"$MICA" build --progress=plain -t first "$ctx" >/dev/null 2>&1 3>&- &
	first=$!
	until [ -n "$(ls "$MICA_ROOT/leases" 2>/dev/null)" ]; do
		kill -0 "$first"
		read -r -t 0.01 <> <(:) || true
	done
}

open_gate() {
	cat >"$BATS_TEST_TMPDIR/open" <<-D
		FROM base
		RUN --mount=type=cache,id=$gate,target=/gate : '$gate'; until [ -e /gate/running ]; do :; done; >/gate/open
	D
	mica build -q -f "$BATS_TEST_TMPDIR/open" "$ctx" >/dev/null
}

@test "identical builds at the same time execute every step once; one tells for whom it waits (RCP-644, RCP-991)" {
	for n in $(seq 300); do echo "$n" >"$ctx/file-$n"; done
	dockerfile <<-'D'
		FROM base
		COPY file-* /files/
		RUN --mount=type=secret,id=gate cat /run/secrets/gate | sha256sum >/once-991
		RUN sleep 0.3; cat /proc/sys/kernel/random/uuid >/twice
		WORKDIR /new-991
	D
	head -c 100 /dev/urandom >"$BATS_TEST_TMPDIR/s"
	for n in 1 2; do
		"$MICA" build --progress=plain --secret "id=gate,src=$BATS_TEST_TMPDIR/s" "$ctx" \
			2>"$BATS_TEST_TMPDIR/build-$n" >/dev/null 3>&- &
		pids[n]=$!
	done
	wait "${pids[1]}"
	wait "${pids[2]}"
	for n in 1 2; do states <"$BATS_TEST_TMPDIR/build-$n"; done >"$BATS_TEST_TMPDIR/states"
	cat "$BATS_TEST_TMPDIR/states"
	for step in COPY 'RUN --mount' 'RUN sleep' WORKDIR; do
		[ "$(grep -c "DONE $step" "$BATS_TEST_TMPDIR/states")" = 1 ]
		[ "$(grep -c "CACHED $step" "$BATS_TEST_TMPDIR/states")" = 1 ]
	done
	cat "$BATS_TEST_TMPDIR"/build-* | grep -qE '^#[0-9]+ waiting for build [0-9]{8}-[0-9]{6}-[0-9a-f]{6} \(pid [0-9]+\)'
	[ -z "$(ls "$MICA_ROOT/leases")" ]
}

@test "a killed build leaves its lease to the one that waits (RCP-644, RCP-648, RCP-991)" {
	start_endless
	"$MICA" build --progress=plain "$ctx" >/dev/null 2>"$BATS_TEST_TMPDIR/second" 3>&- &
	second=$!
	until_seen 'waiting for build' "$BATS_TEST_TMPDIR/second"
	grep -q "(pid $first)" "$BATS_TEST_TMPDIR/second"
	open_gate
	kill -9 "$first"
	wait "$second"
	states <"$BATS_TEST_TMPDIR/second" | grep -q 'DONE RUN'
	[ -z "$(ls "$MICA_ROOT/leases")" ]
	mica gc >/dev/null
}

@test "--no-wait executes what another build is executing (RCP-644)" {
	start_endless
	open_gate
	build --no-wait
	[ "$(state_of RUN)" = DONE ]
	[[ $stderr != *waiting* ]]
	kill "$first"
	wait "$first" || true
}

# A store without anything but the base image, of the next commands.
empty_store() {
	export MICA_ROOT="$BATS_TEST_TMPDIR/store-$1"
	rm -rf "$MICA_ROOT"
	"$MICA" load "$BATS_FILE_TMPDIR/base.tar" >/dev/null
}

# A recipe of two stages with everything that has a key.
two_stages() {
	[ -e "$BATS_FILE_TMPDIR/base.tar" ] || mica export --format oci -o "$BATS_FILE_TMPDIR/base.tar" base
	mkdir "$ctx/src"
	echo a >"$ctx/src/a"
	dockerfile <<-'D'
		FROM base AS build
		WORKDIR /work
		COPY src/ src/
		RUN cat src/a /proc/sys/kernel/random/uuid >made
		FROM base
		RUN cat /proc/sys/kernel/random/uuid >/own
		COPY --from=build /work/made /made
	D
}

layers_here() {
	find "$MICA_ROOT/layers" -mindepth 1 -maxdepth 1 | wc -l
}

@test "a cache in a directory: an empty store executes nothing and takes only what the image has (RCP-621, RCP-622, RCP-626)" {
	two_stages
	build --cache-to "type=local,dest=$BATS_TEST_TMPDIR/cache,mode=max"
	first=$id
	jq -e '.artifactType == "application/vnd.mica.cache.v1" and (.layers | length) == 5' \
		"$BATS_TEST_TMPDIR/cache/blobs/sha256/$(jq -r '.manifests[0].digest' "$BATS_TEST_TMPDIR/cache/index.json" | cut -d: -f2)"
	empty_store b
	before=$(layers_here)
	build --cache-from "type=local,src=$BATS_TEST_TMPDIR/cache"
	[ "$(grep -c DONE <<<"$steps")" = 0 ]
	[ "$id" = "$first" ]
	[ "$(layers_here)" = $((before + 2)) ]
	# A step behind cached ones: their layers come.
	echo 'RUN cat /made /own >/both' >>"$ctx/Dockerfile"
	empty_store c
	build --cache-from "type=local,src=$BATS_TEST_TMPDIR/cache"
	[ "$(grep -c DONE <<<"$steps")" = 1 ]
	mica cat it /both >/dev/null
	# What came is recorded here.
	build
	[ "$(grep -c DONE <<<"$steps")" = 0 ]
	mica fsck --data
	# mode=min: the image's own steps.
	empty_store a
	build --cache-from "type=local,src=$BATS_TEST_TMPDIR/cache" --cache-to "type=local,dest=$BATS_TEST_TMPDIR/min"
	empty_store b
	before=$(layers_here)
	build --cache-from "type=local,src=$BATS_TEST_TMPDIR/min"
	[ "$(state_of 'RUN cat /proc')" = CACHED ]
	[ "$(state_of 'COPY --from')" = CACHED ]
	[ "$(grep -c DONE <<<"$steps")" = 0 ]
}

@test "a cache in a directory: tags, digests, keep; what nobody needs goes (RCP-624, RCP-628)" {
	two_stages
	cache=$BATS_TEST_TMPDIR/cache
	build --cache-to "type=local,dest=$cache,mode=max" --cache-to "type=local,dest=$cache,tag=other"
	[ "$(jq -c '[.manifests[].annotations["org.opencontainers.image.ref.name"]]' "$cache/index.json")" = '["latest","other"]' ]
	old=$(jq -r '.manifests[0].digest' "$cache/index.json")
	blobs=$(find "$cache/blobs" -type f | wc -l)
	echo b >"$ctx/src/a"
	build --cache-to "type=local,dest=$cache,mode=max,keep=2"
	[ "$(jq '.manifests | length' "$cache/index.json")" = 3 ]
	[ "$(find "$cache/blobs" -type f | wc -l)" -gt "$blobs" ]
	echo a >"$ctx/src/a"
	empty_store b
	build --cache-from "type=local,src=$cache"
	[ "$(state_of 'COPY src')" = DONE ]
	empty_store b
	build --cache-from "type=local,src=$cache,digest=$old"
	[ "$(grep -c DONE <<<"$steps")" = 0 ]
	build --cache-from "type=local,src=$cache,digest=$old" --cache-to "type=local,dest=$cache,mode=max" \
		--cache-to "type=local,dest=$cache,tag=other"
	[ "$(jq '.manifests | length' "$cache/index.json")" = 2 ]
	[ "$(find "$cache/blobs" -type f | wc -l)" = "$blobs" ]
	run -2 mica build --cache-to "type=local,dest=$cache,mod=max" "$ctx"
	[[ $output == *"unknown attribute 'mod' in"*"(did you mean mode?)"* ]]
	run -2 mica build --cache-from "type=local,dest=$cache" "$ctx"
	[[ $output == *"unknown attribute 'dest'"* ]]
}

@test "a cache that is absent, damaged or tells lies is one warning and a normal build (RCP-623, RCP-980)" {
	two_stages
	cache=$BATS_TEST_TMPDIR/cache
	build --cache-to "type=local,dest=$cache,mode=max"
	empty_store b
	build --cache-from "type=local,src=$BATS_TEST_TMPDIR/none" --cache-from "type=registry,ref=127.0.0.1:1/none"
	[ "$(grep -c 'no cache from' <<<"$stderr")" = 2 ]
	[ "$(grep -c DONE <<<"$steps")" = 5 ]
	# A layer is truncated, another one lost, one has another content.
	made=$(jq -r '.layers[].digest' "$cache/blobs/sha256/$(jq -r '.manifests[0].digest' "$cache/index.json" | cut -d: -f2)" | cut -d: -f2)
	for how in truncate remove change; do
		cp -r "$cache" "$cache.$how"
		for blob in $made; do
			case $how in
			truncate) truncate -s -10 "$cache.$how/blobs/sha256/$blob" ;;
			remove) rm "$cache.$how/blobs/sha256/$blob" ;;
			change) printf 'XXXX' | dd of="$cache.$how/blobs/sha256/$blob" bs=1 seek=20 conv=notrunc status=none ;;
			esac
		done
		empty_store b
		build --cache-from "type=local,src=$cache.$how"
		[ "$(grep -c 'building without that cache' <<<"$stderr")" = 1 ]
		mica cat it /made >/dev/null
		mica fsck
	done
	# The document itself.
	config=$(jq -r '.config.digest' "$cache/blobs/sha256/$(jq -r '.manifests[0].digest' "$cache/index.json" | cut -d: -f2)" | cut -d: -f2)
	printf 'XXXX' | dd of="$cache/blobs/sha256/$config" bs=1 seek=8 conv=notrunc status=none
	empty_store b
	build --cache-from "type=local,src=$cache"
	[ "$(grep -c 'no cache from' <<<"$stderr")" = 1 ]
	# Export: a warning, or an error where asked for.
	echo file >"$BATS_TEST_TMPDIR/file"
	build --cache-to "type=local,dest=$BATS_TEST_TMPDIR/file/x"
	[[ $stderr == *"the cache is not in 'type=local"* ]]
	run -125 mica build --cache-to "type=local,dest=$BATS_TEST_TMPDIR/file/x,ignore-error=false" "$ctx"
	[[ $output == *"cannot export the cache to 'type=local"* ]]
}

@test "a cache in a registry, and inside of an image there (RCP-621, RCP-625, RCP-626)" {
	two_stages
	address=$("$MICA_TEST_TOOLS/registry-server" start "$BATS_TEST_TMPDIR/registry")
	build --cache-to "type=registry,ref=$address/cache:1,mode=max"
	first=$id
	empty_store b
	before=$(layers_here)
	build --cache-from "$address/cache:1" --cache-to "type=registry,ref=$address/cache:2,mode=max"
	[ "$(grep -c DONE <<<"$steps")" = 0 ]
	[ "$id" = "$first" ]
	[ "$(layers_here)" = $((before + 2)) ]
	empty_store c
	build --cache-from "type=registry,ref=$address/cache:2" --cache-to type=inline
	[ "$(grep -c DONE <<<"$steps")" = 0 ]
	[ "$id" != "$first" ]
	mica inspect --config it | jq -e '.["mica.cache.v1"].records | length > 2' >/dev/null
	mica tag it "$address/app:1"
	mica push "$address/app:1" >/dev/null
	empty_store d
	build --cache-from "$address/app:1"
	[ "$(grep -c DONE <<<"$steps")" = 0 ]
	[ "$id" = "$first" ]
	# An image made of it does not carry its records on; one without says so.
	printf 'FROM it\nENV X=1\n' >"$ctx/child"
	run -0 mica build -q -f "$ctx/child" -t child "$ctx"
	run -0 mica build -q --cache-to type=inline -t it "$ctx"
	run -0 mica build -q -f "$ctx/child" -t child "$ctx"
	[ "$(mica inspect --config child | jq -c '.["mica.cache.v1"]')" = null ]
	mica tag child "$address/child:1"
	mica push "$address/child:1" >/dev/null
	build --cache-from "$address/child:1"
	[[ $stderr == *"no cache from '$address/child:1': the image carries no cache"* ]]
	"$MICA_TEST_TOOLS/registry-server" stop "$BATS_TEST_TMPDIR/registry"
}

@test "--explain and why: the first thing that differs, and which files (RCP-681, UX-73, UX-74)" {
	mkdir "$ctx/src"
	echo a >"$ctx/src/a"
	echo b >"$ctx/src/b"
	dockerfile <<-'D'
		FROM base AS why
		ARG VERSION=1.2
		ARG API_TOKEN=hush-one
		COPY src/ /src/
		RUN echo $VERSION
		WORKDIR /why
	D
	build --explain
	[ "$(grep -c 'MISS: no earlier record' <<<"$stderr")" = 3 ]
	build --explain
	[[ $stderr != *MISS* ]]
	[[ $(mica why) == "every step of "*" was taken from the cache" ]]

	echo ccc >"$ctx/src/a"
	rm "$ctx/src/b"
	touch "$ctx/src/new"
	build --explain
	[[ $stderr == *"MISS: content changed"*"MISS: M src/a  2 -> 4 bytes"*"MISS: A src/new"*"MISS: D src/b"* ]]
	[[ $stderr == *"MISS: parent changed: [2/4] COPY src/ /src/"* ]]
	run -0 mica why
	[[ $output == *"content changed  (compared with "*"    M src/a  2 -> 4 bytes"*"(3 differ, of 2 files now)"* ]]
	run -0 mica why ^0 RUN
	[[ $output != *"COPY src/ /src/"$'\n'"    content"* ]]
	[ "$(mica why --json | jq -r '.steps[0].components[0].name')" = 'context files' ]

	build --explain --build-arg VERSION=1.3
	[[ $stderr == *'MISS: ARG VERSION: "1.2" -> "1.3"'* ]]
	build --explain --build-arg API_TOKEN=hush-two
	[[ $stderr == *'MISS: something that is not shown changed'* || $stderr == *'MISS: ARG API_TOKEN changed'* ]]
	run ! grep -r hush "$MICA_ROOT/state.db" "$MICA_ROOT/state.db-wal"
	sed -i 's,echo \$VERSION,echo "$VERSION",' "$ctx/Dockerfile"
	build --explain
	[[ $stderr == *'MISS: instruction text changed: RUN echo $VERSION -> RUN echo "$VERSION"'* ]]
	build --explain --no-cache
	[ "$(grep -c 'MISS: --no-cache' <<<"$stderr")" = 3 ]
	build --explain --cache-ttl 0s
	[ "$(grep -c 'MISS: record expired' <<<"$stderr")" = 3 ]
	printf 'FROM base\nRUN echo >/base2\n' >"$ctx/other"
	mica build -q -f "$ctx/other" -t base2 "$ctx" >/dev/null
	sed -i 's,^FROM base ,FROM base2 ,' "$ctx/Dockerfile"
	build --explain
	[[ $stderr == *'MISS: base image changed: base@sha256:'*' -> base2@sha256:'* ]]
}

@test "mica builds: the list, a summary, the output again byte for byte, removal; 50 are kept (UX-36, UX-38, UX-87)" {
	export MICA_ROOT="$BATS_TEST_TMPDIR/store"
	"$MICA" import "$BATS_FILE_TMPDIR/rootfs" base >/dev/null
	dockerfile <<-'D'
		FROM base AS one
		RUN echo out; echo err >&2; printf 'no newline'
		FROM base
		COPY --from=one /bin/busybox /b
		RUN seq 200
	D
	for mode in plain ordered rawjson; do
		run -0 --separate-stderr mica build --no-cache --progress=$mode -t it "$ctx"
		printf '%s\n' "$stderr" >"$BATS_TEST_TMPDIR/live"
		run -0 --separate-stderr mica builds logs --progress=$mode
		printf '%s\n' "$stderr" >"$BATS_TEST_TMPDIR/again"
		[ -z "$output" ]
		diff "$BATS_TEST_TMPDIR/live" "$BATS_TEST_TMPDIR/again"
	done
	sed -i 's,seq 200,exit 3,' "$ctx/Dockerfile"
	run -3 mica build -t it "$ctx"
	run -0 mica builds
	[[ ${lines[0]} == "BUILD ID"*"NAME"*"STATUS"*"CREATED AT"*"DURATION" ]]
	[[ ${lines[1]} == *" it:latest "*" Error "* ]]
	[[ ${lines[2]} == *" it:latest "*" Completed "* ]]
	[ "$(mica builds --json | jq -rs '[.[0].status, .[1].total_steps, .[1].cached_steps] | join(" ")')" = "Error 9 2" ]
	run -0 mica builds show ^1
	[[ $output == *"Build Steps:"*"RUN seq 200"* ]]
	[ "$(mica builds show --json | jq -r .status)" = failed ]
	id=$(mica builds -q | head -n1)
	[ "$(mica builds rm "${id:0:20}")" = "$id" ]
	[ ! -e "$MICA_ROOT/builds/$id" ]
	run -125 mica builds show "$id"
	run -2 mica builds lost
	[[ $output == *"did you mean"* ]]
	printf 'FROM base\n' >"$ctx/Dockerfile"
	for _ in $(seq 52); do mica build -q "$ctx" >/dev/null; done
	[ "$(mica builds -q | wc -l)" = 50 ]
	[ "$(find "$MICA_ROOT/builds" -mindepth 1 -maxdepth 1 | wc -l)" = 50 ]
	mica builds rm --all >/dev/null
	[ -z "$(ls "$MICA_ROOT/builds")" ]
}

# Keys of the steps of the recipe on standard input, without those of bases.
keys() {
	dockerfile
	mica build --plan=json "$ctx" | jq -r '.steps[] | select(.kind != "base") | .key'
}

@test "--plan tells and does nothing (RCP-683)" {
	echo a >"$ctx/a"
	dockerfile <<-'D'
		FROM base AS plan
		COPY a /plan
		RUN cat /plan
	D
	records=$(mica cache ls | wc -l)
	builds=$(mica builds -q | wc -l)
	run -0 --separate-stderr mica build --plan -t plan "$ctx"
	[[ ${lines[1]} == *" run "*"COPY a /plan" ]]
	[ "$(mica cache ls | wc -l)" = "$records" ]
	[ "$(mica builds -q | wc -l)" = "$builds" ]
	run -125 mica inspect plan
	planned=$(mica build --plan=json "$ctx" | jq -r '.steps[2].key')
	build
	[ "$(mica build --plan=json "$ctx" | jq -c '[.steps[].hit]')" = '[null,true,true]' ]
	mica cache ls --json | grep -q "\"id\":\"${planned#sha256:}\""
	run -2 mica build --plan=xml "$ctx"
}

@test "keys: fields have borders, what matters is in, what does not is not (RCP-601, RCP-606, RCP-977)" {
	mkdir "$ctx/d"
	echo 1 >"$ctx/1"
	echo 2 >"$ctx/2"
	cp "$ctx/1" "$ctx/d/1"
	different() { [ "$(sort -u | wc -l)" = "$1" ]; }
	{
		printf 'FROM base\nRUN ["ab","c"]\n' | keys
		printf 'FROM base\nRUN ["a","bc"]\n' | keys
		printf 'FROM base\nRUN ["abc"]\n' | keys
		printf 'FROM base\nRUN ["abc",""]\n' | keys
		printf 'FROM base\nENV A=bc\nRUN ["abc"]\n' | keys
		printf 'FROM base\nENV Ab=c\nRUN ["abc"]\n' | keys
		printf 'FROM base\nENV A=\nRUN ["abc"]\n' | keys
		printf 'FROM base\nUSER 1\nRUN ["abc"]\n' | keys
		printf 'FROM base\nRUN --network=none ["abc"]\n' | keys
		printf 'FROM base\nRUN --mount=type=tmpfs,target=/t ["abc"]\n' | keys
		printf 'FROM base\nRUN --mount=type=tmpfs,target=/t,size=1 ["abc"]\n' | keys
		printf 'FROM base\nRUN --mount=type=secret,id=a,target=/t ["abc"]\n' | keys
		printf 'FROM base\nRUN --mount=type=secret,id=b,target=/t ["abc"]\n' | keys
	} | different 13
	{
		printf 'FROM base\nRUN <<E\na\nE\n' | keys
		printf 'FROM base\nRUN <<E\nb\nE\n' | keys
		printf 'FROM base\nCOPY <<E /x\na\nE\n' | keys
		printf 'FROM base\nCOPY <<E /x\nb\nE\n' | keys
		printf 'FROM base\nCOPY <<E /y\nb\nE\n' | keys
	} | different 5
	{
		printf 'FROM base\nCOPY 1 2 /d/\n' | keys
		printf 'FROM base\nCOPY 2 1 /d/\n' | keys
		printf 'FROM base\nCOPY 1 /d/\n' | keys
		printf 'FROM base\nCOPY 1 /d\n' | keys
		printf 'FROM base\nCOPY --chown=1 1 /d\n' | keys
		printf 'FROM base\nCOPY --chmod=700 1 /d\n' | keys
		printf 'FROM base\nCOPY --link 1 /d\n' | keys
		printf 'FROM base\nADD 1 /d\n' | keys
	} | different 8
	# The same, however it is written or called.
	{
		printf 'FROM base\nRUN true\n' | keys
		printf 'FROM base AS called\nLABEL a=b\n# comment\nRUN true\nCMD x\n' | keys
		printf 'FROM base\nRUN --mount=type=cache,target=/c true\n' | keys
		printf 'FROM base\nRUN --mount=type=cache,target=/c,id=other,sharing=locked true\n' | keys
	} | different 2
	{
		printf 'FROM base\nCOPY 1 /d/\n' | keys
		printf 'FROM base\nCOPY d/1 /d/\n' | keys
		printf 'FROM base\nCOPY ./d/../1 /d/\n' | keys
		touch "$ctx/1"
		printf 'FROM base\nCOPY [1] /d/\n' | keys
	} | different 1
	# Proxies are in no key unless the recipe asks for them.
	printf 'FROM base\nRUN true\n' | keys >"$BATS_TEST_TMPDIR/k"
	mica build --plan=json --build-arg HTTP_PROXY=x "$ctx" | jq -r '.steps[1].key' | diff - "$BATS_TEST_TMPDIR/k"
	# A base with other layers.
	printf 'FROM scratch\nCOPY 1 /d/\n' | keys >"$BATS_TEST_TMPDIR/scratch"
	printf 'FROM base\nCOPY 1 /d/\n' | keys | diff - "$BATS_TEST_TMPDIR/scratch" && false
	true
}

@test "a context of which only times or unused files changed hits (RCP-974, RCP-975)" {
	mkdir "$ctx/src" "$ctx/other"
	echo 974 >"$ctx/src/a"
	echo x >"$ctx/other/x"
	dockerfile <<-'D'
		FROM base
		COPY src /src
		COPY other /other
	D
	build
	find "$ctx" -exec touch -d '2001-02-03' {} +
	echo unused >"$ctx/unused"
	records=$(mica cache ls --json | sha256sum)
	blobs=$(ls "$MICA_ROOT/oci/blobs/sha256" "$MICA_ROOT/layers")
	build
	[ "$(grep -c DONE <<<"$steps")" = 0 ]
	[ "$(mica cache ls --json | sha256sum)" = "$records" ]
	[ "$(ls "$MICA_ROOT/oci/blobs/sha256" "$MICA_ROOT/layers")" = "$blobs" ]
	chmod 600 "$ctx/other/x"
	build
	[ "$(state_of 'COPY src')" = CACHED ]
	[ "$(state_of 'COPY other')" = DONE ]
}
