#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# What a container is, seen from inside, and what it leaves outside (SEC-B, SEC-I), as root and as an ordinary user.
# shellcheck disable=SC2016,SC2154  # scripts are for the shell inside; ctx is made by context
bats_require_minimum_version 1.5.0
load common
load user

setup_file() {
	mica_setup_file
	user_setup_file
	mkdir "$BATS_FILE_TMPDIR/user/ctx"
	cat >"$BATS_FILE_TMPDIR/user/ctx/Dockerfile" <<-'END'
		FROM base
		RUN --mount=type=bind,target=/ctx sh -c '. /ctx/look' >/seen 2>&1
	END
	# What a container is, a line for each thing. The ignored signals are asked for in a child, for ash ignores QUIT itself.
	cat >"$BATS_FILE_TMPDIR/user/ctx/look" <<-'END'
		echo "process $$"
		ls /proc/self/fd | tr '\n' ' ' && echo
		readlink /proc/self/fd/0
		grep -E '^(Cap(Inh|Eff|Bnd|Amb)|NoNewPrivs|Seccomp|SigBlk):' /proc/self/status | tr -d '\t'
		umask
		env | grep -Ev '^(SHLVL|PWD)=' | sort
		ls /dev | tr '\n' ' ' && echo
		cat /proc/kcore /proc/keys /proc/timer_list /proc/interrupts 2>/dev/null | wc -c
		(: >>/proc/sys/kernel/panic) 2>/dev/null || echo read-only
		ls /proc | grep -c '^[0-9]' | sed 's/^[1-9]$/few processes/'
	END
	chmod -R a+rX "$BATS_FILE_TMPDIR/user/ctx"
}

# What 'look' is to say.
expected_look() {
	printf '%s\n' 'process 1' '0 1 2 3 ' /dev/null SigBlk:0000000000000000 CapInh:0000000000000000 \
		CapEff:00000000a80425fb CapBnd:00000000a80425fb CapAmb:0000000000000000 NoNewPrivs:0 Seccomp:2 \
		0022 HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		"$(devices)" 0 read-only 'few processes'
}

# /dev/core is there where the kernel has what it links to.
devices() {
	local core=
	[ ! -e /proc/kcore ] || core="core "
	echo "${core}fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero "
}

inside() {
	mica run base sh -c "$1"
}

@test "the command is process 1 of its namespace (SEC-I03)" {
	needs_root
	[ "$(inside 'echo $$')" = 1 ]
	[ "$(inside 'readlink /proc/1/exe')" = /bin/busybox ]
}

@test "only three descriptors reach the command (SEC-B01)" {
	needs_root
	exec 17</etc/passwd
	run inside 'ls /proc/self/fd | tr "\n" " "'
	[ "$output" = "0 1 2 3 " ]
	exec 17<&-
}

@test "capabilities, filter, no_new_privs (SEC-I20, SEC-I21, SEC-I30)" {
	needs_root
	run inside 'grep -E "^(CapBnd|CapEff|CapInh|NoNewPrivs|Seccomp):" /proc/self/status | tr -d "\t"'
	[ "$output" = "$(printf '%s\n' CapInh:0000000000000000 CapEff:00000000a80425fb \
		CapBnd:00000000a80425fb NoNewPrivs:0 Seccomp:2)" ]
	run inside 'mount -t tmpfs none /mnt 2>/dev/null || unshare -m true 2>/dev/null || echo refused'
	[ "$output" = refused ]
}

@test "the devices, and no other by mknod (SEC-I42, SEC-I43)" {
	needs_root
	run inside 'ls /dev | tr "\n" " "'
	[ "$output" = "$(devices)" ]
	run inside 'for d in /dev /dev/shm /tmp; do mkdir -p $d; mknod $d/n c 1 5; (cat <$d/n) 2>/dev/null || echo no; done'
	[ "$output" = "$(printf 'no\nno\nno')" ]
}

@test "kernel files are masked or read-only (SEC-I40, SEC-I41)" {
	needs_root
	[ "$(inside 'cat /proc/interrupts /proc/keys /proc/timer_list; ls /sys/firmware | wc -l')" = 0 ]
	run inside 'for f in /proc/sys/kernel/panic /proc/sysrq-trigger /sys/kernel/uevent_helper; do
		(: >>$f) 2>/dev/null && echo "$f is writable"; done; true'
	[ -z "$output" ]
}

@test "state of a hostile caller does not come in (SEC-B23)" {
	needs_root
	mkdir "$BATS_TEST_TMPDIR/gone"
	run --separate-stderr bash -c 'cd "$1/gone" && rmdir "$1/gone" && umask 0777 && trap "" PIPE TERM CHLD &&
		SECRET=1 nice -n 0 "$MICA" run base sh -c "umask; grep -E ^Sig[BI] /proc/self/status | tr -d \"\\t\"; env | grep -c SECRET"' \
		- "$BATS_TEST_TMPDIR"
	echo "$output" "$stderr"
	[ "$output" = "$(printf '0022\nSigBlk:0000000000000000\nSigIgn:0000000000000000\n0')" ]
}

@test "nothing that the command started outlives it (SEC-B20)" {
	needs_root
	inside 'setsid sh -c "trap : TERM HUP; sleep 987654" & exit 0'
	run ! pgrep -f 'sleep 987654'
}

@test "no mount is left on the host, nor after SIGKILL (SEC-B24)" {
	needs_root
	before=$(cat /proc/self/mountinfo)
	for _ in 1 2 3 4 5; do inside true; done
	coproc exec "$MICA" run base sh -c 'echo ready; sleep 987653'
	read -r line <&"${COPROC[0]}"
	[ "$line" = ready ]
	kill -KILL "$COPROC_PID"
	wait "$COPROC_PID" || true
	# the pipe ends when the last process of the container has gone
	cat <&"${COPROC[0]}" >/dev/null || true
	[ "$(cat /proc/self/mountinfo)" = "$before" ]
}

@test "exit statuses: of the command, 126, 127" {
	needs_root
	run inside 'exit 42'
	[ "$status" = 42 ]
	run -127 mica run base no-such-command
	[[ $output == *no-such-command* ]]
	run -126 mica run base /etc
}

# The caller's worst: signals blocked and ignored, no stdin, umask, a low priority, descriptors, variables.
hostile() {
	bash -c 'umask 077; trap "" PIPE TERM CHLD INT; exec <&- 7</etc/passwd 33</
		SECRET=1 LD_PRELOAD= exec env --block-signal=TERM,CHLD,HUP nice "$@"' - "$@"
}

@test "the same container for RUN and run, from a hostile caller (SEC-B01, SEC-B23, SEC-I20 to SEC-I60)" {
	needs_root
	[ "$(hostile "$MICA" run base sh -c "$(cat "$BATS_FILE_TMPDIR/user/ctx/look")")" = "$(expected_look)" ]
	hostile "$MICA" build -q -t seen "$BATS_FILE_TMPDIR/user/ctx" >/dev/null
	[ "$(mica cat seen /seen)" = "$(expected_look)" ]
}

@test "the same container for an ordinary user, with and without subordinate ids (SEC-I80)" {
	needs_user_namespaces
	for ids in ranges single; do
		run --separate-stderr as_user $ids 'umask 077; mica run base sh -c "$(cat /mnt/ctx/look)"'
		[ "$output" = "$(expected_look)" ]
		run --separate-stderr as_user $ids 'umask 077; mica build -q -t t /mnt/ctx >/dev/null; mica cat t /seen'
		[ "$output" = "$(expected_look)" ]
	done
}

@test "ids, namespaces and network of an ordinary user (SEC-I03, SEC-I82)" {
	needs_user_namespaces
	run --separate-stderr as_user ranges 'mica run base sh -c "id -u; wc -l </proc/self/uid_map
		touch /tmp/x; chown 12:34 /tmp/x && stat -c %u:%g /tmp/x
		mount -t tmpfs none /mnt 2>/dev/null || unshare -m true 2>/dev/null || echo refused"
		mica run --network none base ip -o link | cut -d" " -f2-3
		mica run base /proc/self/exe 2>&1; mica run -w /proc/self/fd/7 base pwd 2>&1; mica run base sh -c "exit 42"'
	[ "$status" = 42 ]
	[ "$output" = "$(printf '%s\n' 0 2 12:34 refused 'lo: <LOOPBACK,UP,LOWER_UP>' \
		"ERROR: cannot execute '/proc/self/exe': Permission denied" \
		"ERROR: cannot enter the working directory '/proc/self/fd/7': Too many levels of symbolic links")" ]
	[ "$(as_user single 'mica run base sh -c "id -u; wc -l </proc/self/uid_map"' 2>/dev/null)" = "$(printf '0\n1')" ]
}

@test "--network none has lo alone, and it is up (SEC-I70)" {
	needs_root
	[ "$(mica run --network none base ip -o link | cut -d' ' -f1-3)" = '1: lo: <LOOPBACK,UP,LOWER_UP>' ]
	context
	dockerfile <<-'END'
		FROM base
		RUN ip -o link | cut -d' ' -f1-3 >/links
	END
	mica build -q --network none -t links "$ctx" >/dev/null
	[ "$(mica cat links /links)" = '1: lo: <LOOPBACK,UP,LOWER_UP>' ]
}

@test "the host name is the container's own" {
	needs_root
	before=$(hostname)
	run inside 'hostname; cat /etc/hostname; hostname stolen 2>/dev/null || echo refused'
	[ "$output" = "$(printf '%s\n' mica mica refused)" ]
	[ "$(mica run --hostname there base hostname)" = there ]
	[ "$(hostname)" = "$before" ]
}

@test "a working directory behind a descriptor (SEC-B01)" {
	needs_root
	for fd in 0 3 4 5 6 7 8 9 10 11 12 31 255 1023; do
		run -125 mica run -w /proc/self/fd/$fd base pwd
		[[ $output == *"cannot enter the working directory '/proc/self/fd/$fd'"* ]]
	done
	context
	dockerfile <<-'END'
		FROM base
		WORKDIR /proc/self/fd/7
		RUN cat ../../../../etc/shadow
	END
	run ! mica build "$ctx"
	[[ $output == *"cannot enter the working directory '/proc/self/fd/7'"* ]]
	# a link of the image says the same
	dockerfile <<-'END'
		FROM base
		RUN ln -s /proc/self/fd/7 /w
		WORKDIR /w
		RUN pwd
	END
	run ! mica build "$ctx"
}

@test "the program cannot be reached through /proc/self/exe (SEC-B08)" {
	needs_root
	before=$(sha256sum <"$MICA")
	run -126 mica run base /proc/self/exe
	context
	dockerfile <<-'END'
		FROM base
		RUN printf '#!/proc/self/exe\n' >/x && chmod 755 /x
		ENTRYPOINT ["/x"]
	END
	mica build -q -t tricks "$ctx" >/dev/null
	# it is the sealed copy of the starter that runs again there, and it has nothing to say
	run -1 mica run tricks
	[ -z "$output" ]
	# nothing of the host is in the map of files of process 1, nor can its program be written
	run inside 'grep -vE " (/bin/busybox|\[.*\]|)$" /proc/1/maps; (: >>/proc/1/exe) 2>/dev/null || echo refused'
	[ "$output" = refused ]
	[ "$(sha256sum <"$MICA")" = "$before" ]
}

@test "an image whose mount points are links (SEC-B07, SEC-B25)" {
	needs_root
	cp -a "$BATS_FILE_TMPDIR/rootfs" "$BATS_TEST_TMPDIR/root"
	cd "$BATS_TEST_TMPDIR/root"
	rm -rf proc dev sys etc/hosts etc/resolv.conf etc/hostname
	ln -s /tmp proc
	ln -s ../../../../dev dev
	ln -s /etc sys
	ln -s /etc/passwd etc/hosts
	ln -s /run/absent/resolv etc/resolv.conf
	ln -s ../../../../etc/shadow etc/hostname
	cd /
	mica import "$BATS_TEST_TMPDIR/root" hostile >/dev/null
	context
	dockerfile <<-'END'
		FROM hostile
		RUN [ "$(readlink /proc/self/exe)" = /bin/busybox ] && [ -c /dev/null ] && [ -d /sys/class ]
		RUN grep -q localhost /etc/hosts && ! grep -q localhost /etc/passwd
		RUN echo bad >/etc/hosts; rm -f /etc/hosts /etc/resolv.conf /etc/hostname; ln -sf /x /etc/hosts; touch /new
	END
	sum=$(sha256sum /etc/passwd /etc/hosts /etc/shadow)
	mica build -q -t unhurt "$ctx" >/dev/null
	[ "$(sha256sum /etc/passwd /etc/hosts /etc/shadow)" = "$sum" ]
	# nothing of it in the layers: the links of /etc are as they were
	mica export -o "$BATS_TEST_TMPDIR/unhurt.tar" unhurt
	run tar -tvf "$BATS_TEST_TMPDIR/unhurt.tar" --wildcards '*etc/host*' '*etc/resolv.conf' '*new'
	[[ $output == *"etc/hosts -> /etc/passwd"*"etc/resolv.conf -> /run/absent/resolv"* ]]
	[[ $output == *"etc/hostname -> ../../../../etc/shadow"* ]]
	[ "$(mica cat unhurt /etc/passwd)" = "$(cat "$BATS_FILE_TMPDIR/rootfs/etc/passwd")" ]
}

@test "the host has the same mounts, processes and interfaces after failures too (SEC-B24)" {
	needs_root
	before=$(cat /proc/self/mountinfo)
	context
	dockerfile <<-'END'
		FROM base
		RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t touch /c/x /t/x
		RUN (trap '' TERM HUP INT; exec setsid sleep 987652) & sleep 987652 & exit 3
	END
	run ! mica build "$ctx"
	[[ $output == *"exit code: 3"* ]]
	[ "$(cat /proc/self/mountinfo)" = "$before" ]
	run ! pgrep -f 'sleep 987652'
	assert_clean
}
