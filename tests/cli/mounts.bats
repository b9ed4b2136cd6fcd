#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# RUN --mount: bind, cache, tmpfs, secret and ssh (RCP-261 to RCP-271).
# shellcheck disable=SC2016,SC2154  # scripts are for other shells; bats sets variables
bats_require_minimum_version 1.5.0
load common
load user

setup_file() {
	mica_setup_file
	user_setup_file
}

setup() {
	context
}

# Files of the layer that the last step of image $1 made.
last_layer() {
	local layer
	layer=$(mica inspect "$1" | jq -r '.[0].RootFS.Layers[-1]')
	tar -tf "$MICA_ROOT/layers/${layer#sha256:}/tar"
}

EMPTY=sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef
last_layer_is_empty() {
	[ "$(mica inspect "$1" | jq -r '.[0].RootFS.Layers[-1]')" = "$EMPTY" ]
}

# --- bind ---

bind_recipe() {
	mkdir -p "$ctx/sub/deep" "$ctx/out"
	echo a >"$ctx/a"; echo b >"$ctx/b.log"; echo c >"$ctx/sub/c.log"; echo d >"$ctx/sub/d"
	echo k >"$ctx/sub/deep/keep.log"; echo o >"$ctx/out/o"; ln -s sub "$ctx/lnk"
	printf '**/*.log\n!sub/deep/keep.log\nout\nDockerfile\n.dockerignore\n' >"$ctx/.dockerignore"
	dockerfile <<-'END'
		FROM base AS one
		RUN mkdir -p /opt/x && echo from-one >/opt/x/f && ln -s /opt/x /lnk
		FROM base
		RUN --mount=target=/ctx cd /ctx && [ "$(find . | sort | tr '\n' ' ')" = ". ./a ./lnk ./sub ./sub/d ./sub/deep ./sub/deep/keep.log " ] && ! touch x
		RUN --mount=target=/ctx,source=lnk,rw cd /ctx && echo new >new && rm d && [ "$(echo *)" = "deep new" ] && [ "$(cat deep/keep.log)" = k ]
		RUN --mount=from=one,target=/one,source=lnk [ "$(cat /one/f)" = from-one ] && ! touch /one/g
		RUN --mount=from=one,target=/one,rw rm /one/opt/x/f && echo z >/one/z
		RUN --mount=from=one,target=/etc/motd,source=opt/x/f [ "$(cat /etc/motd)" = from-one ]
		RUN --mount=from=base,target=/b,source=/bin [ -x /b/busybox ]
		RUN ! ls /one /ctx /b /etc/motd
	END
}

@test "bind: context without what is ignored, stages, images, files, throw-away writes; no trace (RCP-265, RCP-270, RCP-966)" {
	bind_recipe
	for driver in kernel fuse; do
		mica build -q --no-cache --driver $driver -t t "$ctx"
		[ "$(mica inspect t | jq -r '.[0].RootFS.Layers[1:] | unique | .[]')" = "$EMPTY" ]
	done
	[ "$(ls "$ctx/sub")" = "c.log
d
deep" ]
	assert_clean
}

@test "bind as an ordinary user (RCP-265, SEC-I86)" {
	needs_user_namespaces
	bind_recipe
	cp -r "$ctx" "$BATS_FILE_TMPDIR/user/bind"
	for ids in ranges single; do
		run as_user $ids 'mica build -q -t t /mnt/bind && mica inspect t'
		echo "$output"
		[ "$status" = 0 ]
		[ "$(grep -c 5f70bf18a0860 <<<"$output")" -ge 1 ]
	done
}

@test "bind: a missing source is an error that names it (RCP-264)" {
	dockerfile <<-'END'
		FROM base AS one
		FROM base
		RUN --mount=from=one,target=/x,source=/no/such true
	END
	run mica build "$ctx"
	[ "$status" != 0 ]
	[[ "$output" == *'"/no/such": not found'* ]]
	echo x >"$ctx/hidden"
	echo hidden >"$ctx/.dockerignore"
	for source in nowhere hidden; do
		printf 'FROM base\nRUN --mount=target=/x,source=%s true\n' $source | dockerfile
		run mica build "$ctx"
		[ "$status" != 0 ]
		[[ "$output" == *"\"/$source\": not found"* ]]
	done
	assert_clean
}

@test "bind: content decides about the cache (RCP-265, RCP-606)" {
	dockerfile <<-'END'
		FROM base
		RUN --mount=target=/x,source=a cp -r /x /copy
	END
	mkdir "$ctx/a"
	echo 1 >"$ctx/a/f"
	mica build -q -t t "$ctx"
	first=$(manifest_of t)
	echo other >"$ctx/b"
	mica build --progress=plain -t t "$ctx" 2>&1 | grep -q CACHED
	[ "$(manifest_of t)" = "$first" ]
	echo 2 >"$ctx/a/f"
	mica build -q -t t "$ctx"
	[ "$(mica cat t /copy/f)" = 2 ]
}
