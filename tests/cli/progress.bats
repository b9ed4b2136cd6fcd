#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# What is shown while a build runs, and how it ends (UX-15 to UX-37, UX-95, UX-96, UX-98).
# shellcheck disable=SC2154,SC2016,SC2001  # ctx is made by context; scripts are for the shell inside

load common

setup_file() {
	mica_setup_file
	unset NO_COLOR CLICOLOR CLICOLOR_FORCE CI GITHUB_ACTIONS GITLAB_CI BUILDKIT_PROGRESS MICA_COLORS TTY_DISPLAY_RATE
}

setup() {
	context
}

teardown() {
	assert_clean
}

# Two stages that wait for each other's files, so that their output is woven: each line of 'first' comes between two of 'second'.
woven() {
	dockerfile <<-'D'
		FROM base AS first
		RUN --mount=type=cache,target=/c for i in 1 2 3; do echo first-""$i; : >/c/f$i; while [ ! -e /c/s$i ]; do :; done; done
		FROM base AS second
		RUN --mount=type=cache,target=/c for i in 1 2 3; do while [ ! -e /c/f$i ]; do :; done; echo second-""$i; : >/c/s$i; done
		FROM base
		COPY --from=first /bin/busybox /a
		COPY --from=second /bin/busybox /b
		RUN --mount=type=cache,target=/c rm /c/*; echo last-""one
	D
}

# Runs a command on a terminal of COLUMNS x ROWS and prints what it writes, with escape sequences spelled out.
on_terminal() {
	python3 - "$@" <<-'P'
		import fcntl, os, pty, select, struct, sys, termios
		columns, rows, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
		pid, fd = pty.fork()
		if pid == 0:
		    os.environ["TERM"] = "xterm"
		    fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
		    os.execvp(command[0], command)
		seen = b""
		try:
		    while chunk := os.read(fd, 65536):
		        seen += chunk
		except OSError:
		    pass
		status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
		print(seen.decode(errors="replace").replace("\r\n", "\n").replace("\x1b", "<ESC>").replace("\r", "<CR>").replace("\a", "<BEL>"))
		sys.exit(status)
	P
}

@test "an unknown mode lists the modes; -q and another mode contradict; tty needs a terminal (UX-15, UX-16)" {
	printf 'FROM base\n' | dockerfile
	run -2 mica build --progress=fancy "$ctx"
	[[ $output == *"unknown progress mode 'fancy': auto, tty, plain, ordered, raw, rawjson, quiet or none"* ]]
	run -2 mica build -q --progress=plain "$ctx"
	[[ $output == *contradict* ]]
	run -2 mica build --progress=tty "$ctx"
	[[ $output == *"needs a terminal"* ]]
	run -2 mica build --color=sometimes "$ctx"
	MICA_PROGRESS=plain BUILDKIT_PROGRESS=rawjson run -0 mica build "$ctx"
	[[ $output == *"#1 [internal]"* ]]
	BUILDKIT_PROGRESS=rawjson run -0 mica build "$ctx"
	[[ $output == *'{"vertexes"'* ]]
}

@test "quiet: the id alone; none: not even that for eyes, and errors still come (UX-17)" {
	printf 'FROM base\nRUN echo noise\n' | dockerfile
	run -0 --separate-stderr mica build -q "$ctx"
	[[ $output =~ ^sha256:[0-9a-f]{64}$ ]]
	[ -z "$stderr" ]
	printf 'FROM base\nRUN echo noise; exit 9\n' | dockerfile
	run -9 --separate-stderr mica build --progress=none "$ctx"
	[[ $stderr == *"exit code: 9"* ]]
}

@test "plain: header, numbers, titles, output with times, ends (UX-20, UX-21, UX-26)" {
	printf 'FROM base AS one\nRUN echo he""llo; printf part\nFROM base\nCOPY --from=one /bin/busybox /b\n' | dockerfile
	run -0 --separate-stderr mica build --progress=plain "$ctx"
	[[ $stderr =~ ^'#0 mica '[^,]+', '(kernel|fuse)', '(root|userns) ]]
	[[ $stderr == *$'\n\n#1 [internal] load build definition from Dockerfile\n#1 transferring dockerfile: '* ]]
	[[ $stderr =~ '[one 2/2] RUN echo he'.*$'\n'\#([0-9]+)' 0.'[0-9]{3}' hello'$'\n'\#[0-9]+' 0.'[0-9]{3}' part'$'\n'\#[0-9]+' DONE 0.'[0-9]s ]]
	[[ $stderr =~ '[stage-1 2/2] COPY --from=one /bin/busybox /b'$'\n'\#[0-9]+' DONE' ]]
	run -0 --separate-stderr mica build --progress=plain "$ctx"
	[[ $stderr =~ '[one 2/2] RUN echo he'.*$'\n'\#[0-9]+' CACHED' ]]
}

@test "plain: a row that holds its place is not torn apart by one that has just begun (UX-27)" {
	woven
	run -0 --separate-stderr mica build --no-cache --progress=plain -j 2 "$ctx"
	# All of one before all of the other, though they ran line by line.
	seen=$(grep -oE '(first|second|last)-[0-9a-z]+$' <<<"$stderr" | tr '\n' ' ')
	[[ $seen == "first-1 first-2 first-3 second-1 second-2 second-3 last-one " ||
		$seen == "second-1 second-2 second-3 first-1 first-2 first-3 last-one " ]]
}

@test "ordered: stages in recipe order, each in one piece, numbers only grow (UX-28)" {
	woven
	run -0 --separate-stderr mica build --no-cache --progress=ordered -j 2 "$ctx"
	seen=$(grep -oE '(first|second|last)-[0-9a-z]+$' <<<"$stderr" | tr '\n' ' ')
	[ "$seen" = "first-1 first-2 first-3 second-1 second-2 second-3 last-one " ]
	grep -oE '^#[0-9]+' <<<"$stderr" | tr -d '#' | sort -nc
	[[ $stderr != *"..."$'\n'* ]]
	# The same lines in a file, whatever the terminal shows.
	run -0 mica build --no-cache -q --logfile "$BATS_TEST_TMPDIR/log" --log-dir "$BATS_TEST_TMPDIR/logs/deep" -j 2 "$ctx"
	grep -oE '(first|second|last)-[0-9a-z]+$' "$BATS_TEST_TMPDIR/log" | tr '\n' ' ' >"$BATS_TEST_TMPDIR/lines"
	[ "$(<"$BATS_TEST_TMPDIR/lines")" = "$seen" ]
	grep -q '^first-3$' "$BATS_TEST_TMPDIR"/logs/deep/step-*.log
}

@test "ordered: a failure in a later stage closes the one on show and is shown in full (UX-29, RCP-642)" {
	dockerfile <<-'D'
		FROM base AS slow
		RUN --mount=type=cache,target=/c : >/c/on; echo slow""ly; exec sleep 77
		FROM base AS bad
		RUN --mount=type=cache,target=/c while [ ! -e /c/on ]; do :; done; rm /c/on; echo one""two; exit 5
		FROM base
		COPY --from=slow / /a
		COPY --from=bad / /b
	D
	run -5 --separate-stderr mica build --no-cache --progress=ordered -j 2 "$ctx"
	[[ $stderr =~ slowly.*$'\n'\#[0-9]+' CANCELED'.*onetwo$'\n'\#[0-9]+' ERROR: process'.*$'\n------\n > [bad 2/2]' ]]
}

@test "raw: the bytes of the commands and nothing else (UX-31)" {
	printf 'FROM base\nRUN printf "a\\001\\033[31mb\\n"; printf "err\\n" >&2\nRUN printf "no end"\n' | dockerfile
	run -0 --separate-stderr mica build --progress=raw "$ctx"
	[ "$stderr" = $'a\001\033[31mb\nerr\nno end' ]
}

@test "rawjson: BuildKit's shape, folded it gives the rows; a failure adds one line (UX-32)" {
	printf 'FROM base\nRUN echo hello\nRUN echo bad >&2; exit 4\n' | dockerfile
	run -4 --separate-stderr mica build --no-cache --progress=rawjson "$ctx"
	[ "$(grep -vc '^{' <<<"$stderr")" = 1 ] # ERROR
	grep '^{' <<<"$stderr" >"$BATS_TEST_TMPDIR/json"
	python3 - "$BATS_TEST_TMPDIR/json" <<-'P'
		import base64, json, sys
		allowed = {"vertexes": {"digest", "inputs", "name", "started", "completed", "cached", "error"},
		           "statuses": {"id", "vertex", "name", "total", "current", "timestamp", "started", "completed"},
		           "logs": {"vertex", "stream", "data", "timestamp"}, "warnings": {"vertex", "level", "short", "detail", "url", "range"}}
		rows, logs = {}, {}
		for line in open(sys.argv[1]):
		    for kind, items in json.loads(line).items():
		        for item in items:
		            assert set(item) <= allowed[kind], item
		            if kind == "vertexes":
		                assert all(i in rows for i in item.get("inputs", []))
		                rows[item["digest"]] = item
		            elif kind == "logs":
		                logs[item["vertex"], item["stream"]] = logs.get((item["vertex"], item["stream"]), b"") + base64.b64decode(item["data"])
		names = {row["name"]: row for row in rows.values()}
		assert len(names) == len(rows)
		assert all("completed" in row for row in rows.values() if "started" in row)
		bad, good = names["[3/3] RUN echo bad >&2; exit 4"], names["[2/3] RUN echo hello"]
		assert "exit code: 4" in bad["error"] and "error" not in good and good["digest"] in bad["inputs"]
		assert logs == {(good["digest"], 1): b"hello\n", (bad["digest"], 2): b"bad\n"}, logs
	P
}

@test "a failure ends with the last lines, the excerpt, the error, the log, what to try (UX-33)" {
	dockerfile <<-'D'
		FROM base
		ARG X
		RUN for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line-""$i; done; exit 42
		CMD ["a"]
	D
	run -42 --separate-stderr mica build --progress=plain "$ctx"
	trailer=${stderr#*$'\n------\n'}
	[[ $trailer =~ ^' > [2/2] RUN for i in '[^$'\n']*$':\n0.'[0-9]{3}' line-3'$'\n' ]]
	[[ $trailer == *$' line-12\n------\nDockerfile:3\n--------------------\n   1 |     FROM base\n   2 |     ARG X\n   3 | >>> RUN for i'* ]]
	[[ $trailer =~ $'\nERROR: failed to solve: process "/bin/sh -c for i in '.*'did not complete successfully: exit code: 42'$'\nlog: '([^$'\n']+)$'\ntry: mica debug shell '[0-9]{8}-[0-9]{6}-[0-9a-f]{6}$ ]]
	[ "$(wc -l <"${BASH_REMATCH[1]}")" = 12 ]
}

@test "100 MiB of output is complete and in order, in the log and in the view (RCP-685, RCP-962)" {
	printf 'FROM base\nRUN seq 1 14500000 | head -c 104857600\n' | dockerfile
	mica build -q --progress=raw "$ctx" 2>/dev/null >/dev/null || true
	mica build --no-cache --progress=raw "$ctx" 2>"$BATS_TEST_TMPDIR/seen" >/dev/null
	[ "$(seq 1 14500000 | head -c 104857600 | sha256sum)" = "$(sha256sum <"$BATS_TEST_TMPDIR/seen")" ]
	log=$(find "$MICA_ROOT/builds" -name 'step-*.log' -size +90M | head -1)
	cmp "$log" "$BATS_TEST_TMPDIR/seen"
	rm -rf "$MICA_ROOT"/builds/*/step-*.log
}

@test "escape sequences of a command are harmless on a terminal, exact elsewhere (UX-9)" {
	printf 'FROM base\nRUN printf "\\033]0;ti""tle\\007\\033[2Jsafe \\033[31mred\\033[0m 10%%%%\\r20%%%%\\n"\n' | dockerfile
	NO_COLOR=1 run -0 on_terminal 100 30 "$MICA" build --no-cache --progress=plain "$ctx"
	[[ $output != *'<ESC>'* && $output != *'<BEL>'* && $output != *'<CR>'* ]]
	[[ $output =~ ' safe red 10%'$'\n#'[0-9]+' 0.'[0-9]{3}' 20%' ]]
	run -0 on_terminal 100 30 "$MICA" build --no-cache --progress=plain --color=always "$ctx"
	[[ $output == *'safe <ESC>[31mred<ESC>[0m'* && $output != *title* && $output != *'<ESC>[2J'* ]]
	run -0 --separate-stderr mica build --no-cache --progress=plain "$ctx"
	[[ $stderr == *$'\033]0;title\007\033[2Jsafe'* ]]
}

@test "tty: one block in place; the cursor is hidden within a frame only; the last frame has every row (UX-22 to UX-25)" {
	printf 'FROM base\nRUN echo pane-""line; sleep 0.7\nRUN exit 3\n' | dockerfile
	run -3 on_terminal 80 24 "$MICA" build --no-cache "$ctx"
	[[ $output == *'[+] Building 0.'*'mica:'* ]]
	[[ $output == *' => => # pane-line'* ]]
	[ "$(grep -o '<ESC>\[?25l' <<<"$output" | wc -l)" = "$(grep -o '<ESC>\[?25h' <<<"$output" | wc -l)" ]
	last=${output##*'[+] Building'}
	[[ $last == *'[internal] load build definition'*' => [2/3] RUN echo pane-""line; sleep 0.7'*'<ESC>[31m => ERROR [3/3] RUN exit 3'* ]]
	[[ $last != *pane-line$'\n'*'=> ERROR'* ]]
	# No line is wider than the terminal.
	while IFS= read -r line; do
		((${#line} <= 80))
	done < <(sed 's/<ESC>\[[0-9;?]*[a-zA-Z]//g' <<<"${last%%------*}")
	NO_COLOR=1 run -3 on_terminal 20 24 "$MICA" build --no-cache "$ctx"
	[[ $output != *'<ESC>[3'[0-9]m* ]]
	[[ ${output%%------*} != *'=> ['* ]] # too narrow for names
}

@test "tty: a command that ends at once draws one frame at most; a resize is followed" {
	printf 'FROM base\nRUN sleep 1.2\n' | dockerfile
	run -0 python3 - "$MICA" "$ctx" <<-'P'
		import fcntl, os, pty, re, struct, sys, termios, time
		pid, fd = pty.fork()
		if pid == 0:
		    os.environ["TERM"] = "xterm"
		    os.execv(sys.argv[1], [sys.argv[1], "build", "--no-cache", sys.argv[2]])
		fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
		seen, resized = b"", False
		try:
		    while chunk := os.read(fd, 65536):
		        seen += chunk
		        if b"sleep 1.2" in seen and not resized:
		            fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 50, 0, 0))
		            resized = True
		except OSError:
		    pass
		frames = [re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", f) for f in seen.split(b"[+] Building")]
		widths = [max(len(line) for line in f.replace(b"\r", b"").split(b"\n")) for f in frames[1:]]
		assert max(widths) > 80 and widths[-1] <= 75, widths
	P
	printf 'FROM base\n' | dockerfile
	run -0 on_terminal 80 24 "$MICA" build "$ctx"
	[[ $output != *Building*Building* ]]
}

@test "colours: MICA_COLORS, a bad part warns once (UX-18, UX-19)" {
	printf 'FROM base\nRUN sleep 0.4; exit 1\n' | dockerfile
	MICA_COLORS=error=light-green:run=1,2,3:error=mauve:warning= run -1 on_terminal 80 24 "$MICA" build --no-cache --progress=tty "$ctx"
	[[ $output == *'<ESC>[92m => ERROR'* ]]
	[[ $output == *'<ESC>[38;2;1;2;3m => [internal]'* || $output == *'<ESC>[38;2;1;2;3m => REUSED'* ]]
	[ "$(grep -c 'MICA_COLORS is no colour' <<<"$output")" = 1 ]
}

@test "a heartbeat names what still runs (UX-30)" {
	printf 'FROM base\nRUN sleep 2.4\n' | dockerfile
	MICA_HEARTBEAT=1 run -0 --separate-stderr mica build --no-cache --progress=plain "$ctx"
	[[ $stderr == *$'\n... still running: [2/2] RUN sleep 2.4 (1s)\n'* ]]
	(($(grep -c 'still running' <<<"$stderr") <= 2))
}

@test "warnings at the end, with --debug in full; none for those who read JSON (UX-34, UX-35)" {
	printf 'FROM base\nMAINTAINER me\nCMD echo x\n' | dockerfile
	run -0 --separate-stderr mica build --progress=plain --build-arg unused=1 "$ctx"
	[[ $stderr == *$'\n\n 2 warnings found (use --debug to expand):\n - MaintainerDeprecated: '*' (line 2)'* ]]
	[[ $stderr == *'[Warning] One or more build-args [unused] were not consumed'* ]]
	run -0 --separate-stderr mica build --debug --progress=plain "$ctx"
	[[ $stderr == *$'\n 2 warnings found:\n'*'More info: https://'*'   2 | >>> MAINTAINER me'* ]]
	for mode in quiet none rawjson; do
		run -0 --separate-stderr mica build --progress=$mode "$ctx"
		[[ $stderr != *warnings* ]]
	done
}

@test "GitHub: groups, commands of a step are not heard, annotations (UX-95, UX-96)" {
	dockerfile <<-'D'
		FROM base AS one
		RUN echo "::set-output name=x::evil"
		FROM base
		MAINTAINER me
		COPY --from=one /bin/busybox /b
		RUN exit 6
	D
	GITHUB_ACTIONS=true run -6 --separate-stderr mica build --no-cache "$ctx"
	[[ $stderr == *$'::group::prepare\n'*$'::endgroup::\n::group::one\n'*$'::endgroup::\n::group::stage-1\n'* ]]
	[[ $stderr =~ '::stop-commands::'([0-9a-f]{32})$'\n'\#[0-9]+' 0.'[0-9]{3}' ::set-output name=x::evil'$'\n::'"${BASH_REMATCH[1]}" ]]
	[[ $stderr =~ $'\n::'([0-9a-f]{32})$'::\n' ]]
	[[ $stderr == *'::warning file=Dockerfile,line=4,endLine=4,title=MaintainerDeprecated::'* ]]
	[[ $stderr == *'::error file=Dockerfile,line=6,endLine=6,title=Build failed::process'* ]]
	[ "$(grep -c '^::group' <<<"$stderr")" = "$(grep -c '^::endgroup' <<<"$stderr")" ]
	[ "$(grep -c "^::group::prepare" <<<"$stderr")" = 1 ]
}

@test "GitLab: collapsed sections (UX-98); any other CI: ordered lines without control" {
	printf 'FROM base AS one\nRUN echo x\n' | dockerfile
	GITLAB_CI=true NO_COLOR=1 run -0 --separate-stderr mica build --no-cache "$ctx"
	[[ $stderr =~ $'\033[0Ksection_start:'[0-9]{10}':mica_1_'[a-z_]+$'[collapsed=true]\r\033[0K' ]]
	[[ $stderr =~ $'\033[0Ksection_end:'[0-9]{10}':mica_1_'[a-z_]+$'\r\033[0K' ]]
	CI=1 run -0 --separate-stderr mica build --no-cache "$ctx"
	[[ $stderr == *'#1 [internal]'* && $stderr != *$'\033'* ]]
	run -0 --separate-stderr mica build --no-cache --ci=github "$ctx"
	[[ $stderr == *::group::* ]]
	run -2 mica build --ci=jenkins "$ctx"
}

@test "--logsplit: one file a platform (UX-37)" {
	printf 'FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n' | dockerfile
	echo x >"$ctx/f"
	run -0 mica build -q --platform linux/amd64,linux/arm64 --logfile "$BATS_TEST_TMPDIR/l" --logsplit "$ctx"
	grep -q 'linux/amd64' "$BATS_TEST_TMPDIR/l_linux_amd64"
	run ! grep -q 'linux/arm64.*COPY' "$BATS_TEST_TMPDIR/l_linux_amd64"
	grep -q 'linux/arm64.*COPY' "$BATS_TEST_TMPDIR/l_linux_arm64"
	run -2 mica build -q --logsplit "$ctx"
}

@test "a transfer says nothing when it is over at once, a few lines when it is not; on a terminal bytes and rate (UX-39)" {
	command -v docker-registry >/dev/null || skip "needs docker-registry"
	address=$("$MICA_TEST_TOOLS/registry-server" start "$BATS_TEST_TMPDIR/registry")
	# A slow way to it: half a second for each connection.
	cat >"$BATS_TEST_TMPDIR/slow.py" <<-'P'
		import socket, sys, threading, time
		host, port = sys.argv[1].split(":")
		server = socket.create_server(("127.0.0.1", 0))
		print("127.0.0.1:%d" % server.getsockname()[1], flush=True)
		def pipe(a, b):
		    try:
		        while data := a.recv(65536):
		            b.sendall(data)
		    except OSError:
		        pass
		    b.close()
		while True:
		    near, _ = server.accept()
		    time.sleep(0.5)
		    far = socket.create_connection((host, int(port)))
		    for pair in ((near, far), (far, near)):
		        threading.Thread(target=pipe, args=pair, daemon=True).start()
	P
	python3 "$BATS_TEST_TMPDIR/slow.py" "$address" >"$BATS_TEST_TMPDIR/slow" 3>&- &
	local slow_pid=$!
	run -0 --separate-stderr mica push base "$address/x:1"
	fast=$stderr
	until [ -s "$BATS_TEST_TMPDIR/slow" ]; do :; done
	slow=$(<"$BATS_TEST_TMPDIR/slow")
	run -0 --separate-stderr mica push base "$slow/x:2"
	slow_err=$stderr
	run -0 on_terminal 100 24 "$MICA" push base "$slow/x:3"
	screen=$output
	kill $slow_pid
	"$MICA_TEST_TOOLS/registry-server" stop "$BATS_TEST_TMPDIR/registry"
	[ -z "$fast" ] || [[ $fast == *" layers, "* ]] # a busy machine may need longer than 300 ms
	[[ $slow_err == "push $slow/x:2: "*"/"*" layers, "*"B, "*s ]]
	[[ $screen == *'[+] Pushing '*" => push $slow/x:3"* ]]
}
