#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Commands that are interrupted, killed or run out of room: a status, one line, a store that is whole, nothing left behind.

load ../cli/common

setup_file() {
	mica_setup_file
}

setup() {
	context
}

# Nothing of a build is left: no process with this marker, no mount below the store, no step directory, a clean store that
# the next build uses.
assert_survived() {
	run ! pgrep -f "$1"
	run ! grep -q "$MICA_ROOT" /proc/self/mountinfo
	run -0 mica fsck
	printf 'FROM base\nRUN echo next >/next\n' | dockerfile
	run -0 mica build -q -t next "$ctx"
	[ -z "$(ls "$MICA_ROOT/steps")" ]
	run -0 mica fsck
}

# Starts a build whose RUN says that it runs, waits for that word, sends a signal, gives the status.
interrupt_build() {
	local signal=$1 marker=$2 log="$BATS_TEST_TMPDIR/log"

	printf 'FROM base\nRUN echo started; exec sleep %s\n' "$marker" | dockerfile
	mkfifo "$BATS_TEST_TMPDIR/progress"
	"$MICA" build --progress=plain -t interrupted "$ctx" 2>"$BATS_TEST_TMPDIR/progress" >/dev/null 3>&- &
	local pid=$!
	while read -r line; do
		echo "$line" >>"$log"
		case $line in
		*started) kill "-$signal" $pid ;;
		esac
	done <"$BATS_TEST_TMPDIR/progress"
	status=0
	wait $pid || status=$?
}

@test "TERM during a RUN: 143, soon (UX-13, UX-14)" {
	begun=$(date +%s)
	interrupt_build TERM 31.4159
	(($(date +%s) - begun < 10))
	[ "$status" = 143 ]
	assert_survived 'sleep 31.4159'
	run -125 mica inspect interrupted
}

@test "a step that fails ends the steps that run beside it (RCP-642)" {
	dockerfile <<-'D'
		FROM base AS long
		RUN --mount=type=cache,target=/c touch /c/runs; exec sleep 86.2513
		FROM base AS fails
		RUN --mount=type=cache,target=/c while [ ! -e /c/runs ]; do :; done; exit 7
		FROM base
		COPY --from=long / /
		COPY --from=fails / /
	D
	begun=$(date +%s)
	MICA_JOBS=2 run ! mica build -t beside "$ctx"
	[[ $output == *"exit 7"* ]]
	(($(date +%s) - begun < 30))
	assert_survived 'sleep 86.2513'
}

@test "TERM in the middle of a large file that is imported: 143 before its end (UX-14)" {
	mkfifo "$BATS_TEST_TMPDIR/tar"
	"$MICA" import - large <"$BATS_TEST_TMPDIR/tar" 2>"$BATS_TEST_TMPDIR/log" >/dev/null 3>&- &
	local pid=$!
	run -0 python3 - $pid "$BATS_TEST_TMPDIR/tar" <<-'P'
		import os, signal, sys, tarfile
		member = tarfile.TarInfo("large")
		member.size = 8 << 30
		written = 0
		out = open(sys.argv[2], "wb", buffering=0)
		try:
		    out.write(member.tobuf())
		    while written < member.size:
		        out.write(b"x" * (1 << 20))
		        written += 1 << 20
		        if written == 32 << 20:
		            os.kill(int(sys.argv[1]), signal.SIGTERM)
		    sys.exit("all of it was read")
		except BrokenPipeError:
		    pass
	P
	status=0
	wait $pid || status=$?
	[ "$status" = 143 ]
	[[ $(<"$BATS_TEST_TMPDIR/log") == *canceled* ]]
	run -125 mica inspect large
	assert_survived "import - large"
}

@test "INT from a terminal ends the build with 130" {
	printf 'FROM base\nRUN echo started; exec sleep 27.1828\n' | dockerfile
	run python3 - "$MICA" "$ctx" <<-'P'
		import os, pty, signal, sys, time
		pid, fd = pty.fork()
		if pid == 0:
		    signal.signal(signal.SIGINT, signal.SIG_DFL)
		    os.execv(sys.argv[1], [sys.argv[1], "build", "--progress=plain", sys.argv[2]])
		seen = b""
		while b"started" not in seen.replace(b"echo started", b""):
		    seen += os.read(fd, 4096)
		os.write(fd, b"\x03")
		try:
		    while os.read(fd, 4096):
		        pass
		except OSError:
		    pass
		print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
	P
	[ "${lines[-1]}" = 130 ]
	assert_survived 'sleep 27.1828'
}

@test "kill -9 of mica during a RUN takes the container along" {
	interrupt_build KILL 16.1803
	[ "$status" = 137 ]
	assert_survived 'sleep 16.1803'
}

@test "kill -9 at many instants of a build with COPY and RUN: fsck clean, the next build works" {
	mkdir "$ctx/d"
	for i in $(seq 300); do head -c 20000 /dev/urandom >"$ctx/d/$i"; done
	for delay in 0.01 0.02 0.03 0.05 0.08 0.12 0.2; do
		printf 'FROM base\nCOPY d /d\nRUN cp -r /d /e && rm -r /d\nCOPY d /f\n' | dockerfile
		timeout -s KILL "$delay" "$MICA" build -q --no-cache -t killed "$ctx" >/dev/null 2>&1 || true
		run -0 mica fsck
	done
	run -0 mica build -q -t killed "$ctx"
	run -0 mica fsck --data
	assert_survived 'no such process'
}

@test "a full disk: one line, status 125, the store whole, the next build works (RCP-649)" {
	needs_root
	mkdir "$BATS_TEST_TMPDIR/small"
	mount -t tmpfs -o size=24m tmpfs "$BATS_TEST_TMPDIR/small"
	root="$BATS_TEST_TMPDIR/small/store"
	mica import --root "$root" "$BATS_FILE_TMPDIR/rootfs" base >/dev/null
	head -c 40000000 /dev/urandom >"$ctx/big"
	printf 'FROM base\nCOPY big /big\n' | dockerfile
	run mica build --root "$root" -q -t big "$ctx"
	copy_status=$status copy_output=$output
	printf 'FROM base\nRUN head -c 40000000 /dev/urandom >/big\n' | dockerfile
	run mica build --root "$root" -q -t big "$ctx"
	run_status=$status
	rm "$ctx/big"
	printf 'FROM base\nRUN echo small >/small\n' | dockerfile
	run mica build --root "$root" -q -t small "$ctx"
	last_status=$status
	run mica fsck --root "$root"
	fsck_status=$status
	umount "$BATS_TEST_TMPDIR/small"
	[ "$copy_status" = 125 ]
	[[ $copy_output == *"No space left on device"* ]]
	[ "$run_status" != 0 ]
	[ "$last_status" = 0 ]
	[ "$fsck_status" = 0 ]
}

@test "kill -9 during import: nothing half-made, the same import works" {
	tar -C "$BATS_FILE_TMPDIR/rootfs" -cf "$BATS_TEST_TMPDIR/root.tar" .
	for delay in 0.005 0.01 0.02 0.03; do
		timeout -s KILL "$delay" "$MICA" import "$BATS_TEST_TMPDIR/root.tar" imported >/dev/null 2>&1 || true
		run -0 mica fsck
	done
	run -0 mica import "$BATS_TEST_TMPDIR/root.tar" imported
	run -0 mica fsck --data
}

@test "no write permission, a store that belongs to somebody else: the name and the reason" {
	run -125 mica images --root /proc/nothing/store
	[[ $output == *"/proc/nothing"* ]]
	needs_root
	mkdir "$BATS_TEST_TMPDIR/theirs"
	chown 12345 "$BATS_TEST_TMPDIR/theirs"
	run -125 mica images --root "$BATS_TEST_TMPDIR/theirs"
	[[ $output == *"12345"* ]]
}
