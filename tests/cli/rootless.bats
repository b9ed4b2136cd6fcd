#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# mica as an ordinary user, with subordinate ids and without (SEC-I80): everything that root can do, and the same bytes.
# shellcheck disable=SC2016,SC2154  # scripts are for the shell of the user; bats sets variables
bats_require_minimum_version 1.5.0
load common
load user

setup_file() {
	mica_setup_file
	user_setup_file
	mkdir "$BATS_FILE_TMPDIR/user/ctx"
	cd "$BATS_FILE_TMPDIR/user/ctx" || return 1
	echo content >file
	# what a single id is enough for: links, modes, renames, removals, a fifo, opaque directories
	cat >Dockerfile.plain <<-'END'
		FROM base AS one
		RUN mkdir -p /opt/x && echo a >/opt/x/a && ln /opt/x/a /opt/x/b && ln -s a /opt/x/c && chmod 4755 /opt/x/a
		COPY file /opt/x/f
		RUN mkfifo /opt/p && mv /opt/x /opt/y && touch -d @1000 /opt/y/f && chmod 1777 /opt && rm -r /opt/y/b
		FROM base
		COPY --from=one /opt /copy
		WORKDIR /w
		RUN cat /copy/y/f >g; truncate -s 100000 h; rm /copy/y/c && mkdir /copy/y/c && rm -rf /tmp && mkdir /tmp
	END
	cat >Dockerfile.owners <<-'END'
		FROM base
		RUN echo 'app:x:1000:1000::/home/app:/bin/sh' >>/etc/passwd && mkdir -p /home/app && touch /home/app/f
		RUN chown -R app:1000 /home/app && cp /etc/passwd /copy && chown 33:12 /copy && chmod 2750 /copy && chown 65535:65534 /etc/group
		COPY --chown=7:8 file /home/app/f2
		RUN chmod g+s /home/app && mv /home/app /home/b && su app -c 'echo x >/home/b/x'
		USER app
		RUN echo mine >/tmp/mine && id >/tmp/id
	END
	chmod -R a+rX .
}

# The layers of Dockerfile.$1 as root sees them, under the driver $2.
layers_of_root() {
	export MICA_ROOT="$BATS_TEST_TMPDIR/store.$2" SOURCE_DATE_EPOCH=1000000000
	mica import "$BATS_FILE_TMPDIR/user/base.tar" base >/dev/null
	mica build -q --driver "$2" -f "$BATS_FILE_TMPDIR/user/ctx/Dockerfile.$1" -t t "$BATS_FILE_TMPDIR/user/ctx" >/dev/null
	mica inspect t | jq -c '.[0].RootFS.Layers'
}

# The same as the user with ids $2.
layers_of_user() {
	as_user "$2" "mica build -q -f /mnt/ctx/Dockerfile.$1 -t t /mnt/ctx >/dev/null 2>&1; mica inspect t" |
		jq -c '.[0].RootFS.Layers'
}

@test "the same layers as root, under both drivers (SEC-I86, FS-103)" {
	needs_user_namespaces
	for recipe in plain owners; do
		expected=$(layers_of_root $recipe kernel)
		[ "$(jq length <<<"$expected")" -ge 4 ]
		[ "$(layers_of_root $recipe fuse)" = "$expected" ]
		[ "$(layers_of_user $recipe ranges)" = "$expected" ]
	done
}

@test "the same layers with a single id, where no owner changes (SEC-I86)" {
	needs_user_namespaces
	expected=$(layers_of_root plain kernel)
	[ "$(jq length <<<"$expected")" -ge 4 ]
	[ "$(layers_of_user plain single)" = "$expected" ]
}

@test "build, run, mount, fsck, gc (SEC-I80)" {
	needs_user_namespaces
	run --separate-stderr as_user ranges 'set -e
		mica build -q -f /mnt/ctx/Dockerfile.owners -t t /mnt/ctx >/dev/null
		mica run t cat /home/b/x
		mkdir at; mica mount t at >/dev/null
		stat -c "%u:%g %a" at/copy at/etc/group at/home/b/f2
		cat at/tmp/mine
		mica umount at; ls at
		mica fsck >/dev/null; mica gc >/dev/null
		mica build -q -f /mnt/ctx/Dockerfile.owners -t t /mnt/ctx >/dev/null
		mica rm t >/dev/null; mica gc >/dev/null; mica fsck >/dev/null
		ls .local/share/mica/steps | wc -l'
	echo "$output" "$stderr"
	[ "$status" = 0 ]
	[ "$output" = "$(printf '%s\n' x '33:12 2750' '65535:65534 644' '7:8 644' mine 0)" ]
	[[ $stderr != *WARNING* ]]
}

@test "a single id is told once, and what a chown meets (UX-44)" {
	needs_user_namespaces
	run ! --separate-stderr as_user single 'mica build -f /mnt/ctx/Dockerfile.owners --progress plain /mnt/ctx'
	[ "$(grep -c 'WARNING: only one id can be mapped' <<<"$stderr")" = 1 ]
	[[ $stderr == *"chown: Invalid argument"*"no range for 'micatest' in /etc/subuid and /etc/subgid"*usermod* ]]
	[[ $stderr == *"did not complete successfully"* ]]
}

@test "files of ids that are not mapped stay as they are: no layer with wrong owners (SEC-I86)" {
	needs_user_namespaces
	run ! as_user single 'cp /mnt/ctx/file file
		printf "FROM base\nCOPY --chown=1000 --chmod=666 file /f\nRUN stat -c %%u /f; echo more >>/f; chmod 600 /f\n" >Dockerfile
		mica build --progress plain .'
	[[ $output == *" 65534"*"/f: Permission denied"*"Value too large for defined data type"* ]]
	run --separate-stderr as_user single 'cp /mnt/ctx/file file
		printf "FROM base\nCOPY --chown=1000:7 file /f\nRUN touch /new\n" >Dockerfile
		mica build -q -t t . >/dev/null; mica ls -l t /f'
	[[ $output == *" 1000 "*" 7 "* ]]
}

@test "a user of the image that is not mapped is an error with the remedy" {
	needs_user_namespaces
	run ! as_user single 'mica run -u 1000 base true'
	[[ $output == *"cannot become the user"*"add a range to /etc/subuid and /etc/subgid"* ]]
}

@test "/dev/fuse that may not be opened: the error says what to do" {
	needs_user_namespaces
	for verb in 'build -f /mnt/ctx/Dockerfile.plain /mnt/ctx' 'run base true' 'mount base at'; do
		run ! as_user ranges "mkdir at; mica $verb" 600
		[[ $output == *"cannot open '/dev/fuse': Permission denied"*"try: chmod 0666 /dev/fuse"* ]]
	done
}
