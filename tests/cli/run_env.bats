#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# What a RUN finds around it and what is left of it (RCP-274 to RCP-280, RCP-954 to RCP-965, RCP-970 to RCP-973).
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
}

@test "environment: ENV and ARG, PATH and HOME by default, nothing of the caller (RCP-274, RCP-954)" {
	dockerfile <<-'D'
		FROM base
		ARG GIVEN=default
		ARG UNSET
		ENV A=1 B=two HOME=/elsewhere
		RUN cat /proc/1/environ | tr '\0' '\n' | sort >/env; tty >/tty || true; readlink /proc/self/fd/0 >>/tty
		FROM base
		RUN echo "u:x:77:88::/home/u:/bin/sh" >>/etc/passwd
		USER u
		RUN tr '\0' '\n' </proc/1/environ | sort >/tmp/env
		USER 4242
		RUN echo $HOME >/tmp/home
	D
	LEAK=1 TERM=xterm HOSTNAME=h LC_ALL=C run -0 mica build --target 0 --build-arg GIVEN=arg -t env "$ctx"
	[ "$(mica cat env /env)" = $'A=1\nB=two\nGIVEN=arg\nHOME=/elsewhere\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' ]
	[ "$(mica cat env /tty)" = $'not a tty\n/dev/null' ]
	run -0 mica build -t env "$ctx"
	[ "$(mica cat env /tmp/env)" = $'HOME=/home/u\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' ]
	[ "$(mica cat env /tmp/home)" = / ]
}

@test "host name, session, umask, limits, whatever those of the caller (RCP-275, RCP-971)" {
	dockerfile <<-'D'
		FROM base
		RUN hostname >/host; ulimit -n >>/host; ulimit -c >>/host; umask >>/host; \
			awk '{ print ($5 == $6 && $5 == $1), $7 }' /proc/self/stat >>/host; : >/f; mkdir /d
	D
	for mask in 0000 0027 0077; do
		(umask $mask && ulimit -c 100 && mica build --no-cache -q -t masked "$ctx" >/dev/null)
		run -0 mica cat masked /host
		[ "${lines[0]}" = buildkitsandbox ]
		((lines[1] <= 65536))
		[ "${lines[2]}" = 0 ]
		[ "${lines[3]}" = 0022 ]
		[[ ${lines[4]} == *" 0" ]]
		[[ $(mica ls -l masked /f) == -rw-r--r--* ]]
		[[ $(mica ls -ld masked /d 2>/dev/null || mica ls -l masked / | grep ' d$') == drwxr-xr-x* ]]
	done
	run -0 mica build -q --hostname elsewhere -t masked "$ctx"
	[ "$(mica cat masked /host | head -1)" = elsewhere ]
	run -0 mica build -q --build-arg BUILDKIT_SANDBOX_HOSTNAME=by-arg -t masked "$ctx"
	[ "$(mica cat masked /host | head -1)" = by-arg ]
}

@test "USER row by row (RCP-277, RCP-961)" {
	needs_root
	dockerfile <<-'D'
		FROM base
		RUN printf 'root:x:0:0::/root:/bin/sh\nanna:x:1001:2001::/home/anna:/bin/sh\nbert:x:1002:2002::/:/bin/sh\n' >/etc/passwd
		RUN printf 'root:x:0:\nanna:x:2001:\nextra:x:3000:root,anna\nmore:x:3001:anna\n' >/etc/group && mkdir -m 777 /o
		RUN id -G >/o/1; id -u >>/o/1
		USER root
		RUN id -G >/o/2; id -u >>/o/2
		USER anna
		RUN id -G >/o/3; id -u >>/o/3
		USER 1001
		RUN id -G >/o/4; id -u >>/o/4
		USER 1234
		RUN id -G >/o/5; id -u >>/o/5
		USER anna:3001
		RUN id -G >/o/6; id -u >>/o/6
		USER 5:more
		RUN id -G >/o/7; id -u >>/o/7
		USER 7:8
		RUN id -G >/o/8; id -u >>/o/8
	D
	run -0 mica build -q -t users "$ctx"
	expected=("0 3000:0" "0 3000:0" "2001 3000 3001:1001" "2001 3000 3001:1001" "0:1234" "3001:1001" "3001:5" "8:7")
	for i in 1 2 3 4 5 6 7 8; do
		seen=$(mica cat users "/o/$i" | tr '\n' ':')
		[ "$(tr ' ' '\n' <<<"${seen%%:*}" | sort -n | tr '\n' ' ')" = "$(tr ' ' '\n' <<<"${expected[i - 1]%%:*}" | sort -n | tr '\n' ' ')" ]
		[ "$(cut -d: -f2 <<<"$seen")" = "${expected[i - 1]##*:}" ]
	done
	for user in nobody-here anna:nogroup 2147483648 99999999999; do
		printf 'FROM users\nUSER %s\nRUN true\n' "$user" | dockerfile
		run -125 mica build -q "$ctx"
		[[ $output == *"${user##*:}"* || $output == *"$user"* ]]
	done
}

@test "cwd is WORKDIR, made with the user's ownership when it is not there (RCP-955, RCP-973)" {
	needs_root
	dockerfile <<-'D'
		FROM base
		RUN mkdir /there && ln -s there /link && echo "u:x:77:88::/:/bin/sh" >>/etc/passwd
		USER u
		WORKDIR /a/b
		WORKDIR c
		RUN pwd >/tmp/pwd
		WORKDIR /link/x
		RUN pwd -P >/tmp/link
	D
	run -0 mica build -q -t workdir "$ctx"
	[ "$(mica cat workdir /tmp/pwd)" = /a/b/c ]
	[ "$(mica cat workdir /tmp/link)" = /there/x ]
	run -0 mica run workdir stat -c '%u:%g' /a /a/b /a/b/c /there/x /there
	[ "$output" = $'77:88\n77:88\n77:88\n77:88\n0:0' ]
}

@test "what is in the background is killed with the step and waited for (RCP-279, RCP-962)" {
	dockerfile <<-'D'
		FROM base
		RUN (trap '' TERM INT HUP; while :; do sleep 47.1123; done) & setsid sleep 47.1124 & nohup sleep 47.1125 >/dev/null 2>&1 & echo out
		RUN exec 1>&- 2>&-; sleep 0.2; : >/late
	D
	begun=$(date +%s)
	run -0 mica build -t background "$ctx"
	(($(date +%s) - begun < 20))
	run ! pgrep -f 'sleep 47.112'
	# A step that closes its output is waited for all the same.
	mica ls background /late
}

@test "a signal is told as one, an exit status is mica's, not found and not executable are 127 and 126 (RCP-279, UX-13)" {
	printf 'FROM base\nRUN echo up; exec sleep 29.7183\n' | dockerfile
	until pkill -KILL -fx 'sleep 29.7183'; do :; done 3>&- &
	run -137 mica build --progress=plain "$ctx"
	wait
	[[ $output == *'was killed by signal 9 (Killed)'* ]]
	printf 'FROM base\nRUN sh -c '"'"'kill -SEGV $$'"'"'; exit $?\n' | dockerfile
	run -139 mica build --progress=plain "$ctx"
	printf 'FROM base\nRUN ["/bin/sh", "-c", "exit 125"]\n' | dockerfile
	run -125 mica build --progress=plain "$ctx"
	[[ $output == *'exit code: 125'* ]]
	printf 'FROM base\nRUN ["/no/such/program"]\n' | dockerfile
	run -127 mica build "$ctx"
	printf 'FROM base\nRUN ["/etc"]\n' | dockerfile
	run -126 mica build "$ctx"
}

@test "hosts, resolv.conf, hostname come from outside and leave nothing (RCP-280, RCP-956, RCP-957)" {
	mkdir "$ctx/etc"
	ln -s /nowhere "$ctx/etc/resolv.conf"
	dockerfile <<-'D'
		FROM base
		RUN rm -rf /etc/hosts /etc/hostname 2>/dev/null; echo mine >/tmp/x
		COPY etc /etc
		RUN cat /etc/hosts >/hosts; grep -c . /etc/hostname >/dev/null; echo changed >>/etc/hosts 2>/dev/null; \
			rm -f /etc/hosts 2>/dev/null; mv /etc/hostname /etc/h2 2>/dev/null; true
	D
	run -0 mica build -q --add-host db:192.0.2.9 -t etc "$ctx"
	[[ $(mica cat etc /hosts) == $'127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n192.0.2.9\tdb' ]]
	run -0 mica ls etc /etc
	[[ $output == *resolv.conf* ]]
	run ! grep -qxE '(/etc/)?(hosts|hostname|h2)' <<<"$output"
	[[ $(mica ls -l etc /etc | grep resolv.conf) == l* ]]
}

@test "network none has loopback; host and insecure have to be allowed before anything runs (RCP-276, RCP-957, RCP-970)" {
	dockerfile <<-'D'
		FROM base
		RUN --network=none ip -o link | cut -d: -f2 | tr -d ' \n' >/links; ping -c1 -W1 localhost >/dev/null && echo ping >/ping
		RUN --network=host readlink /proc/self/ns/net >/ns
	D
	run -0 mica build -q -t network "$ctx"
	[[ $(mica cat network /links) == lo* ]]
	[ "$(mica cat network /ping)" = ping ]
	[ "$(mica cat network /ns)" = "$(readlink /proc/self/ns/net)" ]
	run -125 mica build --no-cache --progress=plain --network=none "$ctx"
	[[ $output == *"--allow network.host"* && $output != *'RUN --network=none'*DONE* ]]
	printf 'FROM base\nRUN echo ran-first >&2\nRUN --security=insecure true\n' | dockerfile
	run -125 mica build --progress=plain "$ctx"
	[[ $output == *"--allow security.insecure"* ]]
	[[ $output != *'] RUN echo ran-first'* ]]
}

@test "changes of every kind are in the layer, and only those (RCP-959, RCP-963, RCP-965, RCP-972)" {
	needs_root
	dockerfile <<-'D'
		FROM base
		RUN mkdir -p /d/e /o && echo x >/d/e/f && echo y >/g && echo z >/h && mkdir -p /run/r && ln /g /g2
		VOLUME /v /o
		RUN chmod 4711 /g && chown 5:6 /h && touch -d @1234567890 /d/e/f && mv /d /moved && ln /h /h2 && echo in-volume >/o/file
		RUN true
		RUN truncate -s 1M /hole && echo end >>/hole
	D
	run -0 mica build -q -t changes "$ctx"
	run -0 mica run changes sh -c 'stat -c "%a %u:%g %Y %h" /g /h | cut -d" " -f1,2,4; stat -c %Y /moved/e/f; ls /d 2>/dev/null; cat /o/file; ls -d /run/r; stat -c "%s" /hole; ls -d /v 2>/dev/null || echo no-volume'
	[ "$output" = $'4711 0:0 2\n644 5:6 2\n1234567890\nin-volume\n/run/r\n1048580\nno-volume' ]
	run -0 mica history --format json changes
}

@test "/dev, /proc and /sys as they should be; files of the image below /dev stay (RCP-958)" {
	dockerfile <<-'D'
		FROM base
		COPY f /dev/mine
		RUN ls /dev >/dev-list; df -k /dev/shm | awk 'END { print $2 }' >/shm; (: >/proc/sysrq-trigger) 2>/dev/null || echo ro >/ro; \
			(: >/sys/x) 2>/dev/null || echo ro >>/ro; head -c 3 /dev/zero | wc -c >>/ro
	D
	echo x >"$ctx/f"
	run -0 mica build -q -t devs "$ctx"
	for name in null zero full random urandom tty ptmx pts shm fd stdin stdout stderr; do
		mica cat devs /dev-list | grep -qx $name
	done
	[ "$(mica cat devs /shm)" = 65536 ]
	[ "$(mica cat devs /ro)" = $'ro\nro\n3' ]
	[ "$(mica cat devs /dev/mine)" = x ]
	[ "$(mica ls devs /dev | wc -l)" = 1 ]
}

@test "--keep-going runs what does not need the step that failed; --jobs auto holds a RUN back while memory is short (RCP-642, RCP-645)" {
	dockerfile <<-'D'
		FROM base AS bad
		RUN exit 8
		RUN echo never-""here
		FROM base AS good
		RUN echo built-""anyway
		FROM base
		COPY --from=bad / /x
		COPY --from=good / /y
	D
	run -8 mica build --no-cache --keep-going -j 1 --progress=plain "$ctx"
	[[ $output == *built-anyway* && $output != *never-here* ]]
	run -2 mica build -j many "$ctx"
	[[ $output == *"a number or auto"* ]]
	needs_root
	group=/sys/fs/cgroup/memory/mica-test-$$
	[ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ] || skip "no memory controller of version 1"
	dockerfile <<-'D'
		FROM base AS one
		RUN --mount=type=cache,target=/c mkdir /c/lock && sleep 0.6 && rmdir /c/lock
		FROM base AS two
		RUN --mount=type=cache,target=/c sleep 0.3; mkdir /c/lock && rmdir /c/lock
		FROM base
		COPY --from=one /bin/busybox /x
		COPY --from=two /bin/busybox /y
	D
	mkdir "$group"
	echo 400m >"$group/memory.limit_in_bytes"
	# Most of the group's memory is in use already: the second RUN waits for the first.
	run sh -c 'echo $$ >"$1/cgroup.procs"; mkdir "$3/full" && mount -t tmpfs none "$3/full" && head -c 345M /dev/zero >"$3/full/f"
		"$2" build --no-cache -q "$4"; s=$?; umount "$3/full"; exit $s' - "$group" "$MICA" "$BATS_TEST_TMPDIR" "$ctx"
	rmdir "$group"
	[ "$status" = 0 ]
}

@test "a canceled step may put things in order: SIGTERM first, to every process (RCP-642)" {
	dockerfile <<-'D'
		FROM base AS tidy
		RUN --mount=type=cache,target=/c,id=tidy trap 'echo tidied >/c/tidied; exit 0' TERM; : >/c/on; while :; do sleep 0.1; done
		FROM base AS bad
		RUN --mount=type=cache,target=/c,id=tidy while [ ! -e /c/on ]; do :; done; exit 4
		FROM base
		COPY --from=tidy / /x
		COPY --from=bad / /y
		FROM base AS look
		RUN --mount=type=cache,target=/c,id=tidy cat /c/tidied
	D
	run -4 mica build --no-cache -j 2 --target 2 "$ctx"
	run -0 mica build --no-cache --target look --progress=plain "$ctx"
	[[ $output == *tidied* ]]
}
