#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# mica build as its users know it.

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

@test "FROM scratch, COPY: the id on stdout, the files in the image" {
	echo hello >"$ctx/hello"
	dockerfile <<-'D'
		FROM scratch
		COPY hello /data/hello
		CMD ["/data/hello"]
	D
	run -0 --separate-stderr mica build -t scratchy "$ctx"
	[[ $output =~ ^sha256:[0-9a-f]{64}$ ]]
	[ "$(mica cat scratchy /data/hello)" = hello ]
	[ "$(mica inspect scratchy | jq -c '.[0].Config.Cmd')" = '["/data/hello"]' ]
}

@test "RUN changes files, the next RUN sees them, run shows the result" {
	dockerfile <<-'D'
		FROM base
		RUN echo one >/file && mkdir /dir && echo x >/dir/x
		RUN cat /file >/copy && echo two >>/file && rm -r /dir
		CMD ["/bin/cat", "/file", "/copy"]
	D
	run -0 mica build -t runs "$ctx"
	run -0 --separate-stderr mica run runs
	[ "$output" = $'one\ntwo\none' ]
	run ! mica cat runs /dir/x
}

@test "stages: COPY --from takes files, the rest stays behind (RCP-233)" {
	dockerfile <<-'D'
		FROM base AS build
		RUN echo made >/made && chown 7:8 /made && chmod 4755 /made
		FROM base
		COPY --from=build /made /bin/made
	D
	run -0 mica build -t stages "$ctx"
	run -0 mica ls -l stages /bin/made
	[[ $output == -rwsr-xr-x*7*8* ]]
	run ! mica cat stages /made
}

@test "a second build executes nothing and gives the same image (RCP-443, RCP-565)" {
	echo a >"$ctx/a"
	dockerfile <<-'D'
		FROM base
		WORKDIR /srv
		COPY a .
		RUN echo b >b
		ENV X=1
	D
	run -0 --separate-stderr mica build --progress=plain -t twice "$ctx"
	first=$output
	digest=$(manifest_of twice)
	run -0 --separate-stderr mica build --progress=plain -t twice "$ctx"
	[ "$output" = "$first" ]
	[ "$(manifest_of twice)" = "$digest" ]
	[[ $stderr == *CACHED* ]]
	[ -z "$(grep -A1 'RUN echo b' <<<"$stderr" | grep DONE)" ]
	[ "$(grep -c CACHED <<<"$stderr")" = 3 ]
}

@test "a changed file runs what reads it, equal output hits again (RCP-603)" {
	echo a >"$ctx/a"
	dockerfile <<-'D'
		FROM base
		COPY a /a
		RUN wc -c </a >/count
		RUN echo ran; cp /count /result
	D
	run -0 mica build -t rehit "$ctx"
	echo b >"$ctx/a"
	run -0 mica build --progress=plain -t rehit "$ctx"
	[[ $output == *"ran"* ]]
	[ "$(mica cat rehit /a)" = b ]
}

@test "ARG, ENV, LABEL, USER, EXPOSE, VOLUME, STOPSIGNAL, HEALTHCHECK, SHELL in the config" {
	dockerfile <<-'D'
		ARG TAG=base
		FROM $TAG
		ARG WHO=nobody
		ENV GREETING="hello $WHO" PLAIN=1
		LABEL org.example.a="1 2" b=3
		USER operator
		EXPOSE 80 53/udp
		VOLUME /data
		STOPSIGNAL SIGUSR1
		HEALTHCHECK --interval=5s CMD true
		SHELL ["/bin/sh", "-ec"]
		ENTRYPOINT echo $GREETING
	D
	run -0 mica build --build-arg WHO=world -t config "$ctx"
	config=$(mica inspect config | jq -c '.[0].Config')
	[ "$(jq -r '.Env[] | select(startswith("GREETING"))' <<<"$config")" = "GREETING=hello world" ]
	[ "$(jq -c .Labels <<<"$config")" = '{"b":"3","org.example.a":"1 2"}' ]
	[ "$(jq -c .ExposedPorts <<<"$config")" = '{"53/udp":{},"80/tcp":{}}' ]
	[ "$(jq -r .User <<<"$config")" = operator ]
	[ "$(jq -r .StopSignal <<<"$config")" = SIGUSR1 ]
	[ "$(jq -c .Healthcheck <<<"$config")" = '{"Test":["CMD-SHELL","true"],"Interval":5000000000}' ]
	[ "$(jq -c .Entrypoint <<<"$config")" = '["/bin/sh","-ec","echo $GREETING"]' ]
	run -0 --separate-stderr mica run config
	[ "$output" = "hello world" ]
}

@test "USER and --chown: names of the image's own passwd (RCP-277, RCP-309)" {
	echo x >"$ctx/x"
	dockerfile <<-'D'
		FROM base
		RUN echo 'alice:x:1234:1234::/home/alice:/bin/sh' >>/etc/passwd
		COPY --chown=alice --chmod=640 x /x
		USER alice
		RUN id -un >/tmp/who && id -u >>/tmp/who && echo $HOME >>/tmp/who
	D
	run -0 mica build -t users "$ctx"
	run -0 mica ls -l users /x
	[[ $output == -rw-r-----*1234*1234* ]]
	[ "$(mica cat users /tmp/who)" = $'alice\n1234\n/home/alice' ]
}

@test ".dockerignore hides files; a hidden source says which line hides it (UX-42)" {
	touch "$ctx/keep" "$ctx/drop.log"
	printf '# comment\n*.log\n' >"$ctx/.dockerignore"
	dockerfile <<-'D'
		FROM scratch
		COPY . /all/
	D
	run -0 mica build -t ignored "$ctx"
	run -0 mica ls ignored /all
	[[ $output == *keep* ]]
	[[ $output != *drop.log* ]]
	printf 'FROM scratch\nCOPY drop.log /\n' | dockerfile
	run -125 mica build "$ctx"
	[[ $output == *drop.log*".dockerignore"* ]]
}

@test "a failing RUN: its status, its output, the line (UX-13, UX-33)" {
	dockerfile <<-'D'
		FROM base
		RUN true
		RUN echo before the end && exit 42
		RUN echo never
	D
	run -42 mica build --progress=plain -t failing "$ctx"
	[[ $output == *"before the end"* ]]
	[[ $output == *">>> RUN echo before the end && exit 42"* ]]
	[[ $output == *"ERROR: failed to solve"*"exit code: 42"* ]]
	run -125 mica inspect failing
}

@test "an unknown instruction shows the line and the nearest word (RCP-7, RCP-110)" {
	printf 'FROM base\nRUNN true\n' | dockerfile
	run -125 mica build "$ctx"
	[[ $output == *"Dockerfile:2"* ]]
	[[ $output == *">>> RUNN true"* ]]
	[[ $output == *"did you mean RUN?"* ]]
}

@test "a missing source, context, recipe, option: one clear line each" {
	printf 'FROM scratch\nCOPY nothere /\n' | dockerfile
	run -125 mica build "$ctx"
	[[ $output == *nothere*"not found"* ]]
	run -125 mica build "$ctx/none"
	[[ $output == *"cannot open build context '$ctx/none'"* ]]
	run -125 mica build -f "$ctx/none" "$ctx"
	[[ $output == *"cannot open '$ctx/none'"* ]]
	run -2 mica build --tga x "$ctx"
	[[ $output == *"did you mean --tag?"* ]]
	run -2 mica biuld "$ctx"
	[[ $output == *"did you mean build?"* ]]
}

@test "--target builds that stage only" {
	dockerfile <<-'D'
		FROM base AS one
		RUN touch /one
		FROM base AS two
		RUN exit 1
	D
	run -0 mica build --target one -t target "$ctx"
	run -0 mica cat target /one
}

@test "independent stages, a shared base, four results in one image" {
	dockerfile <<-'D'
		FROM base AS a
		RUN echo a >/out
		FROM base AS b
		RUN echo b >/out
		FROM base AS c
		RUN echo c >/out
		FROM scratch
		COPY --from=a /out /a
		COPY --from=b /out /b
		COPY --from=c /out /c
	D
	run -0 mica build -j 4 -t parallel "$ctx"
	[ "$(mica cat parallel /a /b /c)" = $'a\nb\nc' ]
}

@test "many steps with changes: more uppers than one stack holds (FS-113)" {
	{
		echo "FROM base"
		for i in $(seq 25); do echo "RUN echo $i >/f$i && rm -f /f$((i - 3))"; done
	} | dockerfile
	run -0 mica build -t many "$ctx"
	run -0 mica ls many /
	[[ $output == *f25* && $output == *f23* ]]
	[[ $output != *f22* ]]
}

@test "SOURCE_DATE_EPOCH: clean stores, threads and drivers give one digest (RCP-565, RCP-668)" {
	needs_root
	mkdir "$ctx/d"
	for i in $(seq 50); do echo "$i" >"$ctx/d/$i"; done
	dockerfile <<-'D'
		FROM base
		COPY d /d
		RUN mkdir /r && cp /d/1 /r/ && mv /d/2 /d/two && ln /d/3 /d/three && rm /d/4
		RUN chmod 600 /d/5
	D
	for run in "1 kernel" "8 kernel" "2 fuse"; do
		read -r threads driver <<<"$run"
		root="$BATS_TEST_TMPDIR/store-$threads-$driver"
		SOURCE_DATE_EPOCH=1000000000 MICA_ROOT=$root mica import "$BATS_FILE_TMPDIR/rootfs" base >/dev/null
		run -0 --separate-stderr mica build --root "$root" -j "$threads" --driver "$driver" --source-date-epoch 1000000000 -t r "$ctx"
		digests+="$(MICA_ROOT=$root manifest_of r)"$'\n'
	done
	[ "$(sort -u <<<"${digests%$'\n'}" | wc -l)" = 1 ]
}

@test "--iidfile, --metadata-file, -q" {
	printf 'FROM base\nENV A=1\n' | dockerfile
	run -0 --separate-stderr mica build -q --iidfile "$BATS_TEST_TMPDIR/iid" --metadata-file "$BATS_TEST_TMPDIR/meta" -t meta "$ctx"
	[ -z "$stderr" ]
	[ "$(cat "$BATS_TEST_TMPDIR/iid")" = "$output" ]
	[ "$(jq -r '."containerimage.digest"' "$BATS_TEST_TMPDIR/meta")" = "$(manifest_of meta)" ]
	[ "$(jq -r '."image.name"' "$BATS_TEST_TMPDIR/meta")" = meta:latest ]
}

@test "a secret is there for its RUN and nowhere else (RCP-268, SEC-B13)" {
	echo canary-4711 >"$BATS_TEST_TMPDIR/secret"
	dockerfile <<-'D'
		FROM base
		RUN --mount=type=secret,id=token wc -c </run/secrets/token >/size
		RUN test ! -e /run/secrets/token
	D
	run -0 mica build --secret "id=token,src=$BATS_TEST_TMPDIR/secret" -t secret "$ctx"
	[ "$(mica cat secret /size)" = 12 ]
	run ! grep -rq canary-4711 "$MICA_ROOT"
}

@test "a heredoc RUN and COPY (RCP-165, RCP-167)" {
	dockerfile <<-'D'
		FROM base
		RUN <<EOF
		echo one >/one
		echo two >/two
		EOF
		COPY <<EOF /three
		three
		EOF
	D
	run -0 mica build -t heredoc "$ctx"
	[ "$(mica cat heredoc /one /two /three)" = $'one\ntwo\nthree' ]
}

@test "build arguments from a file; --build-arg goes first (RCP-503)" {
	context
	dockerfile <<-'EOT'
		FROM base
		ARG A
		ARG B
		ARG C
		RUN echo "$A-$B-$C" >/out
	EOT
	printf '# comment\n\nA=1\n  B=two words\r\nC\n' >"$ctx/args"
	C=env mica build -q -t args --build-arg-file "$ctx/args" --build-arg A=given "$ctx"
	[ "$(mica cat args /out)" = "given-two words-env" ]
	printf 'A=1\n=x\n' >"$ctx/args"
	run ! --separate-stderr mica build --build-arg-file "$ctx/args" "$ctx"
	[[ $stderr == *"args:2: a build argument needs a name"* ]]
}

@test "proxies: given to RUN in both cases, nowhere else, no cause of a miss (RCP-208)" {
	context
	dockerfile <<-'EOT'
		FROM base
		RUN echo "$HTTP_PROXY $http_proxy $no_proxy" >/out
	EOT
	mkdir "$ctx/docker"
	echo '{"proxies":{"default":{"httpProxy":"http://canary-a:1","noProxy":"local"}}}' >"$ctx/docker/config.json"
	DOCKER_CONFIG="$ctx/docker" mica build -q -t proxied "$ctx"
	[ "$(mica cat proxied /out)" = "http://canary-a:1 http://canary-a:1 local" ]
	{ mica inspect --config proxied; mica history --no-trunc proxied; } >"$ctx/image"
	run ! grep canary-a "$ctx/image"
	# The environment only when asked, and behind what is configured; another proxy is no other step.
	HTTP_PROXY=http://canary-b:1 run --separate-stderr mica build --http-proxy -t other "$ctx"
	[[ $stderr == *CACHED* ]]
	HTTP_PROXY=http://canary-b:1 mica build -q --no-cache --http-proxy -t other "$ctx"
	[ "$(mica cat other /out)" = "http://canary-b:1 http://canary-b:1 " ]
	HTTP_PROXY=http://canary-b:1 mica build -q --no-cache -t other "$ctx"
	[ "$(mica cat other /out)" = "  " ]
	HTTP_PROXY=http://canary-b:1 DOCKER_CONFIG="$ctx/docker" mica build -q --no-cache --http-proxy -t other "$ctx"
	[ "$(mica cat other /out)" = "http://canary-a:1 http://canary-a:1 local" ]
	http_proxy=http://canary-c:1 mica build -q --no-cache --build-arg http_proxy=given -t other "$ctx"
	[ "$(mica cat other /out)" = "given given " ]
}

@test "a recipe of 150 steps, with 600 descriptors" {
	context
	{
		echo FROM base
		for i in $(seq 150); do echo "RUN echo $i >/f$i"; done
	} >"$ctx/Dockerfile"
	(
		ulimit -n 600
		mica build -q -t long "$ctx"
	)
	[ "$(mica ls long / | grep -c ^f)" = 150 ]
	assert_clean
}
