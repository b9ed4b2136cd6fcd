#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Recipes of the corpus without anybody else's builder: what must not depend on when, where and how often they are built
# (RCP-753, RCP-561, RCP-565). 'make corpus' compares all of them with BuildKit.

load ../cli/common
load ../cli/user

# Without a distribution underneath: each takes well under a second. 'base-onbuild' comes first, a parent of another one.
recipes="base-onbuild args-matrix bind-mounts cache-mounts chown-recursive comments-continuations config-templates copy-basics
 copy-chmod-chown copy-dest-links copy-exclude copy-from-stages copy-hardlinks copy-link copy-not-utf8 copy-odd-names copy-parents
 copy-symlinks crlf-recipe deep-stages env-expansion escape-backtick hardlinks-copied-up heredoc-copy heredoc-run
 ignore-exceptions ignore-own-file ignore-simple many-files metadata-override network-none onbuild-image onbuild-stage
 overlapping-layers platform-args rename-directories resolv-files run-nothing scratch-files scratch-metadata secrets
 service-metadata target-stage tmpfs-mounts users-groups whiteouts workdir-ownership"

setup_file() {
	mica_setup_file
	export SOURCE_DATE_EPOCH=1700000000
	export PLACE="$BATS_FILE_TMPDIR/corpus"
	# shellcheck disable=SC2086  # a list of words
	python3 tests/corpus/prepare "$PLACE" $recipes copy-xattrs add-archives special-files
	tar -C "$PLACE/bases/busybox" --format=pax --sort=name --owner=0 --group=0 -cf "$PLACE/busybox.tar" .
	empty_store "$MICA_ROOT"
	build_all "$MICA_ROOT" "$PLACE/first"
	[ "$(id -u)" != 0 ] || user_setup_file
}

setup() {
	needs_root
}

# A store with nothing but the base image.
empty_store() {
	install -d -m 700 "$1"
	"$MICA" import --root "$1" --change 'CMD ["/bin/sh"]' "$PLACE/busybox.tar" busybox >/dev/null
}

# build STORE RECIPE FLAGS...
build() {
	local root="$1" place="$PLACE/contexts/$2" name="$2"
	shift 2
	eval "set -- \"\$@\" $(cat "$place/options")"
	"$MICA" build --root "$root" --progress=plain -t "$name" -f "$place/Dockerfile" --metadata-file "$PLACE/metadata" "$@" "$place/context"
}

# build_all STORE LIST FLAGS...: writes the digest of each image and what was executed for it.
build_all() {
	local root="$1" list="$2" recipe
	shift 2
	for recipe in $recipes; do
		build "$root" "$recipe" "$@" >"$PLACE/log" 2>&1 || {
			echo "$recipe:" >&2
			tail -n 20 "$PLACE/log" >&2
			return 1
		}
		jq -r --arg name "$recipe" '[$name, .["containerimage.digest"], .["mica.build.steps"].executed] | @tsv' "$PLACE/metadata"
	done >"$list"
}

same_images() {
	diff <(cut -f 1,2 "$PLACE/first") <(cut -f 1,2 "$1")
}

@test "built again in the same store, nothing is executed and the images are the same (RCP-753, RCP-974)" {
	build_all "$MICA_ROOT" "$PLACE/again"
	same_images "$PLACE/again"
	[ -z "$(awk '$3 != 0' "$PLACE/again")" ]
}

@test "from scratch, one step at a time, on the kernel's overlayfs: the same images (RCP-753, RCP-989)" {
	empty_store "$BATS_TEST_TMPDIR/store"
	build_all "$BATS_TEST_TMPDIR/store" "$PLACE/kernel" --jobs 1 --driver kernel
	same_images "$PLACE/kernel"
	mica fsck --root "$BATS_TEST_TMPDIR/store"
}

@test "from scratch, eight steps at a time, on the FUSE union: the same images (RCP-753, RCP-988)" {
	empty_store "$BATS_TEST_TMPDIR/store"
	build_all "$BATS_TEST_TMPDIR/store" "$PLACE/fuse" --jobs 8 --driver fuse
	same_images "$PLACE/fuse"
	mica fsck --root "$BATS_TEST_TMPDIR/store"
}

# Ids beyond the user's range and device nodes are what one who is not root cannot make: no recipe of the list needs them.
# With the FUSE union, because overlayfs in a user namespace knows neither index nor redirects (FS-242): a file that is
# changed there loses its other names, and a directory that is renamed is copied by mv.
@test "as a user with subordinate ids: the same layers (RCP-988, RCP-561)" {
	needs_user_namespaces
	local user="$BATS_FILE_TMPDIR/user"
	tar -C "$PLACE" --format=pax --numeric-owner -cf "$user/corpus.tar" contexts
	cp "$PLACE/busybox.tar" "$user"
	chmod 644 "$user"/*.tar
	for recipe in $recipes; do
		echo "$recipe $(mica inspect "$recipe" | jq -c ".[0].RootFS.Layers[1:]")"
	done >"$PLACE/layers"
	# shellcheck disable=SC2016  # the user's shell expands these
	as_user ranges 'recipes="'"$recipes"'"
		mkdir corpus && tar --no-same-owner -C corpus -xpf /mnt/corpus.tar
		mica import /mnt/busybox.tar busybox --change "CMD [\"/bin/sh\"]" >/dev/null || exit 1
		for recipe in $recipes; do
			place="corpus/contexts/$recipe"
			eval "set -- $(sed "s,'"$PLACE"',corpus,g" "$place/options")"
			mica build --driver fuse --progress=plain --source-date-epoch 1700000000 -t "$recipe" -f "$place/Dockerfile" "$@" "$place/context" >log 2>&1 || {
				echo "$recipe: $(tail -n 20 log)"
				continue
			}
			echo "$recipe $(mica inspect "$recipe" | jq -c ".[0].RootFS.Layers[1:]")"
		done' >"$PLACE/rootless"
	diff "$PLACE/layers" "$PLACE/rootless"
}
