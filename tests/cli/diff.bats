#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# diff, snapshot, layer: trees compared in every pairing of kinds (UX-85, FS-913), layers of foreign uppers (FS-901), single
# layers applied and verified, hostile ones too (SEC-X).

load common

setup_file() {
	mica_setup_file
	dir="$BATS_FILE_TMPDIR"
	"$MICA_TEST_TOOLS/gendir" --seed 7 --entries 300 "$dir/tree"
	rm -rf "$dir"/tree/*wh* # not everything that can be a name can be one in a layer
	mkdir "$dir/ctx"
	echo changed >"$dir/ctx/hosts"
	echo new >"$dir/ctx/new"
	printf 'FROM base\nCOPY hosts new /etc/\n' >"$dir/ctx/Dockerfile"
	"$MICA" build -q -t app "$dir/ctx" >/dev/null
	"$MICA" export app -o "$dir/app.tar"
	"$MICA" export base -o "$dir/base.tar"
	mkdir "$dir/app"
	tar -C "$dir/app" -xpf "$dir/app.tar" --numeric-owner --xattrs --xattrs-include='*'
}

# A writable overlay over $lower in ./o, if this machine has it.
overlay() {
	needs_root
	mkdir -p o/{upper,work,merged,ram}
	mount -t tmpfs tmpfs o/ram || skip "cannot mount"
	mkdir o/ram/upper o/ram/work
	mount -t overlay overlay -o "lowerdir=$1,upperdir=$PWD/o/ram/upper,workdir=$PWD/o/ram/work,$2" o/merged || {
		umount o/ram
		skip "no overlayfs"
	}
}

teardown() {
	umount -q "$BATS_TEST_TMPDIR/o/merged" || true
	umount -q "$BATS_TEST_TMPDIR/o/ram" || true
}

dump() {
	"$MICA_TEST_TOOLS/dumpdir" "$@"
}

@test "diff: every kind with every kind says the same" {
	needs_root
	cd "$BATS_FILE_TMPDIR"
	zstd -q -k -f app.tar
	gzip -k -f app.tar
	for kind in app "dir:$PWD/app" "$PWD/app" tar:app.tar "$PWD/app.tar.gz" "$PWD/app.tar.zst"; do
		run -0 mica diff app "$kind"
		[ -z "$output" ]
		run -0 mica diff "$kind" app
		run -1 mica diff base "$kind"
		[ "$output" = "$(mica diff base app)" ]
		[[ $output == *" /etc/new" ]]
	done
}

@test "diff: letters, sizes, counts, the document; exit statuses" {
	mkdir "$BATS_TEST_TMPDIR/"{a,b}
	cd "$BATS_TEST_TMPDIR"
	echo one >a/content && echo other >b/content
	echo same >a/mode && echo same >b/mode && chmod 600 b/mode
	ln -s x a/link && ln -s y b/link
	echo old >a/type && mkdir b/type && echo below >b/type/file
	echo moved away >a/before && echo moved away >b/after
	touch -d @1 a/time b && touch -d @2 b/time
	run -1 mica diff --no-renames ./a ./b
	[ "$output" = "$(printf '%s\n' 'A - - 11 /after' 'D - 11 - /before' 'M content 4 6 /content' 'M link - - /link' \
		'M mode 5 5 /mode' 'T - 4 - /type' 'A - - 6 /type/file')" ]
	run -1 mica diff --mtime ./a ./b
	[[ $output == *"R mtime 11 11 /before -> /after"* || $output == *"R - 11 11 /before -> /after"* ]]
	[[ $output == *"M mtime 0 0 /time"* ]]
	run -1 mica diff --json ./a ./b
	[ "$(jq -r '.schemaVersion, (.entries | length), .summary.renamed, .summary.modified' <<<"$output" | xargs)" = "1 6 1 3" ]
	[ "$(jq -r '.entries[] | select(.change == "R") | .oldPath, .path' <<<"$output" | xargs)" = "/before /after" ]
	run -1 mica diff --stat --no-renames ./a ./b
	[[ $output == *"3 modified"* && $output == *"17 bytes added"* ]]
	run -0 mica diff --json ./a ./a
	[ "$(jq '.entries | length' <<<"$output")" = 0 ]
	run -125 mica diff ./a none-such
	[[ $output == *none-such* ]]
	run -125 mica diff dir:none ./a
	[[ $output == *"cannot open directory 'none'"* ]]
	run -2 mica diff ./a
}

@test "diff: layers by digest, in full and in short; no store is needed for files" {
	layer=$(mica inspect app | jq -r '.[0].RootFS.Layers[1]')
	run -0 mica diff "$layer" "layer:${layer:7:8}"
	run -1 mica diff "$(mica inspect base | jq -r '.[0].RootFS.Layers[0]')" "$layer"
	run -125 mica diff layer:00000000 "$layer"
	[[ $output == *"no layer '00000000'"* ]]
	run -1 mica diff --root "$BATS_TEST_TMPDIR/none" "$BATS_FILE_TMPDIR/base.tar" "$BATS_FILE_TMPDIR/app.tar"
	[ ! -e "$BATS_TEST_TMPDIR/none" ]
}

@test "snapshot: GNU tar over the lower gives what the kernel shows (FS-1253)" {
	cd "$BATS_TEST_TMPDIR"
	cp -a "$BATS_FILE_TMPDIR/app" lower
	overlay "$PWD/lower" redirect_dir=off,index=off,metacopy=off
	rm -r o/merged/etc o/merged/bin/sh
	mkdir o/merged/etc o/merged/fresh
	echo hello >o/merged/etc/hello
	echo more >>o/merged/bin/busybox
	chmod 700 o/merged/tmp
	ln -s nowhere o/merged/fresh/link
	ln o/merged/etc/hello o/merged/fresh/hard
	sync
	run -0 mica snapshot lower o/ram/upper -o layer.tar
	[ "${lines[0]}" = "diff_id sha256:$(sha256sum layer.tar | cut -d' ' -f1)" ]
	for file in layer.tar.gz layer.tar.zst; do
		run -0 mica snapshot --json lower o/ram/upper -o $file
		[ "$(jq -r .blob <<<"$output")" = "sha256:$(sha256sum $file | cut -d' ' -f1)" ]
		[ "$(jq -r .diffId <<<"$output")" = "sha256:$(sha256sum layer.tar | cut -d' ' -f1)" ]
	done
	cmp <(mica snapshot lower o/ram/upper -o - 2>/dev/null) layer.tar
	[ -z "$(find . -maxdepth 1 -name '.tmp-*')" ]

	# A root that differs in its time alone has no entry, so that is not compared.
	dump_below() { dump --no-nsec "$1" | tail -n +2; }
	# By GNU tar and whiteouts: marks first, then the files.
	cp -a lower gnu
	tar -tf layer.tar | while read -r name; do
		case ${name##*/} in
		.wh..wh..opq) find "gnu/${name%/*}" -mindepth 1 -delete ;;
		.wh.*) rm -rf "gnu/$(dirname "$name")/${name##*/.wh.}" ;;
		esac
	done
	tar -C gnu -xpf layer.tar --numeric-owner --xattrs --xattrs-include='*' --exclude='.wh.*'
	diff <(dump_below gnu) <(dump_below o/merged)

	# And by us.
	cp -a lower ours
	mica layer apply layer.tar.gz ours
	diff <(dump_below ours) <(dump_below o/merged)
	run -0 mica diff ./ours ./gnu
}

@test "snapshot: over an image, over a list of directories, of nothing; errors leave nothing" {
	needs_root
	cd "$BATS_TEST_TMPDIR"
	mkdir -p l1/d l2/d upper/d
	echo 1 >l1/d/one
	echo 2 >l2/d/two
	echo 3 >upper/d/three
	mica snapshot l2:l1 upper -o a.tar >/dev/null
	[ "$(tar -tf a.tar | xargs)" = "d/ d/three" ]
	mica snapshot app upper -o b.tar >/dev/null
	[[ $(tar -tf b.tar | xargs) == *d/three* ]]
	mkdir empty
	chmod --reference=l1 empty
	touch -r l1 empty
	run -0 mica snapshot l1 empty -o c.tar
	[ "$(stat -c %s c.tar)" = 1024 ]
	echo x >upper/.wh.x
	run -125 mica snapshot l1 upper -o d.tar
	[[ $output == *"'.wh.' marks what was removed"* ]]
	[ ! -e d.tar ]
	run -2 mica snapshot l1 upper
	[[ $output == *"use -o FILE"* ]]
	run -125 mica snapshot l1:none upper -o d.tar
	run -125 mica snapshot "$PWD/nonexist" upper -o d.tar
	[[ $output == *"no such directory '$PWD/nonexist'"* ]]
	run -125 mica snapshot l1:./nonexist upper -o d.tar
	[[ $output == *"no such directory './nonexist'"* ]]
	[ -z "$(find . -maxdepth 1 -name '.tmp-*')" ]
	rm upper/.wh.x
	mkdir room
	mica snapshot --work-dir room l2:l1 upper -o e.tar >/dev/null
	cmp a.tar e.tar
	[ -z "$(ls room)" ]
	run -125 mica snapshot --work-dir nowhere l2:l1 upper -o f.tar
	[[ $output == *"cannot make a directory in 'nowhere'"* ]]
}

@test "layer index and verify: what belongs together, and what does not" {
	cd "$BATS_TEST_TMPDIR"
	tar -C "$BATS_FILE_TMPDIR/tree" -cf t.tar .
	gzip -k t.tar
	run -0 mica layer index t.tar -o t.erofs
	[[ $output == "sha256:$(sha256sum t.tar | cut -d' ' -f1) "*" entries "* ]]
	run -0 mica layer index --json t.tar.gz -o t2.erofs
	cmp t.erofs t2.erofs
	[ "$(jq -r .diffId <<<"$output")" = "sha256:$(sha256sum t.tar | cut -d' ' -f1)" ]
	mica layer verify t.tar t.erofs
	mica layer verify t.tar.gz t.erofs
	mica layer verify --data t.tar t.erofs
	cp t.tar bad.tar
	printf x | dd of=bad.tar bs=1 seek=100000 conv=notrunc status=none
	run -1 mica layer verify --data bad.tar t.erofs
	truncate -s 1M bad.tar
	run -1 mica layer verify "$BATS_FILE_TMPDIR/app.tar" t.erofs
	[[ $output == *"instead of"* ]]
	cp t.erofs bad.erofs
	printf '\377' | dd of=bad.erofs bs=1 seek=1030 conv=notrunc status=none
	run -1 mica layer verify t.tar bad.erofs
	layer=$(mica inspect app | jq -r '.[0].RootFS.Layers[1]')
	mica layer verify --data "$layer" "$MICA_ROOT/layers/${layer:7}/index.erofs"
	run -2 mica layer apply t.tar
	run -2 mica layer frob t.tar
	[[ $output == *"index, verify and apply"* ]]
}

@test "layer apply: the same tree as GNU tar makes of a layer without marks" {
	needs_root
	cd "$BATS_TEST_TMPDIR"
	tar -C "$BATS_FILE_TMPDIR/tree" --xattrs --xattrs-include='*' --format=pax -cf t.tar .
	mkdir gnu ours
	tar -C gnu -xpf t.tar --numeric-owner --xattrs --xattrs-include='*'
	mica layer apply --devices t.tar ours
	diff <(dump gnu) <(dump ours)
	mica layer apply --devices t.tar ours # once more over itself
	diff <(dump gnu) <(dump ours)
}

@test "snapshot: what is no capability is left out" {
	needs_root
	cd "$BATS_TEST_TMPDIR"
	mkdir -p lower upper/d
	echo 1 >upper/d/f
	setfattr -n security.capability upper/d/f
	[ -z "$(getcap upper/d/f 2>/dev/null)" ]
	run -0 mica snapshot lower upper -o layer.tar
	tar -tf layer.tar d/f
}

@test "layer apply: an object has what its layer says, not what was there or is handed down" {
	needs_root
	cd "$BATS_TEST_TMPDIR"
	mkdir -p wanted/{d,e}/sub ours/{d,e}
	echo 1 >wanted/d/f
	tar -C wanted --format=pax -cf t.tar d e
	setfacl -d -m u:1000:rwx ours/d
	setfattr -n user.old -v 1 ours/e
	setfacl -m u:1000:r ours/e
	mica layer apply t.tar ours
	diff <(dump --no-nsec wanted | tail -n +2) <(dump --no-nsec ours | tail -n +2)
}

# A tar of (type, name, link, content) lines of Python.
hostile() {
	python3 - "$1" <<-END
		import io, tarfile
		def add(kind, name, link="", data=b""):
		    info = tarfile.TarInfo(name)
		    info.type, info.linkname, info.size = kind, link, len(data)
		    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
		    tar.addfile(info, io.BytesIO(data))
		F, D, S, L = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
		tar = tarfile.open(__import__("sys").argv[1], "w")
		$2
		tar.close()
	END
}

@test "layer apply: hostile layers stay inside (SEC-X01 to SEC-X05)" {
	cd "$BATS_TEST_TMPDIR"
	mkdir canary
	echo alive >canary/file
	before=$(dump canary)
	same() { [ "$(dump canary)" = "$before" ]; }

	mkdir r1 && hostile t.tar "add(F, '../../canary/file', data=b'x'); add(F, '/abs', data=b'y')"
	mica layer apply t.tar r1
	[ "$(cat r1/abs)" = y ] && [ -f r1/canary/file ] && same

	# A symlink of the same layer, of the directory below, absolute and relative.
	mkdir r2 && hostile t.tar "add(S, 'a', '$PWD/canary'); add(F, 'a/file', data=b'x')"
	mica layer apply t.tar r2
	same
	mkdir r3 && ln -s "$PWD/canary" r3/a && ln -s ../canary r3/b
	hostile t.tar "add(F, 'a/file', data=b'x'); add(F, 'b/file', data=b'x'); add(F, 'a/.wh.file'); add(F, 'b/.wh..wh..opq')"
	mica layer apply t.tar r3
	same

	# The leaf is a link: it is replaced (SEC-X02).
	mkdir r4 && ln -s "$PWD/canary/file" r4/leaf && hostile t.tar "add(F, 'leaf', data=b'x')"
	mica layer apply t.tar r4
	[ ! -L r4/leaf ] && same

	# Hard links out of the layer are errors, and make nothing (SEC-X03).
	for target in "$PWD/canary/file" ../canary/file file; do
		mkdir -p r5 && hostile t.tar "add(L, 'l', '$target')"
		run -125 mica layer apply t.tar r5
		[[ $output == *"which is not in the layer"* ]]
		[ -z "$(ls r5)" ] && same
	done
	mkdir r6 && ln -s "$PWD/canary" r6/d && hostile t.tar "add(S, 'd', '$PWD/canary'); add(L, 'l', 'd/file')"
	run -125 mica layer apply t.tar r6
	same

	# Whiteouts through a link, of everything, of nothing (SEC-X05, SEC-X06).
	mkdir r7 && ln -s "$PWD/canary" r7/e && hostile t.tar "add(F, 'e/.wh.file'); add(F, '.wh.e')"
	mica layer apply t.tar r7
	same
	for name in .wh.. .wh... .wh.; do
		mkdir -p r8 && hostile t.tar "add(F, '$name')"
		run -125 mica layer apply t.tar r8
		same
	done

	# Two links that lead to each other.
	mkdir r9 && ln -s y r9/x && ln -s x r9/y && hostile t.tar "add(F, 'x/file', data=b'x')"
	run -125 mica layer apply t.tar r9
	[[ $output == *"'/x'"* ]] && same
}

@test "the directory below keeps what a layer only implies" {
	cd "$BATS_TEST_TMPDIR"
	mkdir -p r/var r/real
	chmod 711 r/var
	ln -s real r/link
	hostile t.tar "add(F, 'var/new', data=b'x'); add(F, 'link/inside', data=b'x')"
	mica layer apply t.tar r
	[ "$(stat -c %a r/var)" = 711 ]
	[ -L r/link ] && [ -f r/real/inside ]
}

@test "layer apply: layer by layer the same tree as umoci unpacks" {
	needs_root
	command -v umoci >/dev/null || skip "no umoci"
	cd "$BATS_TEST_TMPDIR"
	cat >Dockerfile <<-END
		FROM base
		RUN mkdir -p /d/e /f /g && echo 1 >/d/e/one && echo 2 >/f/two && ln /f/two /f/hard && ln -s f /s
		RUN rm -r /d/e && mkdir /d/e && echo 3 >/d/e/three && rm /f/two && chmod 700 /g && rm /s && mkdir /s
		RUN rm -r /g && echo file >/g && mv /f /moved && rmdir /s && ln -s moved /s
	END
	mica build -q -t steps . >/dev/null
	mica save steps -o archive.tar
	mkdir layout ours
	tar -C layout -xf archive.tar
	umoci unpack --image "layout:$(jq -r '.manifests[0].annotations["org.opencontainers.image.ref.name"]' layout/index.json)" bundle
	for layer in $(mica inspect steps | jq -r '.[0].RootFS.Layers[]'); do
		mica layer apply "$MICA_ROOT/layers/${layer#sha256:}/tar" ours
	done
	diff <(dump --no-nsec --no-mtime bundle/rootfs) <(dump --no-nsec --no-mtime ours)
	run -0 mica diff steps ./ours
}
