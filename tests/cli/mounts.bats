#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# RUN --mount: bind, cache, tmpfs, secret and ssh (RCP-261 to RCP-271).
# shellcheck disable=SC2016,SC2030,SC2031,SC2154  # scripts are for other shells; bats sets variables and runs each test in a subshell
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
	chown -Rh 4711:4711 "$BATS_FILE_TMPDIR/user/bind"
	for ids in ranges single; do
		run as_user $ids 'mica build -q -t t /mnt/bind && mica inspect t'
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

# --- cache ---

@test "cache: content stays, is in no layer, survives failures and --no-cache (RCP-266, RCP-802, RCP-966)" {
	dockerfile <<-'END'
		FROM base
		ARG N
		RUN --mount=type=cache,target=/c echo $N >>/c/log && ! [ "$N" = fail ]
		RUN --mount=type=cache,target=/c/ cat /c/log >/seen
	END
	mica build -q --build-arg N=1 "$ctx"
	run mica build -q --build-arg N=fail "$ctx"
	[ "$status" = 1 ]
	mica build -q --no-cache --build-arg N=2 -t t "$ctx"
	[ "$(mica cat t /seen | tr '\n' ' ')" = "1 fail 2 " ]
	run ! mica ls t /c
	assert_clean
}

@test "cache: owner is the step's USER or what is asked; identity (RCP-266, RCP-804)" {
	dockerfile <<-'END'
		FROM base
		RUN echo 'app:x:1000:1001::/:/bin/sh' >>/etc/passwd
		USER app
		RUN --mount=type=cache,target=/a --mount=type=cache,id=x,target=/b,uid=5,gid=6,mode=0700 --mount=type=cache,id=x,target=/d \
		    stat -c '%u:%g %a' /a /b /d >/tmp/stat && echo mine >/a/f && echo plain >/d/f
		RUN --mount=type=cache,id=/a,target=/e [ "$(cat /e/f)" = mine ]
		RUN --mount=type=cache,id=x,target=/e,sharing=private [ "$(cat /e/f)" = plain ]
		USER root
		RUN --mount=type=cache,id=x,target=/e,uid=5,gid=6,mode=0700 [ -z "$(ls /e)" ]
		RUN --mount=type=cache,id=x,target=/e,uid=5 [ -z "$(ls /e)" ]
	END
	mica build -q -t t "$ctx"
	[ "$(mica cat t /tmp/stat | tr '\n' ' ')" = "1000:1001 755 5:6 700 1000:1001 755 " ]
}

@test "cache: namespaces keep apart (RCP-210, RCP-266)" {
	printf 'FROM base\nRUN --mount=type=cache,id=ns,target=/c cat /c/f 2>/dev/null >/seen; echo $(cat /seen)x >/c/f\n' | dockerfile
	for ns in one two one; do
		mica build -q --no-cache --build-arg BUILDKIT_CACHE_MOUNT_NS=$ns -t t "$ctx"
	done
	[ "$(mica cat t /seen)" = x ]
}

@test "cache: starts as a copy of a stage's directory, which nothing can leave (RCP-266, RCP-967)" {
	dockerfile <<-'END'
		FROM base AS seed
		RUN mkdir -p /s/d && echo 1 >/s/d/f && ln /s/d/f /s/d/g && chown 7:8 /s/d/f && ln -s /etc /s/out && ln -s ../../../s /lnk
		FROM base
		RUN --mount=type=cache,id=seeded,target=/c,from=seed,source=/lnk/d \
		    [ "$(stat -c %u:%g:%h /c/f)" = 7:8:2 ] && echo 2 >/c/f && rm /c/g
		RUN --mount=type=cache,id=seeded,target=/c,from=seed,source=/lnk/d [ "$(cat /c/f)" = 2 ] && [ "$(ls /c)" = f ]
		RUN --mount=type=cache,id=seeded,target=/c,from=seed,source=/s/out [ -e /c/passwd ] && ! [ -e /c/machine-id ]
		RUN --mount=type=cache,id=seeded,target=/c,source=/s/d [ -z "$(ls /c)" ]
	END
	for driver in kernel fuse; do
		mica build -q --no-cache --driver $driver "$ctx"
		rm -rf "$MICA_ROOT/cache"
	done
	printf 'FROM base\nRUN --mount=type=cache,target=/c,from=base,source=/nowhere true\n' | dockerfile
	run mica build "$ctx"
	[ "$status" != 0 ]
	[[ "$output" == *'"/nowhere": not found'* ]]
}

@test "cache: nested, twice in one step, and in parallel steps in opposite order (RCP-271, RCP-967)" {
	dockerfile <<-'END'
		FROM base AS a
		RUN --mount=type=cache,id=1,target=/x,sharing=locked --mount=type=cache,id=2,target=/x/y,sharing=locked \
		    --mount=type=cache,id=1,target=/again,sharing=locked echo a >/x/f && echo b >/x/y/f && [ "$(cat /again/f)" = a ]
		FROM base AS b
		RUN --mount=type=cache,id=2,target=/x,sharing=locked --mount=type=cache,id=1,target=/z,sharing=locked sleep 0.1
		FROM base
		COPY --from=a /etc/passwd /a
		COPY --from=b /etc/passwd /b
	END
	timeout 20 "$MICA" build -q --no-cache -j 4 "$ctx"
	assert_clean
}

# Runs two builds at once: both print what they do; $1 is how they share.
two_builds() {
	mkdir -p "$ctx/$1"
	cat >"$ctx/$1/Dockerfile" <<-END
		FROM base
		ARG N
		RUN --mount=type=cache,id=two-$1,target=/c,sharing=$1 touch /c/\$N; i=0; \
		    while [ \$i -lt 5 ] && [ "\$(ls /c | wc -l)" = 1 ]; do sleep 0.1; i=\$((i+1)); done; ls /c | wc -l >/count; rm /c/\$N
	END
	mica build --no-cache --progress=plain --build-arg N=1 -t "one-$1" "$ctx/$1" >"$BATS_TEST_TMPDIR/log1" 2>&1 &
	mica build --no-cache --progress=plain --build-arg N=2 -t "two-$1" "$ctx/$1" >"$BATS_TEST_TMPDIR/log2" 2>&1
	wait $!
	counts=$(mica cat "one-$1" /count)$(mica cat "two-$1" /count)
}

@test "cache: shared is shared, private is not, locked waits and says so (RCP-266)" {
	two_builds shared
	[[ "$counts" == *2* ]]
	two_builds private
	[ "$counts" = 11 ]
	run ! grep -q 'waiting for' "$BATS_TEST_TMPDIR/log1" "$BATS_TEST_TMPDIR/log2"
	two_builds locked
	[ "$counts" = 11 ]
	[ "$(cat "$BATS_TEST_TMPDIR"/log? | grep -c "waiting for cache mount 'two-locked'")" -ge 1 ]
}

@test "cache: who waits for a lock can be interrupted (RCP-271)" {
	dockerfile <<-'END'
		FROM base
		ARG N
		RUN --mount=type=cache,id=held,target=/c,sharing=locked [ -n "$N" ] || { touch /c/held; sleep 60; }
	END
	"$MICA" build --progress=plain "$ctx" >/dev/null 2>&1 &
	holder=$!
	until ls "$MICA_ROOT"/cache/*/0/held 2>/dev/null; do sleep 0.02; done
	"$MICA" build --progress=rawjson --build-arg N=1 "$ctx" >"$BATS_TEST_TMPDIR/log" 2>&1 &
	waiter=$!
	until grep -q "waiting for cache mount 'held'" "$BATS_TEST_TMPDIR/log"; do sleep 0.02; done
	kill -TERM $waiter
	run wait $waiter
	[ "$status" != 0 ]
	kill -TERM $holder
	wait $holder || true
	assert_clean
}

@test "cache: --no-cache-mounts empties, of all or of some ids; --cache-mount chooses the directory (RCP-510, RCP-512)" {
	printf 'FROM base\nARG N\nRUN --mount=type=cache,id=e1,target=/a --mount=type=cache,id=e2,target=/b echo $N >>/a/f; echo $N >>/b/f; cat /a/f /b/f | tr -d "\\n" >/seen\n' | dockerfile
	seen() {
		mica build -q "$@" -t t "$ctx" >/dev/null
		mica cat t /seen
	}
	[ "$(seen --build-arg N=1)" = 11 ]
	[ "$(seen --build-arg N=2 --no-cache-mounts=e2,other)" = 122 ]
	[ "$(seen --build-arg N=3 --no-cache-mounts)" = 33 ]
	[ "$(seen --build-arg N=4 --cache-mount e1="$BATS_TEST_TMPDIR/place")" = 434 ]
	[ "$(cat "$BATS_TEST_TMPDIR/place/f")" = 4 ]
	[ "$(seen --build-arg N=5)" = 35345 ]
	run -2 mica build --cache-mount nothing "$ctx"
	[[ "$output" == *"bad --cache-mount 'nothing': ID=DIR"* ]]
}

@test "cache ls, rm, export, import --mounts: by id, deterministic, ids and modes kept (RCP-266, RCP-627)" {
	cat >"$ctx/Dockerfile" <<-'END'
		FROM base
		RUN --mount=type=cache,id=my/id,target=/c,uid=3,mode=0750 mkdir -p /c/d && echo x >/c/d/f && chown 5:6 /c/d/f && chmod 4711 /c/d/f && ln /c/d/f /c/h && ln -s h /c/l && touch -d @1000 /c/d
		RUN --mount=type=cache,id=plain,target=/c echo p >/c/p
	END
	mica build -q "$ctx"
	mica cache ls --mounts | grep -q 'my/id'
	[ "$(mica cache ls --mounts --json | jq -r 'select(.id == "my/id") | "\(.uid) \(.mode) \(.directories) \(.inUse)"')" = "3 488 1 false" ]
	[ "$(mica du --json | jq .cacheMountsBytes)" -gt 0 ]
	for to in a b; do
		[ "$(mica cache export --mounts -C "$BATS_TEST_TMPDIR/$to" my/id | wc -l)" = 1 ]
	done
	cmp "$BATS_TEST_TMPDIR"/a/my-id-*.tar.zst "$BATS_TEST_TMPDIR"/b/my-id-*.tar.zst
	export MICA_ROOT="$BATS_TEST_TMPDIR/elsewhere"
	mica cache import --mounts "$BATS_TEST_TMPDIR"/a/*.tar.zst
	mica import "$BATS_FILE_TMPDIR/rootfs" base >/dev/null
	cat >"$ctx/Dockerfile" <<-'END'
		FROM base
		RUN --mount=type=cache,id=my/id,target=/c,uid=3,mode=0750 [ "$(stat -c '%u:%g:%a:%h' /c/d/f)" = 5:6:4711:2 ] && [ "$(cat /c/l)" = x ] && [ "$(stat -c %Y /c/d)" = 1000 ] && [ "$(stat -c %u:%a /c)" = 3:750 ]
	END
	mica build -q "$ctx"
	mica cache export --mounts -C "$BATS_TEST_TMPDIR/c" >/dev/null
	cmp "$BATS_TEST_TMPDIR"/a/my-id-*.tar.zst "$BATS_TEST_TMPDIR"/c/my-id-*.tar.zst
	run -125 mica cache rm --mounts nothing
	[[ "$output" == *"no cache mount 'nothing' in the store"* ]]
	mica cache rm --mounts my/id
	[ -z "$(mica cache ls --mounts --json)" ]
	echo no archive >"$BATS_TEST_TMPDIR/bad"
	run -125 mica cache import --mounts "$BATS_TEST_TMPDIR/bad"
	[[ "$output" == *"cannot import '$BATS_TEST_TMPDIR/bad'"* ]]
	[ "$(ls "$MICA_ROOT/cache")" = "" ]
}

@test "cache prune --mounts: by last use, by size, all; what is used stays (RCP-631)" {
	export MICA_ROOT="$BATS_TEST_TMPDIR/store"
	mica import "$BATS_FILE_TMPDIR/rootfs" base >/dev/null
	for id in a b c; do
		printf 'FROM base\nRUN --mount=type=cache,id=%s,target=/c head -c 1000000 /dev/zero >/c/f\n' $id | dockerfile
		mica build -q --no-cache "$ctx"
	done
	ids() { mica cache ls --mounts --json | jq -r .id | tr -d '\n'; }
	find "$MICA_ROOT/cache" -name 0.lock -exec touch -d '2 days ago' {} +
	mica build -q --no-cache "$ctx"
	mica cache prune --mounts --until 1d -n
	mica cache prune --mounts --until 3d
	[ "$(ids)" = abc ]
	mica cache prune --mounts --keep-storage 2500kB
	[[ "$(ids)" =~ ^(ac|bc)$ ]]
	mica cache prune --mounts --until 1d
	[ "$(ids)" = c ]
	mica cache prune --mounts --all
	[ -z "$(ids)" ]
}

@test "cache: the mounts may lie on another file system (RCP-266, RCP-967)" {
	needs_root
	printf 'FROM base AS s\nRUN mkdir /s && echo 1 >/s/f\nFROM base\nRUN --mount=type=cache,id=fs,target=/c,from=s,source=/s cat /c/f && stat -f -c %%T /c | grep tmpfs\n' | dockerfile
	unshare -m bash -c 'mkdir -p "$MICA_ROOT/cache" && mount -t tmpfs none "$MICA_ROOT/cache" && "$MICA" build -q --no-cache "$1" &&
		"$MICA" cache rm --mounts fs && [ -z "$(ls "$MICA_ROOT/cache")" ]' - "$ctx"
}

@test "cache: as an ordinary user, with and without subordinate ids (RCP-266, RCP-627)" {
	needs_user_namespaces
	mkdir -p "$BATS_FILE_TMPDIR/user/cache"
	cat >"$BATS_FILE_TMPDIR/user/cache/Dockerfile" <<-'END'
		FROM base
		RUN --mount=type=cache,target=/c echo x >>/c/f && [ -z "$OWN" ] || chown 5:6 /c/f
	END
	chmod -R a+rX "$BATS_FILE_TMPDIR/user/cache"
	as_user ranges 'set -e
		sed -i "s/^RUN/ENV OWN=1\nRUN/" /mnt/cache/Dockerfile 2>/dev/null || { cp -r /mnt/cache c; sed -i "s/^RUN/ENV OWN=1\nRUN/" c/Dockerfile; }
		mica build -q c; mica cache export --mounts -C out >/dev/null
		mica cache rm --mounts --all >/dev/null; mica cache import --mounts out/*; mica cache export --mounts -C again >/dev/null
		cmp out/* again/*; tar --zstd --numeric-owner -tvf out/* | grep -q "5/6 .*content/f"; mica cache rm --mounts --all'
	as_user single 'set -e
		mica build -q /mnt/cache; mica build -q --no-cache /mnt/cache; mica cache export --mounts; mica cache rm --mounts /c'
}

@test "cache: removal beside steps that start and end harms neither (RCP-266)" {
	dockerfile <<-'END'
		FROM base
		ARG N
		RUN --mount=type=cache,id=race,target=/c echo $N >/c/$N && cat /c/$N
		RUN --mount=type=cache,id=race,target=/c,sharing=locked echo $N >/c/$N && cat /c/$N
		RUN --mount=type=cache,id=race,target=/c,sharing=private echo $N >/c/$N && cat /c/$N
	END
	for n in 1 2; do
		for m in 1 2 3 4 5; do "$MICA" build -q --no-cache --build-arg N=$n$m "$ctx" || exit 1; done >"$BATS_TEST_TMPDIR/log$n" 2>&1 3>&- &
		pids[n]=$!
	done
	removed=0
	while kill -0 "${pids[1]}" 2>/dev/null || kill -0 "${pids[2]}" 2>/dev/null; do
		! mica cache rm --mounts race 2>/dev/null || removed=$((removed + 1))
	done
	wait "${pids[1]}" || { cat "$BATS_TEST_TMPDIR/log1"; false; }
	wait "${pids[2]}" || { cat "$BATS_TEST_TMPDIR/log2"; false; }
	echo "removed $removed times"
	[ "$removed" -gt 0 ]
	mica cache rm --mounts --all
	[ -z "$(ls "$MICA_ROOT/cache")" ]
}

# --- secret ---

CANARY=canary-4711-value

@test "secret: file, variable, both; mode, owner, memory, noexec; overrides ENV (RCP-268, RCP-968)" {
	printf '%s' "$CANARY" >"$BATS_TEST_TMPDIR/s"
	printf '#!/bin/sh\necho ran\n' >"$BATS_TEST_TMPDIR/program"
	dockerfile <<-'END'
		FROM base
		ENV TOKEN=public
		RUN --mount=type=secret,id=a [ "$(stat -c '%u:%g %a' /run/secrets/a)" = "0:0 400" ] && [ "$(stat -f -c %T /run/secrets/a)" = tmpfs ] && ! echo x >/run/secrets/a
		RUN --mount=type=secret,id=some/dir/a,target=/x/y [ "$(cat /x/y)" = other ]
		RUN --mount=type=secret,id=a,env=TOKEN [ "$TOKEN" = canary-4711-value ] && [ "$(env | grep -c ^TOKEN=)" = 1 ] && ! [ -e /run/secrets ]
		RUN --mount=type=secret,id=a,env=TOKEN,target=f,mode=0440,uid=5,gid=6 [ "$TOKEN" = "$(cat /f)" ] && [ "$(stat -c '%u:%g %a' /f)" = "5:6 440" ]
		RUN --mount=type=secret,id=program,mode=0555 /run/secrets/program
		RUN --mount=type=secret,id=program,mode=0444 ! /run/secrets/program
		RUN --mount=type=secret,id=absent [ ! -e /run/secrets ] && [ "$TOKEN" = public ]
		RUN [ ! -e /run/secrets ] && [ ! -e /x ] && [ ! -e /f ]
	END
	mica build -q --secret "id=a,src=$BATS_TEST_TMPDIR/s" --secret "id=program,src=$BATS_TEST_TMPDIR/program" \
		--secret id=some/dir/a,src=<(printf other) -t t "$ctx"
	[ "$(mica inspect t | jq -r '.[0].RootFS.Layers[1:] | unique | .[]')" = "$EMPTY" ]
	printf 'FROM base\nRUN --mount=type=secret,id=must,required true\n' | dockerfile
	run mica build "$ctx"
	[ "$status" != 0 ]
	[[ "$output" == *"secret 'must' is required"* ]]
	[[ "$output" == *"try: mica build --secret id=must,src=FILE"* ]]
	run mica build --secret id=must,env=UNSET_4711 "$ctx"
	[[ "$output" == *"secret 'must' is required: variable 'UNSET_4711' is not set"* ]]
}

@test "secret: what --secret takes and refuses (RCP-507)" {
	printf 'FROM base\nRUN --mount=type=secret,id=v,env=V [ "$V" = right ]\n' | dockerfile
	cd "$BATS_TEST_TMPDIR"
	printf right >v
	mica build -q --secret id=v ctx
	mica build -q --no-cache --secret id=v,type=file ctx
	env v=right "$MICA" build -q --no-cache --secret id=v ctx
	env v=wrong "$MICA" build -q --no-cache --secret id=v,src=v ctx
	env W=right "$MICA" build -q --no-cache --secret id=v,type=env,src=W ctx
	env W=right "$MICA" build -q --no-cache --secret type=env,env=W,id=v ctx
	refused() {
		run mica build --secret "$1" ctx
		[ "$status" = "$3" ]
		[[ "$output" == *"$2"* ]]
	}
	cp v 'a,"b'
	mica build -q --no-cache --secret 'id=v,"src=a,""b"' ctx
	refused 'id=v,"src=a' "bad --secret 'id=v,\"src=a': a quote is missing" 2
	refused src=v "has no id" 2
	refused id "bad --secret 'id': id=ID[,src=PATH|,env=NAME]" 2
	refused id=v,scr=v "unknown key 'scr' in --secret 'id=v,scr=v' (did you mean src?)" 2
	refused id=v,type=other "unknown type 'other'" 2
	refused id=v,src=v,env=W "from a file or a variable, not both" 2
	refused id=v,src=nowhere "secret 'v': cannot open 'nowhere': No such file" 125
	run -2 mica build --secret id=v --secret id=v,env=W ctx
	[[ "$output" == *"secret 'v' is given twice"* ]]
}

@test "secret: **** in names, output, errors and records, wherever the output is cut (RCP-268, RCP-968, UX-10)" {
	printf '%s\n' "$CANARY" >"$BATS_TEST_TMPDIR/s"
	dockerfile <<-END
		FROM base
		ARG X
		RUN --mount=type=secret,id=a cat /run/secrets/a; printf canary-4711; sleep 0.2; printf -- '-value|canary-'; echo 4711; echo name $CANARY; cat /run/secrets/a /run/secrets/a >&2
		RUN --mount=type=secret,id=a false $CANARY
	END
	for mode in plain rawjson; do
		run mica build --no-cache --progress=$mode --secret "id=a,src=$BATS_TEST_TMPDIR/s" "$ctx"
		[ "$status" = 1 ]
		[[ "$output" != *4711-val* ]]
		if [ $mode = plain ]; then
			[[ "$output" == *"****|canary-4711"* ]]
			[[ "$output" == *"name ****"* ]]
			[[ "$output" == *'process "/bin/sh -c false ****"'* ]]
		fi
	done
	# What the recipe says itself is in the recipe's part of the configuration; nothing else has it.
	run ! grep -rlF "$CANARY" "$MICA_ROOT/builds" "$MICA_ROOT/state.db" "$MICA_ROOT/state.db-wal"
}

@test "secret: the value is nowhere, whether the build succeeds, fails or is killed (RCP-268, RCP-648, RCP-968, SEC-B13)" {
	export TMPDIR="$BATS_TEST_TMPDIR/tmp"
	CANARY=canary-5822-value # that no recipe of this file holds
	mkdir "$TMPDIR"
	printf '%s' "$CANARY" >"$BATS_TEST_TMPDIR/s"
	dockerfile <<-'END'
		FROM base
		ARG HOW
		RUN --mount=type=secret,id=a --mount=type=secret,id=a,env=A --mount=type=cache,id=killed,target=/c \
		    [ "$A" = "$(cat /run/secrets/a)" ] && cat /run/secrets/a && case "$HOW" in fail) false;; kill) touch /c/running; sleep 60;; esac
	END
	command=("$MICA" build --progress=plain --secret "id=a,src=$BATS_TEST_TMPDIR/s" -t t "$ctx" --build-arg)
	"${command[@]}" HOW=ok >"$BATS_TEST_TMPDIR/log" 2>&1
	run ! "${command[@]}" HOW=fail
	"${command[@]}" HOW=kill >>"$BATS_TEST_TMPDIR/log" 2>&1 3>&- &
	until ls "$MICA_ROOT"/cache/*/0/running >/dev/null 2>&1; do sleep 0.02; done
	kill -KILL $!
	wait $! || true
	run ! grep -rqaF "$CANARY" "$MICA_ROOT" "$TMPDIR" "$BATS_TEST_TMPDIR/log"
	run ! grep -qaF "$CANARY" /proc/[0-9]*/cmdline
	mica save t -o "$BATS_TEST_TMPDIR/t.tar"
	run ! grep -qaF "$CANARY" "$BATS_TEST_TMPDIR/t.tar"
	[[ "$(mica inspect t; mica history t)" != *"$CANARY"* ]]
}

@test "secret: as an ordinary user (RCP-268, SEC-I86)" {
	needs_user_namespaces
	mkdir -p "$BATS_FILE_TMPDIR/user/secret"
	printf 'FROM base\nRUN --mount=type=secret,id=a --mount=type=secret,id=a,env=A [ "$A" = "$(cat /run/secrets/a)" ] && cat /run/secrets/a\n' \
		>"$BATS_FILE_TMPDIR/user/secret/Dockerfile"
	chmod -R a+rX "$BATS_FILE_TMPDIR/user/secret"
	for ids in ranges single; do
		run as_user $ids 'printf canary-4711 >s; mica build --progress=plain --secret id=a,src=s /mnt/secret; grep -rl canary-4711 .local && echo found'
		[[ "$output" == *"****"* ]]
		[[ "$output" != *"canary-4711"* ]]
		[[ "$output" != *found* ]]
	done
}

# --- ssh ---

# Image 'sshbase': base with the programs of openssh-client, and keys of every kind.
ssh_setup() {
	keys="$BATS_FILE_TMPDIR/keys"
	[ ! -d "$keys" ] || return 0
	local root="$BATS_FILE_TMPDIR/sshroot" program library
	cp -r "$BATS_FILE_TMPDIR/rootfs" "$root"
	for program in ssh-add ssh-keygen; do
		program=$(command -v $program)
		cp "$program" "$root/bin/"
		for library in $(ldd "$program" | grep -o '/[^ ]*'); do
			mkdir -p "$root$(dirname "$library")"
			cp -n "$library" "$root$library" 2>/dev/null || true
		done
	done
	mkdir "$keys" "$root/keys"
	for kind in ed25519:256 rsa:2048 ecdsa:256 ecdsa:384 ecdsa:521; do
		ssh-keygen -q -N '' -C "key of $kind" -t ${kind%:*} -b ${kind#*:} -f "$keys/${kind/:/-}"
	done
	ssh-keygen -q -N '' -C pem -t rsa -m PEM -f "$keys/pem"
	ssh-keygen -q -N secret -t ed25519 -f "$keys/locked"
	cp "$keys"/*.pub "$root/keys"
	mica import "$root" sshbase >/dev/null
}

@test "ssh: keys from files: listed, every kind signs, nothing else is allowed (RCP-269, RCP-508, RCP-969)" {
	ssh_setup
	dockerfile <<-'END'
		FROM sshbase
		RUN --mount=type=ssh [ "$SSH_AUTH_SOCK" = /run/buildkit/ssh_agent.0 ] && [ "$(stat -c '%A %u:%g' $SSH_AUTH_SOCK)" = "srw------- 0:0" ] && \
		    ssh-add -L | sort >/tmp/l && cat /keys/e*.pub /keys/rsa*.pub | sort | diff - /tmp/l && rm /tmp/l && \
		    for f in $(ls /keys/*.pub | grep -v -e pem -e locked); do ssh-add -T $f || exit 1; done
		RUN --mount=type=ssh ! ssh-add -D && ! ssh-add -x </dev/null && ssh-keygen -q -N '' -t ed25519 -f /tmp/k && ! ssh-add /tmp/k && ! ssh-add -T /keys/pem.pub && \
		    [ "$(ssh-add -l | wc -l)" = 5 ] && rm /tmp/k*
		RUN [ ! -e /run ] && [ -z "$SSH_AUTH_SOCK" ]
	END
	mica build -q --ssh "default=$keys/ed25519-256,$keys/rsa-2048,$keys/ecdsa-256,$keys/ecdsa-384,$keys/ecdsa-521" -t t "$ctx"
	[ "$(mica inspect t | jq -r '.[0].RootFS.Layers[-1]')" = "$EMPTY" ]
	assert_clean
}

@test "ssh: several ids, targets, owners; an agent is passed on; an absent id (RCP-269, RCP-508, RCP-969)" {
	ssh_setup
	dockerfile <<-'END'
		FROM sshbase
		RUN --mount=type=ssh,id=absent --mount=type=ssh,id=agent,target=/x/sock,uid=5,gid=6,mode=0660 --mount=type=ssh,id=pem \
		    [ "$SSH_AUTH_SOCK" = /x/sock ] && [ "$(stat -c '%a %u:%g' /x/sock)" = "660 5:6" ] && \
		    ssh-add -T /keys/rsa-2048.pub && ! ssh-add -T /keys/pem.pub && ! ssh-add -D && \
		    SSH_AUTH_SOCK=/run/buildkit/ssh_agent.2 ssh-add -T /keys/pem.pub && ! [ -e /run/buildkit/ssh_agent.0 ]
		ENV SSH_AUTH_SOCK=/mine
		RUN --mount=type=ssh,id=pem [ "$SSH_AUTH_SOCK" = /mine ]
		RUN [ ! -e /x ] && [ ! -e /run ]
	END
	eval "$(ssh-agent -a "$BATS_TEST_TMPDIR/agent")" >/dev/null
	ssh-add -q "$keys/rsa-2048" "$keys/ed25519-256"
	mica build -q --ssh agent --ssh pem="$keys/pem" -t t "$ctx"
	mica build -q --no-cache --ssh agent="$BATS_TEST_TMPDIR/agent" --ssh pem="$keys/pem" "$ctx"
	[ "$(ssh-add -l | wc -l)" = 2 ]
	kill "$SSH_AGENT_PID"
	[ "$(mica inspect t | jq -r '.[0].RootFS.Layers[1:] | unique | .[]')" = "$EMPTY" ]
}

@test "ssh: what --ssh refuses; required (RCP-269, RCP-508)" {
	ssh_setup
	printf 'FROM base\nRUN --mount=type=ssh,required true\n' | dockerfile
	run mica build "$ctx"
	[ "$status" != 0 ]
	[[ "$output" == *"ssh agent 'default' is required"* ]]
	[[ "$output" == *"try: mica build --ssh default"* ]]
	refused() {
		run env -u SSH_AUTH_SOCK "$MICA" build --ssh "$1" "$ctx"
		[ "$status" != 0 ]
		[[ "$output" == *"$2"* ]]
	}
	refused default "there is no agent: SSH_AUTH_SOCK is not set"
	refused "=x" "bad --ssh '=x'"
	refused "default=$keys/locked" "key '$keys/locked' has a passphrase"
	refused "default=$keys/pem.pub" "'$keys/pem.pub' is no private key"
	refused "default=/nowhere" "cannot open '/nowhere'"
}

@test "ssh: as an ordinary user (RCP-269, SEC-I86)" {
	needs_user_namespaces
	ssh_setup
	mkdir -p "$BATS_FILE_TMPDIR/user/ssh"
	tar -C "$BATS_FILE_TMPDIR/sshroot" --owner=0 --group=0 -cf "$BATS_FILE_TMPDIR/user/ssh/base.tar" .
	cp "$keys/ed25519-256" "$BATS_FILE_TMPDIR/user/ssh/key"
	chmod -R a+rX "$BATS_FILE_TMPDIR/user/ssh"
	chown 4711 "$BATS_FILE_TMPDIR/user/ssh/key"
	printf 'FROM sshbase\nRUN --mount=type=ssh ssh-add -T /keys/ed25519-256.pub\n' \
		>"$BATS_FILE_TMPDIR/user/ssh/Dockerfile"
	for ids in ranges single; do
		as_user $ids 'set -e; mica import /mnt/ssh/base.tar sshbase >/dev/null; mica build -q --ssh default=/mnt/ssh/key -f /mnt/ssh/Dockerfile "$HOME"'
	done
}

# --- tmpfs, targets, what is left ---

@test "tmpfs: size is seen and kept, content is gone (RCP-267)" {
	dockerfile <<-'END'
		FROM base
		RUN mkdir /t && echo below >/t/f
		RUN --mount=type=tmpfs,target=/t,size=2m --mount=type=tmpfs,target=/u \
		    [ "$(df -k /t | tail -1 | awk '{print $2}')" = 2048 ] && [ -z "$(ls /t)" ] && ! dd if=/dev/zero of=/t/big bs=1M count=3 2>/dev/null && \
		    rm /t/big && echo x >/t/x && echo x >/u/x && [ "$(stat -f -c %T /u)" = tmpfs ]
		RUN [ "$(cat /t/f)" = below ] && [ "$(ls /t)" = f ] && [ ! -e /u ]
	END
	mica build -q -t t "$ctx"
	last_layer_is_empty t
}

@test "mount points and parents leave no trace, parents keep their times (RCP-270, RCP-966)" {
	dockerfile <<-'END'
		FROM base AS s
		RUN echo f >/f
		FROM base
		RUN mkdir -p /has/dir /real && ln -s /real /link && ln -s nowhere/deep /dangling && ln -s / /real/root && touch -d @1000 /has/dir /has /real /var
		RUN --mount=type=cache,target=/has/dir/new/er --mount=type=tmpfs,target=/var/x --mount=type=secret,id=a,target=/has/s \
		    --mount=from=s,source=/f,target=/link/g/f --mount=type=tmpfs,target=/real/root/has/t/ --mount=type=tmpfs,target=/dangling/in \
		    touch /nowhere/deep/in/x /has/dir/new/er/x /var/x/y /has/t/z && [ "$(cat /real/g/f)" = f ] && [ -e /has/s ]
		RUN [ "$(stat -c %Y /has/dir /has /real /var | tr '\n' ' ')" = "1000 1000 1000 1000 " ] && [ "$(find /has | tr '\n' ' ')" = "/has /has/dir " ] && [ "$(ls /real)" = root ] && [ ! -e /nowhere ]
	END
	echo s >"$BATS_TEST_TMPDIR/s"
	for driver in kernel fuse; do
		mica build -q --no-cache --driver $driver --secret "id=a,src=$BATS_TEST_TMPDIR/s" -t t "$ctx"
		[ "$(mica inspect t | jq -r '.[0].RootFS.Layers[2:] | unique | .[]')" = "$EMPTY" ]
	done
}

@test "mounts nest in the order written; what the step does about a mount point (RCP-263, RCP-270, RCP-966)" {
	dockerfile <<-'END'
		FROM base AS s
		RUN mkdir -p /s/in && echo s >/s/f && echo deep >/s/in/f
		FROM base
		RUN mkdir -p /keep && echo k >/keep/f
		RUN --mount=type=tmpfs,target=/m --mount=from=s,source=/s,target=/m/s --mount=type=tmpfs,target=/m/s/in --mount=type=cache,id=nest,target=/m/s/in/c \
		    [ "$(cat /m/s/f)" = s ] && [ "$(ls /m/s/in)" = c ] && echo x >/m/s/in/c/x && ! rmdir /m/s/in/c 2>/dev/null && ! mv /m /n 2>/dev/null
		RUN --mount=type=tmpfs,target=/keep/m echo x >/keep/m/x && ! rm -r /keep 2>/dev/null; [ -d /keep/m ]
		RUN [ ! -e /m ] && [ ! -e /n ] && [ -d /keep ] && [ ! -e /keep/m ] && [ ! -e /keep/f ]
	END
	for driver in kernel fuse; do
		mica build -q --no-cache --driver $driver -t t "$ctx"
		last_layer_is_empty t
	done
}

@test "targets stay inside the root filesystem; special places are no way out (SEC-B06, SEC-B07, RCP-263)" {
	mkdir "$BATS_TEST_TMPDIR/outside"
	printf 'FROM base\nRUN ln -s ../../../../../../../../../../../../..%s /out\nRUN --mount=type=tmpfs,target=/out/x --mount=type=cache,target=/out/y touch /out/x/f /out/y/f\nRUN [ ! -e "%s" ] || [ -z "$(ls -A "%s")" ]\n' \
		"$BATS_TEST_TMPDIR/outside" "$BATS_TEST_TMPDIR/outside" "$BATS_TEST_TMPDIR/outside" | dockerfile
	mica build -q "$ctx"
	[ -z "$(ls -A "$BATS_TEST_TMPDIR/outside")" ]
}

@test "validity: keys by type, targets, names (RCP-261, RCP-262, RCP-263)" {
	refused() {
		printf 'FROM base AS one\nFROM base\nRUN --mount=%s true\n' "$1" | dockerfile
		run mica build "$ctx"
		[ "$status" != 0 ]
		[[ "$output" == *"$2"* ]] || { echo "$1: $output"; false; }
	}
	refused 'type=bnd,target=/x' 'unsupported mount type "bnd" (did you mean bind?)'
	refused 'typ=bind,target=/x' "unexpected key 'typ'"
	refused 'type=cache' 'target is required for mount type cache'
	refused 'type=tmpfs' 'target is required for mount type tmpfs'
	refused 'from=one' 'target is required for mount type bind'
	refused 'type=tmpfs,target=/' "invalid mount target '/'"
	refused 'type=bind,target=/x,uid=1' 'uid is not allowed for mount type bind'
	refused 'type=tmpfs,target=/x,mode=0700' 'mode is not allowed for mount type tmpfs'
	refused 'type=cache,target=/x,size=1m' 'size is not allowed for mount type cache'
	refused 'type=bind,target=/x,required' 'required is not allowed for mount type bind'
	refused 'type=tmpfs,target=/x,sharing=shared' 'sharing is not allowed for mount type tmpfs'
	refused 'type=cache,target=/x,sharing=mine' 'mine'
	refused 'type=secret,id=a,source=b' 'only one can be given'
	refused 'type=secret,id=a,from=one' 'from is not allowed for mount type secret'
	refused 'type=secret,id=a,env=A=B' "invalid name of a variable 'A=B'"
	refused 'type=ssh,source=b' 'source is not allowed for mount type ssh'
	refused 'type=tmpfs,target=/x,size=much' "invalid size 'much'"
	refused 'type=cache,target=/x,mode=999' '999'
	refused 'type=bind,target=/x,from=$STAGE' 'from'
	printf 'FROM base\nWORKDIR /w\nRUN --mount=type=tmpfs,\\\"target=a,b\\\",ro=false [ -d "/w/a,b" ] && touch "/w/a,b/f"\nRUN --mount=type=cache,TARGET=x,READONLY=true ! touch /w/x/f\n' | dockerfile
	mica build -q "$ctx"
}

@test "bind and seeds of named contexts: directories with their ignore file, images (RCP-264, RCP-265, RCP-373)" {
	mkdir -p "$BATS_TEST_TMPDIR/named/d"
	echo n >"$BATS_TEST_TMPDIR/named/f"
	echo i >"$BATS_TEST_TMPDIR/named/ignored"
	echo deep >"$BATS_TEST_TMPDIR/named/d/f"
	echo ignored >"$BATS_TEST_TMPDIR/named/.dockerignore"
	dockerfile <<-'END'
		FROM base
		RUN --mount=from=other,target=/n [ "$(cat /n/f)" = n ] && [ ! -e /n/ignored ] && ! touch /n/x
		RUN --mount=from=other,target=/n,source=d,rw rm /n/f && touch /n/x
		RUN --mount=from=img,target=/n [ -x /n/bin/busybox ]
		RUN --mount=type=cache,id=named,from=other,source=d,target=/c [ "$(cat /c/f)" = deep ]
	END
	mica build -q --build-context other="$BATS_TEST_TMPDIR/named" --build-context img=docker-image://base -t t "$ctx"
	[ "$(cat "$BATS_TEST_TMPDIR/named/d/f")" = deep ]
	[ "$(mica inspect t | jq -r '.[0].RootFS.Layers[1:] | unique | .[]')" = "$EMPTY" ]
	echo changed >"$BATS_TEST_TMPDIR/named/f"
	run mica build --build-context other="$BATS_TEST_TMPDIR/named" --build-context img=docker-image://base "$ctx"
	[ "$status" = 1 ]
}

@test "cache: whoever comes while a shared directory is made shares it, and does not wait for its first user (RCP-266)" {
	needs_root
	printf 'FROM base\nRUN --mount=type=cache,id=rendezvous,target=/c echo $((1)) >/c/f\n' | dockerfile
	mica build -q --no-cache "$ctx"
	lock=$(find "$MICA_ROOT/cache" -name 0.lock -newer "$ctx/Dockerfile")
	home=$(dirname "$lock")
	# The state in which the second of two finds it: not there yet, and in the hands of somebody who will share.
	mv "$home/0" "$home/../kept"
	exec 8<"$lock"
	flock -s 8
	timeout 60 "$MICA" build -q --no-cache "$ctx" 8<&- &
	build=$!
	until ls -l "/proc/$(pgrep -P $build)/fd" 2>/dev/null | grep -q -- "-> $home\$"; do
		kill -0 $build
	done
	mv "$home/../kept" "$home/0"
	wait $build
	exec 8<&-
}
