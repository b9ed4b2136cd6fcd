#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# A Debian base, a real recipe, a real registry, and everybody else's tools: what mica is for, end to end.

load ../cli/common

# All of it works on one image, so the file's tests build on each other.
setup() {
	needs_root
}

setup_file() {
	[ "$(id -u)" = 0 ] || return 0
	export MICA MICA_TEST_TOOLS
	export MICA_ROOT="$BATS_FILE_TMPDIR/store" WORK="$BATS_FILE_TMPDIR"
	unset SOURCE_DATE_EPOCH MICA_DRIVER
	mkdir -p build
	"$MICA_TEST_TOOLS/make-debian-base" "$PWD/build/debian-base.tar"
	"$MICA" import --change 'CMD ["/bin/bash"]' build/debian-base.tar debian-base
	"$MICA" build --progress=plain -t hello tests/data/debian >"$WORK/build.log" 2>&1 || {
		tail -n 40 "$WORK/build.log" >&2
		return 1
	}
	"$MICA_TEST_TOOLS/registry-server" start "$WORK/registry" >"$WORK/registry.address"
	export REGISTRY
	REGISTRY=$(cat "$WORK/registry.address")
}

teardown_file() {
	[ -n "${WORK:-}" ] || return 0
	"$MICA_TEST_TOOLS/registry-server" stop "$WORK/registry" || true
}

@test "the image runs: entrypoint, command, arguments, user, directory" {
	run -0 --separate-stderr mica run hello
	[ "$output" = "hello world" ]
	run -0 --separate-stderr mica run hello "you there"
	[ "$output" = "hello you there" ]
	run -0 --separate-stderr mica run --entrypoint /bin/sh hello -c 'id -u; pwd; cat whoami'
	[ "$output" = $'4242\n/srv/app\napp' ]
}

@test "built again, nothing runs" {
	before=$(manifest_of hello)
	run -0 mica build --progress=plain -t hello tests/data/debian
	[ -z "$(grep -A1 -E '^#[0-9]+ \[.*(RUN|COPY|WORKDIR)' <<<"$output" | grep DONE)" ]
	[ "$(grep -c CACHED <<<"$output")" -ge 7 ]
	[ "$(manifest_of hello)" = "$before" ]
}

@test "pushed; skopeo and umoci take it, crun runs it" {
	mica push hello "$REGISTRY/test/hello:1"
	# Debian's umoci knows no zstd: skopeo makes it gzip on the way.
	skopeo copy -q --src-tls-verify=false --dest-compress --dest-compress-format gzip \
		"docker://$REGISTRY/test/hello:1" "oci:$WORK/layout:1"
	umoci unpack --image "$WORK/layout:1" "$WORK/bundle" >/dev/null
	[ "$("$WORK/bundle/rootfs/usr/local/bin/hello" x)" = "hello x" ]
	jq '.process.terminal = false | .linux.namespaces |= map(select(.type != "network" and .type != "cgroup"))
		| del(.linux.resources) | .mounts |= map(select(.type != "cgroup" and .type != "sysfs"))' \
		"$WORK/bundle/config.json" >"$WORK/config.json"
	mv "$WORK/config.json" "$WORK/bundle/config.json"
	# crun refuses a hybrid cgroup layout: the v2 hierarchy is taken out of sight.
	run -0 --separate-stderr unshare -m sh -c \
		"umount -l /sys/fs/cgroup/unified 2>/dev/null; cd $WORK/bundle && exec crun --cgroup-manager=disabled run hello-$$"
	[ "$output" = "hello world" ]
}

@test "pulled into an empty store, mounted by both drivers: the tree umoci unpacked" {
	[ -d "$WORK/bundle/rootfs" ] || skip "the test before failed"
	mica pull --root "$WORK/pulled" "$REGISTRY/test/hello:1"
	"$MICA_TEST_TOOLS/dumpdir" "$WORK/bundle/rootfs" >"$WORK/dump.umoci"
	for driver in fuse kernel; do
		mkdir -p "$WORK/mnt"
		mica mount --root "$WORK/pulled" --driver $driver "$REGISTRY/test/hello:1" "$WORK/mnt"
		"$MICA_TEST_TOOLS/dumpdir" "$WORK/mnt" >"$WORK/dump.$driver"
		mica umount "$WORK/mnt"
		diff "$WORK/dump.umoci" "$WORK/dump.$driver"
	done
	run -0 mica fsck --data --root "$WORK/pulled"
}

@test "skopeo reads the store in place" {
	[ "$(skopeo inspect --format '{{.Digest}}' "oci:$MICA_ROOT/oci:hello:latest")" = "$(manifest_of hello)" ]
}

@test "an image that skopeo pushed (docker schema 2, gzip) is pulled and run" {
	mica export --format docker-archive hello -o "$WORK/hello.tar"
	skopeo copy -q --dest-tls-verify=false -f v2s2 "docker-archive:$WORK/hello.tar" "docker://$REGISTRY/test/foreign:1"
	mica pull --root "$WORK/foreign" "$REGISTRY/test/foreign:1"
	run -0 --separate-stderr mica run --root "$WORK/foreign" "$REGISTRY/test/foreign:1"
	[ "$output" = "hello world" ]
}

@test "the same recipe as an ordinary user with a subuid range" {
	command -v newuidmap >/dev/null || skip "no newuidmap"
	user=mica-test-user
	pkill -KILL -u $user 2>/dev/null || true
	userdel -rf $user 2>/dev/null || true
	useradd -m $user
	grep -q "^$user:" /etc/subuid || usermod --add-subuids 600000-665535 --add-subgids 600000-665535 $user
	mode=$(stat -c %a /dev/fuse 2>/dev/null || echo none)
	[ "$mode" = none ] || chmod 666 /dev/fuse
	cp -r tests/data/debian "/home/$user/ctx"
	cp build/debian-base.tar "/home/$user/"
	install -m 755 "$MICA" "/home/$user/mica"
	chown -R $user "/home/$user"
	run su $user -c "unset MICA_ROOT; cd ~ && ./mica import debian-base.tar debian-base && ./mica build --progress=plain -t hello ctx && ./mica run hello && ./mica fsck"
	[ "$mode" = none ] || chmod "$mode" /dev/fuse
	echo "$output" | tail -n 30
	userdel -r $user 2>/dev/null || true
	[ "$status" = 0 ]
	[[ $output == *"hello world"* ]]
}
