#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Looking into a RUN that failed: --on-error, mica debug shell (RCP-524, RCP-684, UX-38, UX-76, UX-77).
# shellcheck disable=SC2154,SC2016  # ctx is made by context; scripts are for the shell inside

load common
load user

setup_file() {
	mica_setup_file
}

setup() {
	context
	rm -rf "$MICA_ROOT/failed"
}

teardown() {
	assert_clean
}

# A build that fails with 3 in a step that has something to look at.
fail_build() {
	dockerfile <<-'D'
		FROM base
		RUN echo first >/one
		WORKDIR /w
		ENV FOO=bar
		USER 1234:55
		RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=type=secret,id=s,target=/s \
			echo half >/tmp/half; rm /tmp/absent; chmod 600 /tmp/half; echo cached >/c/seen; exit 3
	D
	run -3 mica build --progress=plain "$@" "$ctx"
}

@test "the failed step as it was: files, user, environment, directory, mounts; changes are thrown away (UX-76)" {
	fail_build
	[[ $output =~ 'try: mica debug shell '([0-9a-f-]+)$ ]]
	build=${BASH_REMATCH[1]}
	run -0 mica debug shell "$build" -- sh -c 'cat /tmp/half /one /c/seen; id -u; pwd; echo $FOO; stat -f -c %T /t; ls /s; stat -c %a /tmp/half'
	[ "$output" = $'half\nfirst\ncached\n1234\n/w\nbar\ntmpfs\n/s\n600' ] || [[ $output == $'half\nfirst\ncached\n1234\n/w\nbar\ntmpfs\n'*'No such file'*$'\n600' ]]
	run -7 mica debug shell "$build" -- sh -c 'echo gone >/tmp/half; exit 7'
	run -0 mica debug shell -- cat /tmp/half
	[ "$output" = half ]
	run -1 mica debug shell --before -- cat /tmp/half
	run -0 mica debug shell --before "${build%???}" -- cat /one
	run -127 mica debug shell -- nothing-of-that-name
	# Nothing was run again and no command of ours stays.
	[ -z "$(ls "$MICA_ROOT/steps")" ]
}

@test "without a terminal a shell is refused with the way out; with one it opens (UX-76, UX-77)" {
	fail_build
	run -2 mica debug shell </dev/null
	[[ $output == *"needs a terminal"*"try: mica debug shell BUILD -- COMMAND"* ]]
	run -2 mica build --on-error=shell "$ctx" </dev/null
	[[ $output == *"needs a terminal"* ]]
	run -2 mica build --on-error=panic "$ctx"
	run -0 python3 - "$MICA" "$ctx" <<-'P'
		import os, pty, sys
		def talk(*command):
		    pid, fd = pty.fork()
		    if pid == 0:
		        os.execv(command[0], command)
		    seen, sent = b"", False
		    try:
		        while chunk := os.read(fd, 4096):
		            seen += chunk
		            if seen.rstrip().endswith((b"$", b"$ \x1b[6n", b"$\x1b[6n")) and not sent:
		                os.write(fd, b"echo I-am-$FOO-in-$PWD; cat /tmp/half; exit 5\n")
		                sent = True
		    except OSError:
		        pass
		    return seen, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
		seen, status = talk(sys.argv[1], "debug", "shell")
		assert b"I-am-bar-in-/w" in seen and b"half" in seen and status == 5, (seen, status)
		# At once, with the build's own status.
		seen, status = talk(sys.argv[1], "build", "--on-error=shell", sys.argv[2])
		assert b"I-am-bar-in-/w" in seen and status == 3, (seen, status)
		assert seen.count(b"------\r\n >") == 1, seen
	P
}

@test "the last three are kept, those asked for until they are dropped (UX-38)" {
	fail_build --on-error=keep
	[[ $output =~ 'try: mica debug shell '([0-9a-f-]+)$ ]]
	kept=${BASH_REMATCH[1]}
	for _ in 1 2 3 4; do
		fail_build
	done
	[ "$(find "$MICA_ROOT/failed" -mindepth 1 -maxdepth 1 | wc -l)" = 4 ]
	run -0 mica debug shell "$kept" -- cat /tmp/half
	run -0 mica debug shell --drop "$kept"
	run -125 mica debug shell "$kept" -- true
	[[ $output == *"no failed step of build '$kept' is kept"* ]]
	# A day later.
	touch -d '2 days ago' "$MICA_ROOT"/failed/*
	fail_build
	[ "$(find "$MICA_ROOT/failed" -mindepth 1 -maxdepth 1 | wc -l)" = 1 ]
}

@test "a value of a secret is not in what is kept (RCP-968)" {
	needs_root
	dockerfile <<-'D'
		FROM base
		RUN --mount=type=secret,id=s,env=TOKEN --mount=type=secret,id=s,target=/s exit 3
	D
	TOPSECRET=canary-12345 run -3 mica build --secret id=s,env=TOPSECRET "$ctx"
	run ! grep -rq canary-12345 "$MICA_ROOT"
	run -0 mica debug shell -- sh -c 'echo [$TOKEN]'
	[ "$output" = '[]' ]
}

@test "stages and steps that follow from other steps: the layers below are there although the build failed" {
	dockerfile <<-'D'
		FROM base AS one
		RUN echo from-one >/one
		FROM base
		COPY --from=one /one /copied
		RUN echo r1 >/r1
		RUN echo r2 >/r2
		RUN rm /r1; exit 3
	D
	run -3 mica build "$ctx"
	run -0 mica debug shell -- sh -c 'cat /copied /r2; ls /r1 2>/dev/null || echo gone'
	[ "$output" = $'from-one\nr2\ngone' ]
	run -0 mica debug shell --before -- cat /r1
	[ "$output" = r1 ]
}

@test "as an ordinary user: the same; limits that cannot be applied are refused with the way out (RCP-519, SEC-I52)" {
	needs_user_namespaces
	user_setup_file
	local ctx="$BATS_FILE_TMPDIR/user/ctx"
	mkdir "$ctx"
	printf 'FROM base\nRUN echo half >/half; echo x >/root/y; exit 3\n' >"$ctx/Dockerfile"
	chmod -R a+rX "$ctx"
	run -0 as_user ranges '
		mica build -q /mnt/ctx; [ $? = 3 ] || exit 41
		mica debug shell -- sh -c "cat /half /root/y; id -u" || exit 42
		mica build -q --ulimit nofile=99999999 /mnt/ctx; [ $? = 125 ] || exit 43
		mica build -q --memory 64m /mnt/ctx; [ $? = 125 ] || exit 44
		mica build -q --memory 64m --best-effort-limits /mnt/ctx; [ $? = 3 ] || exit 45'
	[[ $output == *$'half\nx\n0\n'* ]]
	[[ $output == *"cannot set resource limit 'nofile': Operation not permitted"* ]]
	[[ $output == *"--memory cannot be applied: "*"try: "*"WARNING: --memory cannot be applied: "* ]]
}
