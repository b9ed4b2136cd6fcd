#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# What a RUN may use: control groups, ulimits, /dev/shm, capabilities, names of hosts (RCP-509, RCP-519, RCP-528, SEC-I50 to SEC-I54).
# shellcheck disable=SC2154,SC2016  # ctx is made by context; scripts are for the shell inside

load common

setup_file() {
	mica_setup_file
}

setup() {
	context
}

teardown() {
	assert_clean
	[ -z "$(find /sys/fs/cgroup -maxdepth 4 -name 'mica-*')" ]
}

# Limits are files of version 1 or 2, whichever has the controller here; another unit test has a tree of either.
needs_controller() {
	needs_root
	grep -qE "^$1[[:space:]].*1$" /proc/cgroups || skip "the kernel has no $1 controller"
	find /sys/fs/cgroup -maxdepth 3 -name "$2" -o -maxdepth 3 -name "$3" | grep -q . || skip "no $1 controller is mounted"
}

@test "--memory: what needs more is killed, the message says it with the limit, 137 (RCP-279, UX-13, SEC-I54)" {
	needs_controller memory memory.limit_in_bytes memory.max
	printf 'FROM base\nRUN echo before; tail /dev/zero\n' | dockerfile
	run -137 mica build --progress=plain --memory 32m "$ctx"
	[[ $output == *'killed: out of memory (limit 32MiB)'* ]]
	# A shell that goes on has its own status, and the reason is still told.
	printf 'FROM base\nRUN (tail /dev/zero); exit 3\n' | dockerfile
	run -3 mica build --progress=plain --memory 32m --memory-swap 32m "$ctx"
	[[ $output == *'killed: out of memory (limit 32MiB)'* ]]
	run -137 mica run --memory 32m base tail /dev/zero
	[[ $output == *'killed: out of memory (limit 32MiB)'* ]]
}

@test "a limit around mica is told as one too (RCP-279)" {
	needs_root
	group=/sys/fs/cgroup/memory/micatest-$$
	[ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ] || skip "no memory controller of version 1"
	printf 'FROM base\nRUN exec tail /dev/zero\n' | dockerfile
	mkdir "$group"
	echo 128m >"$group/memory.limit_in_bytes"
	run sh -c 'echo $$ >"$1/cgroup.procs"; exec "$2" build --progress=plain "$3"' - "$group" "$MICA" "$ctx"
	rmdir "$group"
	[ "$status" = 137 ]
	[[ $output == *'killed: out of memory (limit 128MiB)'* ]]
}

@test "each RUN has a group of its own; the limits are in its files (RCP-519, SEC-I53)" {
	needs_controller cpuset cpuset.cpus cpuset.cpus
	needs_controller pids pids.max pids.max
	printf '%s\n' 'FROM base' 'RUN grep ^Cpus_allowed_list /proc/self/status | tr -d "\t" >/cpus' \
		'RUN for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 0.2 & done; wait' | dockerfile
	run -2 mica build --progress=plain --cpuset-cpus 1 --pids-limit 8 -t limited "$ctx"
	[[ $output == *"can't fork"* ]]
	run -0 mica build --progress=plain --cpuset-cpus 1 --pids-limit 20 -t limited "$ctx"
	[ "$(mica cat limited /cpus)" = Cpus_allowed_list:1 ]
	# No such limit is in the key.
	run -0 mica build --progress=plain -t limited "$ctx"
	[ "$(grep -c CACHED <<<"$output")" = 2 ]
}

@test "--cpus is a quota that the kernel keeps" {
	needs_controller cpu cpu.cfs_quota_us cpu.max
	# Hundredths of a second of its own and of the world; however busy the machine is, it gets no more than its share.
	run -0 mica run --cpus 0.2 base sh -c 'read -r a _ </proc/uptime; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done
		read -r b _ </proc/uptime; set -- $(cat /proc/$$/stat); echo $(($14 + $15)) ${a%.*}${a#*.} ${b%.*}${b#*.}'
	read -r own begun end <<<"$output"
	((own > 5))
	((own * 10 < (end - begun) * 4))
}

@test "a limit that the kernel refuses is refused before anything runs; best effort warns (RCP-519, SEC-I51)" {
	needs_controller cpuset cpuset.cpus cpuset.cpus
	printf 'FROM base\nRUN echo it-""happened\n' | dockerfile
	run -125 mica build --progress=plain --cpuset-cpus 4000 "$ctx"
	[[ $output == *"--cpuset-cpus cannot be applied"*"4000"* ]]
	[[ $output != *it-happened* ]]
	run -0 mica build --progress=plain --cpuset-cpus 4000 --best-effort-limits "$ctx"
	[[ $output == *"WARNING: --cpuset-cpus cannot be applied"* ]]
	[[ $output == *it-happened* ]]
}

@test "where there are no groups a limit is refused with the reason" {
	needs_root
	run timeout 20 unshare -m sh -c 'umount -R /sys/fs/cgroup && "$@"' - "$MICA" run --memory 64m base true
	[ "$status" = 125 ]
	[[ $output == *"--memory cannot be applied: there is no control group 'memory' here"* ]]
	run timeout 20 unshare -m sh -c 'umount -R /sys/fs/cgroup && "$@"' - "$MICA" run --memory 64m --best-effort-limits base echo fine
	[ "$status" = 0 ]
	[[ $output == *WARNING*fine ]]
}

@test "--cgroup-parent: the group lies below it and both are gone afterwards" {
	needs_controller pids pids.max pids.max
	mkfifo "$BATS_TEST_TMPDIR/go" "$BATS_TEST_TMPDIR/end" # a pipe each: one could be opened again before it was closed
	timeout 20 "$MICA" run --cgroup-parent micatest/below --pids-limit 50 -v "$BATS_TEST_TMPDIR:/t" base sh -c 'read x </t/go; read x </t/end' 3>&- &
	local pid=$!
	timeout 20 sh -c 'echo >"$1"' - "$BATS_TEST_TMPDIR/go"
	find /sys/fs/cgroup -path '*micatest/below/mica-*' -name cgroup.procs | grep -q pids
	timeout 20 sh -c 'echo >"$1"' - "$BATS_TEST_TMPDIR/end"
	wait $pid
	[ -z "$(find /sys/fs/cgroup -name micatest)" ]
}

@test "groups of a killed mica go with the next one (kill -9)" {
	needs_controller pids pids.max pids.max
	mkfifo "$BATS_TEST_TMPDIR/started"
	"$MICA" run --pids-limit 50 -v "$BATS_TEST_TMPDIR:/t" base sh -c 'echo >/t/started; sleep 1000' 3>&- &
	local pid=$!
	read -r _ <"$BATS_TEST_TMPDIR/started"
	kill -9 $pid
	wait $pid || true
	[ -n "$(find /sys/fs/cgroup -maxdepth 4 -name 'mica-*')" ]
	run -0 mica run --pids-limit 50 base true
	rm -rf "$MICA_ROOT"/steps/* # the step of the killed one waits for its own clean-up
}

@test "--ulimit, --shm-size: what the command sees, and they are in the key (RCP-606, RCP-971)" {
	needs_root
	printf 'FROM base\nRUN (ulimit -n; ulimit -Hn; df -k /dev/shm | tail -1 | tr -s " " | cut -d" " -f2) >/seen\n' | dockerfile
	run -0 mica build --progress=plain --ulimit nofile=100:200 --shm-size 1m -t seen "$ctx"
	[ "$(mica cat seen /seen | tr '\n' ' ')" = "100 200 1024 " ]
	run -0 mica build --progress=plain --ulimit nofile=100:300 --shm-size 1m -t seen "$ctx"
	[ "$(mica cat seen /seen | tr '\n' ' ')" = "100 300 1024 " ]
	run -0 mica build --progress=plain -t seen "$ctx"
	[ "$(mica cat seen /seen | sed '2d' | tr '\n' ' ')" = "1024 65536 " ]
}

@test "values that make no sense are a matter of usage, with what would" {
	printf 'FROM base\n' | dockerfile
	run -2 mica build --memory lots "$ctx"
	[[ $output == *"bad value 'lots' for --memory"* ]]
	run -2 mica build --memory 1m "$ctx"
	[[ $output == *"less than 6m"* ]]
	run -2 mica build --memory 64m --memory-swap 32m "$ctx"
	[[ $output == *"not less than --memory"* ]]
	run -2 mica build --cpus 1 --cpu-quota 5000 "$ctx"
	run -2 mica build --cpu-period 10 "$ctx"
	[[ $output == *"1000 to 1000000"* ]]
	run -2 mica build --ulimit files=3 "$ctx"
	[[ $output == *"unknown limit 'files'"* ]]
	run -2 mica build --ulimit nofile=9:3 "$ctx"
	run -2 mica build --resource memory=64m,speed=9 "$ctx"
	[[ $output == *"unknown resource 'speed'"* ]]
	run -2 mica build --cgroup-parent ../x "$ctx"
	run -2 mica build --cap-add FLY "$ctx"
	[[ $output == *"unknown capability 'FLY'"* ]]
	run -2 mica build --cap-add SYS_ADMIN "$ctx"
	[[ $output == *"--allow security.insecure"* ]]
}

@test "--resource is another way to say the same" {
	needs_controller memory memory.limit_in_bytes memory.max
	run -137 mica run --resource memory=32m,memory-swap=32m base tail /dev/zero
	[[ $output == *'out of memory (limit 32MiB)'* ]]
}

@test "--cap-drop, --cap-add, no-new-privileges (SEC-I20, SEC-I21)" {
	needs_root
	run -0 mica run --cap-drop ALL base grep -E '^Cap(Eff|Bnd)' /proc/self/status
	[ "$(tr -d '\t' <<<"$output")" = $'CapEff:0000000000000000\nCapBnd:0000000000000000' ]
	run -0 mica run --cap-drop ALL --cap-add CAP_CHOWN --cap-add kill base grep ^CapEff /proc/self/status
	[ "$(tr -d '\t' <<<"$output")" = CapEff:0000000000000021 ]
	run -0 mica run --security-opt no-new-privileges base grep ^NoNewPrivs /proc/self/status
	[ "$(tr -d '\t' <<<"$output")" = NoNewPrivs:1 ]
	run -0 mica run --security-opt seccomp=unconfined base grep ^Seccomp: /proc/self/status
	[ "$(tr -d '\t' <<<"$output")" = Seccomp:0 ]
	run -125 mica run --security-opt seccomp=/profile.json base true
	[[ $output == *"profiles from files are not supported"* ]]
}

@test "--dns, --dns-search, --dns-option, --add-host with host-gateway (RCP-509)" {
	needs_root
	run -0 mica run --dns 192.0.2.7 --dns 2001:db8::1 --dns-search example.org --dns-option ndots:2 base cat /etc/resolv.conf
	[ "$output" = $'nameserver 192.0.2.7\nnameserver 2001:db8::1\nsearch example.org\noptions ndots:2' ]
	run -0 mica run --add-host gate:host-gateway --add-host six=2001:db8::2 base cat /etc/hosts
	[[ $output == *$'127.0.0.1\tgate'* ]]
	[[ $output == *$'2001:db8::2\tsix'* ]]
	run -2 mica run --add-host nonsense base true
	run -2 mica run --dns example.org base true
	# Addresses are not in the key, names are (RCP-606).
	printf 'FROM base\nRUN cat /etc/hosts\n' | dockerfile
	run -0 mica build --progress=plain --add-host one:192.0.2.1 "$ctx"
	run -0 mica build --progress=plain --add-host one:192.0.2.2 "$ctx"
	[[ $output == *CACHED* ]]
	run -0 mica build --progress=plain --add-host two:192.0.2.2 "$ctx"
	[[ $output != *CACHED* ]]
}
