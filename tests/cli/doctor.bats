#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# mica doctor with one thing at a time taken away (SEC-I102): the line, the remedy, the rung and the exit status. What is taken
# away is so in a private mount namespace or under a filter of the test's own, so nothing of the machine changes.
# shellcheck disable=SC2016,SC2154  # scripts are for the shell inside; bats sets variables
bats_require_minimum_version 1.5.0
load common
load user

setup_file() {
	export MICA MICA_TEST_TOOLS
	unset MICA_ROOT MICA_DRIVER XDG_DATA_HOME XDG_RUNTIME_DIR XDG_CONFIG_HOME DOCKER_CONFIG REGISTRY_AUTH_FILE
	mkdir "$BATS_FILE_TMPDIR/rootfs" # as_user is not used: its image is not needed
	user_setup_file
	echo "micatest:300000:1000" >"$BATS_FILE_TMPDIR/user/few"
	install -m 644 "$MICA_TEST_TOOLS/refuse" "$BATS_FILE_TMPDIR/user/refuse"
	chmod 644 "$BATS_FILE_TMPDIR/user/few"
}

setup() {
	needs_root
	export MICA_ROOT="$BATS_TEST_TMPDIR/store"
	unset -f mica
}

# Runs a shell script as root in a mount namespace of its own, where 'doctor' is mica doctor.
private() {
	run timeout -s KILL 60 unshare -m bash -c 'mount --make-rprivate /; doctor() { "$MICA" doctor "$@"; }; eval "$1"' - "$1"
}

# as_plain_user IDS PREPARE [SCRIPT]: prepares as root in a mount namespace, then runs the script as a user with these
# subordinate ids: "ranges", "few", "single".
as_plain_user() {
	local user="$BATS_FILE_TMPDIR/user"
	rm -rf "${user:?}/home"
	install -d -o 4711 -g 4711 "$user/home"
	run timeout -s KILL 60 unshare -m bash -c '
		set -e
		mount --make-rprivate /
		mount --bind "$1/passwd" /etc/passwd
		for f in subuid subgid; do mount --bind "$1/$2" "/etc/$f"; done
		mount -t tmpfs -o mode=755 none /mnt
		mknod -m 666 /mnt/fuse c 10 229
		mount --bind /mnt/fuse /dev/fuse
		mount --bind "$1" /mnt
		cd /mnt/home
		as() { setpriv --reuid 4711 --regid 4711 --clear-groups --inh-caps=-all env -i PATH="/mnt:$PATH" HOME=/mnt/home "$@"; }
		eval "$3"
		as sh -c "$4"' - "$user" "$1" "$2" "${3:-mica doctor}"
}

# The line of a check and what stands below it, without columns.
check() {
	awk -v name="$1" '
		/^(ok|warn|fail) / { on = index(substr($0, 7), name "  ") == 1 }
		/^isolation/ { on = 0 }
		on { gsub(/ +/, " "); print }' <<<"$output"
}

verdict() {
	sed -n '/^isolation/,$p' <<<"$output" | tr -s ' '
}

# says NAME LINE [FIX]: a glob pattern each.
says() {
	local got line
	got=$(check "$1")
	line=$(head -n 1 <<<"$got")
	# shellcheck disable=SC2053  # patterns
	[[ $line == $2 ]] || { echo "$1: '$line' is not '$2'"; return 1; }
	if [ -n "${3-}" ]; then
		# shellcheck disable=SC2053
		[[ $(sed -n 2p <<<"$got") == " fix: "$3 ]] || { echo "$1: $got"; return 1; }
	fi
}

filter=' a system call filter of an outer container'
unconfined='run the outer container with --security-opt seccomp=unconfined*'

@test "as root everything works: rung 1, the kernel's driver (UX-70, UX-72)" {
	private doctor
	echo "$output"
	[ "$status" = 0 ]
	says kernel "ok kernel $(uname -r): $(uname -m)"
	says 'user namespaces' 'ok user namespaces allowed'
	says 'subordinate ids' 'ok subordinate ids not needed: root has all ids'
	says namespaces 'ok namespaces allowed: mnt pid ipc uts cgroup net time'
	says container 'ok container starts: with all namespaces and a filter (root)'
	says store "ok store ext4: $MICA_ROOT" || says store "* store *: $MICA_ROOT*"
	says 'store features' '* store features *O_TMPFILE*'
	says 'FUSE session' 'ok FUSE session protocol 7.*, libfuse 3.*parallel directory operations*1024 KiB requests*io_uring*'
	says clock "ok clock $(date -u +%Y-%m-%d)"
	[[ $(verdict) == 'isolation: root (rung 1 of 4) driver: '* ]]
}

@test "it is quick, and leaves nothing: no store, no mount, no process (UX-72)" {
	before=$(cat /proc/self/mountinfo)
	begun=$(date +%s%N)
	run -0 "$MICA" doctor --root "$BATS_TEST_TMPDIR/a/b/store"
	[ $((($(date +%s%N) - begun) / 1000000)) -lt 1000 ]
	[ "$(cat /proc/self/mountinfo)" = "$before" ]
	[ ! -e "$BATS_TEST_TMPDIR/a" ]
	for path in store a//b/; do
		(cd "$BATS_TEST_TMPDIR" && "$MICA" doctor --root "$path" >/dev/null)
	done
	[ -z "$(ls -A "$BATS_TEST_TMPDIR")" ]
	run ! pgrep -f 'fuse-serve.*counters='
	mkdir -m 700 "$MICA_ROOT"
	run -0 "$MICA" doctor
	[ -d "$MICA_ROOT" ]
	[ -z "$(ls -A "$MICA_ROOT")" ]
}

@test "--json has what the lines have (UX-72)" {
	private doctor
	table=$output
	run -0 --separate-stderr "$MICA" doctor --json
	jq -e '.schemaVersion == 1 and .rung == 1 and .isolation == "root" and (.driver | IN("kernel", "fuse")) and
		(.checks | map(keys == ["detail", "fix", "name", "status", "value"]) | all) and
		(.checks | map(.status | IN("ok", "warn", "fail")) | all)' <<<"$output"
	[ "$(jq -r '.checks[].name' <<<"$output")" = "$(sed -nE 's/^(ok|warn|fail) +(.{21}).*/\2/p' <<<"$table" | sed 's/ *$//')" ]
	run -2 "$MICA" doctor --format=xml
	[[ $output == *"unknown format 'xml': table or json"* ]]
}

@test "an ordinary user with ranges: rung 2, overlayfs over FUSE" {
	needs_user_namespaces
	as_plain_user ranges ''
	echo "$output"
	[ "$status" = 0 ]
	says privileges 'ok privileges uid 4711: an ordinary user'
	says 'subordinate ids' 'ok subordinate ids 65536 uids, 65536 gids: mapped by newuidmap and newgidmap'
	says '/dev/fuse' 'ok /dev/fuse mode 0666: opens and mounts'
	says overlayfs 'ok overlayfs writes: *does not rename directories of images (EXDEV)*hard links*--driver=fuse does all that'
	says 'FUSE session' 'ok FUSE session *without passthrough (*'
	[ "$(verdict)" = "$(printf '%s\n' 'isolation: user namespace with ranges of ids (rung 2 of 4) driver: fuse (and overlayfs in a user namespace for writes)' \
		' not root: uid 4711 is not root' \
		' not driver kernel: fsconfig(erofs, create): Operation not permitted')" ]
	as_plain_user ranges '' 'mica doctor >/dev/null; find . ; pgrep -u "$(id -u)" -f "[f]use-serve" || echo none'
	[ "$output" = "$(printf '.\nnone')" ]
}

@test "no subordinate ids: rung 3" {
	needs_user_namespaces
	as_plain_user single ''
	[ "$status" = 0 ]
	says 'subordinate ids' "warn subordinate ids single id: no entry for 'micatest' in /etc/subuid: only one uid can be mapped" \
		'usermod --add-subuids 100000-165535 --add-subgids 100000-165535 micatest # as root'
	[[ $(verdict) == 'isolation: single uid (rung 3 of 4) driver: fuse (and'* ]]
	[[ $(verdict) == *"not user namespace with ranges: no entry for 'micatest' in /etc/subuid"* ]]
}

@test "too few subordinate ids" {
	needs_user_namespaces
	as_plain_user few ''
	[ "$status" = 0 ]
	says 'subordinate ids' 'warn subordinate ids 1000 uids, 1000 gids: images whose files belong to other ids*' \
		'give the user a range of 65536*'
	[[ $(verdict) == *'(rung 2 of 4)'* ]]
}

@test "newuidmap that cannot work: no setuid bit, a nosuid mount, no_new_privs, missing" {
	needs_user_namespaces
	as_plain_user ranges 'cp "$(command -v newuidmap)" /mnt/plain; chmod 755 /mnt/plain; mount --bind /mnt/plain "$(command -v newuidmap)"'
	[ "$status" = 0 ]
	says 'subordinate ids' 'warn subordinate ids single id: */newuidmap is neither setuid nor has file capabilities' 'chmod u+s */newuidmap # as root'
	[[ $(verdict) == 'isolation: single uid (rung 3 of 4)'*'not user namespace with ranges: '*'/newuidmap is neither setuid'* ]]
	as_plain_user ranges 'p=$(command -v newgidmap); mount --bind "$p" "$p"; mount -o remount,bind,nosuid "$p"'
	says 'subordinate ids' 'warn subordinate ids single id: */newgidmap lies on a file system mounted nosuid' 'mount -o remount,suid *'
	[[ $(verdict) == *'(rung 3 of 4)'* ]]
	as_plain_user ranges '' 'setpriv --no-new-privs mica doctor'
	says privileges 'warn privileges uid 4711: an ordinary user; no_new_privs is set' 'start mica without no_new_privs*'
	says 'subordinate ids' 'warn subordinate ids single id: */newuidmap cannot gain its rights: no_new_privs is set' 'start mica without no_new_privs*'
	[[ $(verdict) == *'(rung 3 of 4)'* ]]
	as_plain_user ranges '' 'PATH=/mnt /mnt/mica doctor'
	says 'subordinate ids' 'warn subordinate ids single id: newuidmap is not installed' 'apt-get install uidmap # as root'
	says fusermount3 "warn fusermount3 missing: ordinary users cannot use 'mica mount'" 'apt-get install fuse3 # as root'
}

@test "user namespaces refused to a user: no rung, each switch is named (UX-44)" {
	needs_user_namespaces
	# By a filter
	as_plain_user ranges 'as() { python3 /mnt/refuse unshare=EPERM -- setpriv --reuid 4711 --regid 4711 --clear-groups env -i PATH="/mnt:$PATH" HOME=/mnt/home "$@"; }'
	echo "$output"
	[ "$status" = 125 ]
	says 'user namespaces' 'fail user namespaces refused: user namespaces are refused by a system call filter of an outer container' "$unconfined"
	says container 'fail container refused: user namespaces are refused by*' "see 'user namespaces' above"
	says '/dev/fuse' 'fail /dev/fuse mode 0666: *' "see 'user namespaces' above"
	[ "$(verdict | head -n 1)" = 'isolation: none driver: none' ]
	[[ $(verdict) == *'not single uid: user namespaces are refused by a system call filter'* ]]
	[[ $(verdict) == *"RUN and 'mica run' do not work here"* ]]
	# By the limit, and by the switch of Debian's kernels
	as_plain_user ranges 'as() { python3 /mnt/refuse unshare=ENOSPC -- setpriv --reuid 4711 --regid 4711 --clear-groups env -i PATH="/mnt:$PATH" HOME=/mnt/home "$@"; }
		echo 0 >/mnt/zero; mount --bind /mnt/zero /proc/sys/user/max_user_namespaces'
	[ "$status" = 125 ]
	says 'user namespaces' 'fail user namespaces refused: user namespaces are refused: user.max_user_namespaces is 0' \
		'sysctl -w user.max_user_namespaces=10000 # as root'
	as_plain_user ranges 'as() { python3 /mnt/refuse unshare=EPERM -- setpriv --reuid 4711 --regid 4711 --clear-groups env -i PATH="/mnt:$PATH" HOME=/mnt/home "$@"; }
		mount -t tmpfs none /proc/sys/kernel; echo 0 >/proc/sys/kernel/unprivileged_userns_clone'
	says 'user namespaces' 'fail user namespaces refused: user namespaces are refused: kernel.unprivileged_userns_clone is 0' \
		'sysctl -w kernel.unprivileged_userns_clone=1 # as root'
	as_plain_user ranges 'as() { python3 /mnt/refuse unshare=EPERM -- setpriv --reuid 4711 --regid 4711 --clear-groups env -i PATH="/mnt:$PATH" HOME=/mnt/home "$@"; }
		mount -t tmpfs none /proc/sys/kernel; echo 1 >/proc/sys/kernel/apparmor_restrict_unprivileged_userns' 'mica doctor; mica gc 2>&1'
	says 'user namespaces' 'fail user namespaces refused: user namespaces are refused: kernel.apparmor_restrict_unprivileged_userns is 1' \
		"give mica an AppArmor profile with 'userns,', or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 # as root"
	# Other verbs name the same blocker (UX-44).
	[[ $output == *'ERROR: user namespaces are refused: kernel.apparmor_restrict_unprivileged_userns is 1'*'try: give mica an AppArmor profile'* ]]
}

@test "namespaces that are used up, as a user" {
	needs_user_namespaces
	as_plain_user ranges '' 'unshare -Ur sh -c "echo 0 >/proc/sys/user/max_net_namespaces; mica doctor"'
	[ "$status" = 1 ]
	says namespaces 'warn namespaces refused: net (No space left on device); allowed: mnt pid ipc uts cgroup time' \
		'sysctl -w user.max_net_namespaces=10000 # as root'
}

@test "a masked /proc: no new one can be mounted (SEC-I83)" {
	needs_user_namespaces
	as_plain_user ranges 'mount -t tmpfs -o ro none /proc/tty; mount --bind /dev/null /proc/keys'
	echo "$output"
	[ "$status" != 0 ]
	says procfs 'fail procfs refused: a new /proc cannot be mounted: Operation not permitted; hidden by an outer container: /proc/tty, /proc/keys' \
		'give the outer container an unmasked /proc: --security-opt unmask=ALL*'
	says container "fail container refused: cannot mount proc '/proc': Operation not permitted" '*unmasked /proc*'
	[[ $(verdict) == *'not single uid: cannot mount proc'* ]]
}

@test "root whose container was not given all: filters of unshare, mount, clone3 and others: rung 4" {
	for call in unshare=EPERM mount=EPERM clone3=ENOSYS mount_setattr=EPERM move_mount=EPERM openat2=ENOSYS; do
		private "exec $MICA_TEST_TOOLS/refuse $call -- $MICA doctor"
		echo "$call: $output"
		[ "$status" = 1 ]
		says 'system calls' "fail system calls refused: ${call%=*} (*)" "$unconfined"
		says container 'fail container refused: cannot *' "$unconfined"
		[[ $(verdict) == 'isolation: chroot only (rung 4 of 4) driver: '*'not root: cannot '*"RUN and 'mica run' do not work here"* ]]
	done
	[ "$("$MICA_TEST_TOOLS/refuse" unshare=EPERM -- "$MICA" doctor --json | jq .rung)" = 4 ]
	# And what the doctor says of it, the verbs say (UX-44).
	"$MICA" import "$BATS_FILE_TMPDIR/rootfs" base >/dev/null
	run -125 "$MICA_TEST_TOOLS/refuse" move_mount=EPERM -- "$MICA" run base true
	[[ $output == *"ERROR: cannot prepare containers 'tmpfs': Operation not permitted"*'try: run the outer container with --security-opt seccomp=unconfined'* ]]
}

@test "a filter that kills: the check says so, the others go on" {
	private "exec $MICA_TEST_TOOLS/refuse unshare=KILL -- $MICA doctor"
	[ "$status" = 1 ]
	says 'user namespaces' "fail user namespaces killed: by signal 31 (Bad system call):$filter"
	says namespaces "fail namespaces killed: by signal 31 (Bad system call):$filter"
	says store '* store *'
	[[ $(verdict) == 'isolation: chroot only (rung 4 of 4)'* ]]
}

@test "root without CAP_SYS_ADMIN: as a user; without user namespaces and chroot too: nothing" {
	needs_user_namespaces
	private 'exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin "$MICA" doctor'
	echo "$output"
	[ "$status" = 0 ]
	says privileges 'ok privileges uid 0: no CAP_SYS_ADMIN: mica does as for a user'
	says 'EROFS files' 'ok EROFS files no: the kernel mounts them for root alone'
	[[ $(verdict) == 'isolation: '*' of 4) driver: fuse '*'not root: root without CAP_SYS_ADMIN'* ]]
	private 'exec "$MICA_TEST_TOOLS/refuse" unshare=EPERM -- setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin "$MICA" doctor'
	[ "$status" = 1 ]
	says 'user namespaces' "fail user namespaces refused: *by$filter" "$unconfined"
	[[ $(verdict) == 'isolation: chroot only (rung 4 of 4) driver: none'* ]]
	private 'exec "$MICA_TEST_TOOLS/refuse" unshare=EPERM -- setpriv --bounding-set=-sys_admin,-sys_chroot --inh-caps=-sys_admin,-sys_chroot "$MICA" doctor'
	[ "$status" = 125 ]
	[[ $(verdict) == 'isolation: none driver: none'* ]]
}

@test "root of a user namespace that is there already: containers work in it (SEC-I80)" {
	needs_user_namespaces
	"$MICA_TEST_TOOLS/make-busybox-base" "$BATS_TEST_TMPDIR/busybox"
	"$MICA" import "$BATS_TEST_TMPDIR/busybox" base >/dev/null
	run -0 "$MICA_TEST_TOOLS/in-user-namespace" "$MICA" doctor
	says 'subordinate ids' 'ok subordinate ids 65536 uids: of the user namespace around mica'
	[[ $(verdict) == *'(rung 2 of 4)'*'not root: root of a user namespace only'* ]]
	run -0 --separate-stderr "$MICA_TEST_TOOLS/in-user-namespace" "$MICA" run base sh -c 'touch /x; chown 5:6 /x; stat -c %u:%g /x'
	[ "$output" = 5:6 ]
	run -0 unshare -r "$MICA" doctor
	says 'subordinate ids' 'warn subordinate ids single id: the user namespace around mica has no other' 'run mica without one*'
	[[ $(verdict) == *'(rung 3 of 4)'* ]]
	run -0 --separate-stderr unshare -r "$MICA" run base id -u
	[ "$output" = 0 ]
}

@test "/dev/fuse of mode 0600, and missing (FS-308)" {
	needs_user_namespaces
	as_plain_user ranges 'chmod 600 /dev/fuse'
	[ "$status" = 0 ]
	says '/dev/fuse' 'fail /dev/fuse mode 0600: cannot be opened: Permission denied' 'chmod 0666 /dev/fuse # as root*'
	[[ $(verdict) == *'driver: none'*"not driver fuse: cannot open '/dev/fuse': Permission denied"*"RUN and 'mica run' do not work here"* ]]
	private 'mount -t tmpfs none /dev; for d in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 /dev/${d%:*} c 1 ${d#*:}; done
		mknod -m 666 /dev/tty c 5 0; doctor'
	[ "$status" = 0 ]
	says '/dev/fuse' 'fail /dev/fuse missing' 'modprobe fuse *--device /dev/fuse*device plugin*--driver=kernel as root'
	says 'FUSE session' "fail FUSE session none: cannot open '/dev/fuse': No such file or directory"
	says '/dev/kvm' 'ok /dev/kvm missing*'
	[[ $(verdict) == 'isolation: root (rung 1 of 4) driver: kernel '* ]]
}

@test "a store on overlayfs and on tmpfs: the driver follows (FS-102)" {
	private 'cd "$BATS_TEST_TMPDIR"; mkdir l u w m; mount -t overlay -o lowerdir=l,upperdir=u,workdir=w none m; doctor --root m/store'
	[ "$status" = 0 ]
	says store 'warn store overlayfs: m/store: overlayfs takes no upper on itself' 'put the store on a local ext4*'
	says overlayfs 'warn overlayfs refused: *not supported as upperdir*' 'put the store on a local ext4*'
	[[ $(verdict) == 'isolation: root (rung 1 of 4) driver: fuse (for writes too)'*'not driver kernel: '*'not overlayfs over fuse: '*'not supported as upperdir'* ]]
	private 'cd "$BATS_TEST_TMPDIR"; mount -t tmpfs none m; doctor --root m/store'
	says store 'warn store tmpfs: *'
	says 'EROFS files' 'warn EROFS files refused: fsconfig(erofs, create): Block device required' 'Linux 6.12*'
	[[ $(verdict) == *'driver: fuse (and overlayfs for writes)'*'not driver kernel: fsconfig(erofs, create)'* ]]
}

@test "a store that is open to others, foreign, read-only, too small" {
	mkdir -m 755 "$MICA_ROOT"
	private doctor
	says store "fail store open: '$MICA_ROOT' has mode 0755: others reach setuid files of images" "chmod 700 '$MICA_ROOT'"
	chmod 700 "$MICA_ROOT"
	chown 4711 "$MICA_ROOT"
	private doctor
	says store "fail store foreign: '$MICA_ROOT' belongs to uid 4711, not to us (uid 0)" '*--root DIR*'
	private 'mount -t tmpfs -o size=1m,mode=700 none "$MICA_ROOT"; doctor'
	says 'store space' 'warn store space 0.0 GB free: of 0.0 GB; * inodes' 'mica gc'
	private 'mount -t tmpfs -o ro,mode=700 none "$MICA_ROOT"; doctor'
	[ "$status" = 0 ]
	says 'store space' "fail store space read-only: '$MICA_ROOT'" 'choose another place*'
	[[ $(verdict) == *'driver: none'*'not driver kernel: cannot create a directory in the store: Read-only file system'* ]]
	needs_user_namespaces
	as_plain_user ranges '' 'mica doctor --root /root/store'
	says store "fail store unusable: cannot open the store '/root/store': Permission denied" '*--root DIR*'
}

@test "leftovers of killed builds, and a mount whose server was killed" {
	mkdir -m 700 "$MICA_ROOT"
	mkdir -p "$MICA_ROOT"/steps/0123 "$MICA_ROOT/.tmp-gc-1" "$MICA_ROOT/.tmp-partial-2"
	private doctor
	says leftovers 'warn leftovers found: 2 of killed commands in the store' 'mica gc'
	private 'cd "$BATS_TEST_TMPDIR"; mkdir l m; "$MICA" union -f -o lowerdir="$PWD/l" "$PWD/m" & server=$!
		until mountpoint -q m; do :; done
		kill -KILL $server; wait $server; doctor; umount m'
	says leftovers 'warn leftovers found: 1 mount without a server' "mica umount '$BATS_TEST_TMPDIR/m'"
}

@test "memory files, landlock, notifications" {
	private 'echo 2 >"$BATS_TEST_TMPDIR/two"; mount --bind "$BATS_TEST_TMPDIR/two" /proc/sys/vm/memfd_noexec
		exec "$MICA_TEST_TOOLS/refuse" memfd_create=EACCES -- "$MICA" doctor'
	[ "$status" = 1 ]
	says 'memory files' 'fail memory files refused: Permission denied: vm.memfd_noexec=2' 'sysctl -w vm.memfd_noexec=1 # as root'
	says container 'fail container refused: cannot make an executable memory file for the spawner: Permission denied'
	private 'exec "$MICA_TEST_TOOLS/refuse" landlock_create_ruleset=EOPNOTSUPP -- "$MICA" doctor'
	[ "$status" = 0 ]
	says landlock 'warn landlock absent: Operation not supported: not in the list of security modules' 'add landlock to lsm=*'
	private 'exec "$MICA_TEST_TOOLS/refuse" seccomp=ENOSYS -- "$MICA" doctor'
	says 'seccomp notification' 'warn seccomp notification absent: seccomp: Function not implemented' "$unconfined"
	private 'exec "$MICA_TEST_TOOLS/listen" "$MICA" doctor'
	says 'seccomp notification' 'warn seccomp notification refused: a filter with a listener: Device or resource busy, since there is one already*'
}

@test "credentials that others may read; a clock before 2020" {
	mkdir -p "$BATS_TEST_TMPDIR/home/.docker"
	echo '{}' >"$BATS_TEST_TMPDIR/home/.docker/config.json"
	private 'export HOME="$BATS_TEST_TMPDIR/home"; chmod 644 "$HOME/.docker/config.json"; doctor'
	says credentials "warn credentials exposed: '$BATS_TEST_TMPDIR/home/.docker/config.json' has mode 0644" \
		"chmod 600 '$BATS_TEST_TMPDIR/home/.docker/config.json'"
	private 'export HOME="$BATS_TEST_TMPDIR/home"; chmod 600 "$HOME/.docker/config.json"; doctor'
	says credentials 'ok credentials private: 1 file'
	cc -shared -fPIC -o "$BATS_TEST_TMPDIR/clock.so" -x c - <<-'END'
		long time(long *ret) { if (ret) *ret = 86400; return 86400; }
	END
	# A build with sanitizers wants to be the first library.
	private 'ASAN_OPTIONS=verify_asan_link_order=0 LD_PRELOAD="$BATS_TEST_TMPDIR/clock.so" doctor'
	says clock "fail clock 1970-01-02: before 2020: registries' certificates are not valid yet" 'timedatectl set-ntp true # as root'
}

@test "cgroups that are not ours" {
	needs_user_namespaces
	as_plain_user ranges ''
	says cgroups 'warn cgroups *not delegated to us: no limit can be enforced*' || says cgroups '* cgroups v2*'
	private 'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup && doctor'
	says cgroups '* cgroups v2: *'
}
