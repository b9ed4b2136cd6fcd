#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# COPY, ADD and WORKDIR from the recipe to the mounted image.

load common

setup_file() {
	mica_setup_file
}

setup() {
	context
}

teardown() {
	if [ -n "${mounted:-}" ]; then mica umount "$mounted"; fi
	assert_clean
}

# The image as a directory, compared by an independent reader.
mounted_image() {
	mounted="$BATS_TEST_TMPDIR/mnt"
	mkdir -p "$mounted"
	mica mount "$1" "$mounted"
}

dump() {
	"$MICA_TEST_TOOLS/dumpdir" --no-root --no-nsec --skip-xattr user.overlay. --skip-xattr trusted.overlay. "$@"
}

@test "an odd tree arrives whole: names, modes, links, xattrs, devices (RCP-312, RCP-375, RCP-928)" {
	"$MICA_TEST_TOOLS/gendir" --seed 7 --entries 500 "$ctx/tree" 2>/dev/null
	printf 'FROM scratch\nCOPY tree /t\n' | mica build -t odd -f - "$ctx"
	mounted_image odd
	# Everything of a context belongs to root.
	diff <(dump --no-owner "$ctx/tree") <(dump --no-owner "$mounted/t")
	[ -z "$(find "$mounted/t" ! -uid 0 -o ! -gid 0)" ]
}

@test "the same tree from a stage, and from the context: one layer" {
	"$MICA_TEST_TOOLS/gendir" --seed 8 --entries 300 "$ctx/tree" 2>/dev/null
	dockerfile <<-'D'
		FROM scratch AS a
		COPY tree /somewhere/t
		FROM scratch AS b
		COPY --from=a /somewhere/t /t
		FROM scratch AS c
		COPY tree /t
	D
	mica build --target b -t b "$ctx"
	mica build --target c -t c "$ctx"
	[ "$(mica inspect b | jq -c '.[0].RootFS.Layers')" = "$(mica inspect c | jq -c '.[0].RootFS.Layers')" ]
}

@test "destinations: file, directory, slash, through links of the image (RCP-304, RCP-307)" {
	echo f >"$ctx/f"
	mkdir "$ctx/d" && echo x >"$ctx/d/x"
	dockerfile <<-'D'
		FROM base
		RUN mkdir -p /real/in && ln -s real /rel && ln -s /real/in /abs && ln -s /far/away /dangling
		COPY f /rel/one
		COPY f /abs/
		COPY d /abs
		COPY f /dangling
		COPY f /new/path/file
	D
	mica build -t dest "$ctx"
	run -0 mica ls -R dest /real
	for path in /real/one /real/in/f /real/in/x /far/away /new/path/file; do
		mica cat dest "$path" >/dev/null
	done
	[ "$(mica cat dest /rel/in/x)" = x ]
}

@test "what is missing: the pattern that hides it, or the nearest name (UX-42)" {
	mkdir "$ctx/src" && echo x >"$ctx/src/main.c"
	printf '# comment\nsrc/*.c\n' >"$ctx/.dockerignore"
	printf 'FROM scratch\nCOPY src/main.c /\n' | dockerfile
	run ! mica build "$ctx"
	[[ $output == *'"/src/main.c": not found'* ]]
	[[ $output == *".dockerignore:2: 'src/*.c' excludes 'src/main.c'"* ]]
	rm "$ctx/.dockerignore"
	printf 'FROM scratch\nCOPY src/main.h /\n' | dockerfile
	run ! mica build "$ctx"
	[[ $output == *'"/src/main.h": not found'* ]]
	[[ $output == *"did you mean 'src/main.c'?"* ]]
}

@test "a link to nothing is an error behind a wildcard too; a name that is not there is none (RCP-302, RCP-310)" {
	context
	mkdir -p "$ctx/one/in" "$ctx/two/in"
	echo x >"$ctx/one/in/other"
	dockerfile <<<$'FROM scratch\nCOPY */in/name /d/\nCOPY one/*/name /d/'
	run -0 mica build -t nothing "$ctx"
	ln -s nowhere "$ctx/two/in/name"
	run ! mica build -t nothing "$ctx"
	[[ $output == *'"/two/in/name": not found'* ]]
}

@test "directory over link, link over directory, file over directory refused (RCP-307, RCP-939)" {
	mkdir -p "$ctx/one/n" "$ctx/two" && echo x >"$ctx/one/n/x" && ln -s /elsewhere "$ctx/two/n"
	dockerfile <<-'D'
		FROM base
		RUN mkdir -p /a /elsewhere && echo old >/elsewhere/old && ln -s /elsewhere /a/n && mkdir -p /b/n && touch /b/n/old
		COPY one /a
		COPY two /b
	D
	mica build -t conflict "$ctx"
	mounted_image conflict
	[ -d "$mounted/a/n" ] && [ ! -L "$mounted/a/n" ] && [ "$(ls "$mounted/a/n")" = x ]
	[ "$(readlink "$mounted/b/n")" = /elsewhere ]
	[ "$(ls "$mounted/elsewhere")" = old ]
	printf 'FROM base\nRUN mkdir -p /c/x\nCOPY one/n /c\n' | dockerfile
	run ! mica build "$ctx"
	[[ $output == *"'/c/x'"* ]]
}

@test "--chmod, --chown, --parents, --exclude, --link, heredocs in one recipe (RCP-309 to RCP-315, RCP-167)" {
	mkdir -p "$ctx/s/a/b" && echo 1 >"$ctx/s/a/b/keep" && echo 2 >"$ctx/s/a/b/drop.log"
	chmod 640 "$ctx/s/a/b/keep"
	dockerfile <<-'D'
		FROM base
		RUN echo 'app:x:1234:1234::/:/bin/sh' >>/etc/passwd && echo 'app:x:1234:' >>/etc/group
		COPY --chown=app:app --chmod=u=rwX,go= s /owned
		COPY --parents --exclude=**/*.log s/./a /parents/
		COPY --link s/a/b/keep /linked/
		COPY --chmod=755 <<one <<two /here/
		first
		one
		second
		two
	D
	mica build -t flags "$ctx"
	mounted_image flags
	[ "$(stat -c '%a %u' "$mounted/owned/a/b/keep")" = "600 1234" ]
	[ "$(stat -c '%a %u' "$mounted/owned/a")" = "700 1234" ]
	[ "$(cd "$mounted/parents" && find . | sort | tr '\n' ' ')" = ". ./a ./a/b ./a/b/keep " ]
	[ "$(stat -c '%a %u' "$mounted/linked/keep")" = "640 0" ]
	[ "$(stat -c '%a' "$mounted/here/one")" = 755 ]
	[ "$(cat "$mounted/here/one" "$mounted/here/two")" = $'first\nsecond' ]
}

@test "ADD unpacks a local archive and nothing leaves the destination (RCP-331 to RCP-333)" {
	mkdir "$ctx/t" && echo 1 >"$ctx/t/f" && ln "$ctx/t/f" "$ctx/t/g" && chmod 4755 "$ctx/t/f"
	tar -C "$ctx/t" --owner=5 --group=6 -czf "$ctx/a.tgz" .
	python3 - "$ctx/evil.tar" <<-'P'
		import io, sys, tarfile
		with tarfile.open(sys.argv[1], "w") as tar:
		    link = tarfile.TarInfo("l"); link.type = tarfile.SYMTYPE; link.linkname = "/etc"
		    tar.addfile(link)
		    file = tarfile.TarInfo("l/passwd"); file.size = 4
		    tar.addfile(file, io.BytesIO(b"evil"))
	P
	printf 'FROM scratch\nADD a.tgz /to\n' | dockerfile
	mica build -t added "$ctx"
	mounted_image added
	[ "$(stat -c '%a %u %g %h' "$mounted/to/f")" = "4755 5 6 2" ]
	printf 'FROM base\nADD evil.tar /to\n' | dockerfile
	run ! mica build "$ctx"
	[[ $output == *"leads out of the destination"* ]]
}

@test "a changed byte with the old size and time is seen; an unchanged context executes nothing (RCP-608)" {
	mkdir "$ctx/d" && echo one >"$ctx/d/f" && touch -d @1000000 "$ctx/d/f"
	printf 'FROM scratch\nCOPY d /d\n' | dockerfile
	mica build -t stat "$ctx"
	run -0 --separate-stderr mica build --progress=plain -t stat "$ctx"
	[[ $stderr == *CACHED* ]]
	echo two >"$ctx/d/f" && touch -d @1000000 "$ctx/d/f"
	mica build -t stat "$ctx"
	[ "$(mica cat stat /d/f)" = two ]
}

@test "times: what is made is 1980-01-02 or SOURCE_DATE_EPOCH, what exists stays (RCP-563, RCP-564)" {
	echo x >"$ctx/f" && touch -d @1600000000 "$ctx/f"
	dockerfile <<-'D'
		FROM base
		WORKDIR /made/deep
		COPY f .
		COPY f /usr/new/
	D
	before=$(mica ls -ld base /usr 2>/dev/null || true)
	mica build -t times "$ctx"
	mounted_image times
	[ "$(stat -c %Y "$mounted/made" "$mounted/made/deep" "$mounted/usr/new" | sort -u)" = 315619200 ]
	[ "$(stat -c %Y "$mounted/made/deep/f")" = 1600000000 ]
	[ "$(mica ls -ld times /usr 2>/dev/null || true)" = "$before" ]
}
