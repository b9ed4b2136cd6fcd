#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# What a container is, seen from inside, and what it leaves outside (SEC-B, SEC-I), as root and as an ordinary user.
# shellcheck disable=SC2016  # scripts are for the shell inside
bats_require_minimum_version 1.5.0
load common

setup_file() {
	mica_setup_file
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
	[ "$output" = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero " ]
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
	run bash -c 'cd "$1/gone" && rmdir "$1/gone" && umask 0777 && trap "" PIPE TERM CHLD &&
		SECRET=1 nice -n 0 "$MICA" run base sh -c "umask; grep -E ^Sig[BI] /proc/self/status | tr -d \"\\t\"; env | grep -c SECRET"' \
		- "$BATS_TEST_TMPDIR"
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

# Runs script $2 in a container of a user that exists only in a mount namespace of the test, as do /mnt, where this user's
# things are, and a /dev/fuse that everybody may open. $1: "ranges", or "single" for a user without subordinate ids.
as_user() {
	local own="$BATS_TEST_TMPDIR/own"
	mkdir "$own"
	{ cat /etc/passwd; echo "micatest:x:4711:4711::/mnt:/bin/sh"; } >"$own/passwd"
	: >"$own/subid"
	[ "$1" = single ] || echo "micatest:300000:65536" >"$own/subid"
	chmod 644 "$own"/*
	unshare -m bash -c '
		set -e
		mount --make-rprivate /
		mount --bind "$1/passwd" /etc/passwd
		for f in subuid subgid; do mount --bind "$1/subid" "/etc/$f"; done
		mount -t tmpfs -o mode=755 none /mnt
		mknod -m 666 /mnt/fuse c 10 229
		mount --bind /mnt/fuse /dev/fuse
		cp -a "$2" "$3/rootfs" /mnt
		chmod -R a+rX /mnt/rootfs
		mkdir -m 777 /mnt/home
		cd /
		exec setpriv --reuid 4711 --regid 4711 --clear-groups --inh-caps=-all \
			env -i PATH="$PATH" HOME=/mnt/home MICA_ROOT=/mnt/home/store sh -c "
				/mnt/mica import /mnt/rootfs base >/dev/null && exec /mnt/mica run base sh -c \"\$1\"" - "$4"
	' - "$own" "$MICA" "$BATS_FILE_TMPDIR" "$2"
}

@test "an ordinary user with subordinate ids (SEC-I80, SEC-I82)" {
	needs_root
	run as_user ranges 'echo $$; id -u; grep CapBnd /proc/self/status | tr -d "\t"
		touch /tmp/x; chown 12:34 /tmp/x && stat -c %u:%g /tmp/x; echo >/dev/null && wc -l </proc/self/uid_map'
	[ "$output" = "$(printf '%s\n' 1 0 CapBnd:00000000a80425fb 12:34 2)" ]
}

@test "an ordinary user with a single id (SEC-I80)" {
	needs_root
	run as_user single 'echo $$; id -u; grep Seccomp: /proc/self/status | tr -d "\t"; wc -l </proc/self/uid_map'
	[ "$output" = "$(printf '%s\n' 1 0 Seccomp:2 1)" ]
}
