#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Images through registries, layouts and archives, with skopeo and umoci as the other side (REG-1210). Every test starts from
# the image that setup_file imports and compares file systems or digests at the end.

load ../cli/common

setup_file() {
	command -v skopeo >/dev/null || skip "skopeo is not installed"
	command -v docker-registry >/dev/null || skip "docker-registry is not installed"
	mica_setup_file
	export WORK=$BATS_FILE_TMPDIR REGISTRY
	"$MICA_TEST_TOOLS/registry-server" start "$WORK/registry" --data "$WORK/data" >"$WORK/address"
	REGISTRY=$(cat "$WORK/address")
	"$MICA" push -q base "$REGISTRY/team/base:1"
}

teardown_file() {
	"$MICA_TEST_TOOLS/registry-server" stop "$BATS_FILE_TMPDIR/registry" || true
}

setup() {
	second=$BATS_TEST_TMPDIR/store
}

# The same program on a store of the test's own.
other() {
	MICA_ROOT=$second "$MICA" "$@"
}

tree_of() {
	sha256sum | cut -d' ' -f1
}

same_tree() {
	[ "$(mica export base | tree_of)" = "$(other export "$1" | tree_of)" ]
}

@test "pull gives what was pushed, a second push sends nothing" {
	before=$(find "$WORK/data" -type f | wc -l)
	mica push -q base "$REGISTRY/team/base:1"
	[ "$before" = "$(find "$WORK/data" -type f | wc -l)" ]
	id=$(other pull -q "$REGISTRY/team/base:1")
	[ "$id" = "$(mica inspect base | jq -r '.[0].Id')" ]
	same_tree "$REGISTRY/team/base:1"
	other fsck
}

@test "pull by digest names the image by its digest" {
	digest=$(skopeo inspect --tls-verify=false "docker://$REGISTRY/team/base:1" | jq -r .Digest)
	other pull -q "$REGISTRY/team/base@$digest"
	same_tree "$REGISTRY/team/base@$digest"
}

@test "a digest that does not exist is an error with the next step" {
	run ! other pull -q "$REGISTRY/team/base@sha256:$(printf %064d 7)"
	[[ $output == *"repository 'team/base': cannot get manifest"*"status 404"* ]]
	[[ $output == *"try: "* ]]
}

@test "skopeo reads what was pushed; what skopeo pushes is pulled, as OCI, as docker v2s2 and with gzip" {
	skopeo copy -q --src-tls-verify=false "docker://$REGISTRY/team/base:1" "oci:$BATS_TEST_TMPDIR/layout:base"
	skopeo copy -q --dest-tls-verify=false "oci:$BATS_TEST_TMPDIR/layout:base" "docker://$REGISTRY/sk/oci:1"
	mica export -f docker-archive base -o "$BATS_TEST_TMPDIR/base.tar"
	skopeo copy -q --dest-tls-verify=false --format v2s2 "docker-archive:$BATS_TEST_TMPDIR/base.tar" "docker://$REGISTRY/sk/docker:1"
	for name in oci docker; do
		other pull -q "$REGISTRY/sk/$name:1"
		same_tree "$REGISTRY/sk/$name:1"
	done
}

@test "archives and layouts, both directions" {
	dir=$BATS_TEST_TMPDIR
	mica export -f oci base -o "$dir/layout"
	mica export -f oci-archive base -o "$dir/oci.tar"
	mica export -f docker-archive base -o "$dir/docker.tar"
	skopeo inspect "oci:$dir/layout:base:latest" >/dev/null
	skopeo inspect "oci-archive:$dir/oci.tar" >/dev/null
	skopeo inspect "docker-archive:$dir/docker.tar" >/dev/null
	skopeo copy -q "docker-archive:$dir/docker.tar" "docker-archive:$dir/skopeo.tar:base:latest"
	gzip -k "$dir/docker.tar"
	for from in "oci:$dir/layout" "oci:$dir/layout:base:latest" "$dir/layout" "$dir/oci.tar" "$dir/docker.tar" \
		"$dir/docker.tar.gz" "docker-archive:$dir/skopeo.tar" "oci-archive:$dir/oci.tar:base:latest"; do
		rm -rf "$second"
		other load "$from"
		same_tree base
		other fsck
	done
	rm -rf "$second"
	other load <"$dir/oci.tar"
	same_tree base
}

@test "exports are the same bytes every time, and merge into a layout" {
	dir=$BATS_TEST_TMPDIR
	[ "$(mica export -f docker-archive base | tree_of)" = "$(mica export -f docker-archive base | tree_of)" ]
	mica export -f oci base -o "$dir/layout"
	mica tag base second:2
	mica export -f oci second:2 -o "$dir/layout"
	mica export -f oci base -o "$dir/layout"
	[ "$(jq '.manifests | length' "$dir/layout/index.json")" = 2 ]
	mica rmi second:2
}

@test "umoci unpacks the layout inside a docker archive to the same tree" {
	command -v umoci >/dev/null || skip "umoci is not installed"
	needs_root
	# Its layers are not compressed; umoci 0.4 knows no zstd.
	mkdir "$BATS_TEST_TMPDIR/layout"
	mica export -f docker-archive base | tar -x -C "$BATS_TEST_TMPDIR/layout"
	umoci unpack --image "$BATS_TEST_TMPDIR/layout:latest" "$BATS_TEST_TMPDIR/bundle"
	mkdir "$BATS_TEST_TMPDIR/tree"
	mica export base | tar -x -C "$BATS_TEST_TMPDIR/tree"
	diff -r --no-dereference "$BATS_TEST_TMPDIR/bundle/rootfs" "$BATS_TEST_TMPDIR/tree"
}

@test "load names what it cannot read" {
	echo nonsense >"$BATS_TEST_TMPDIR/file"
	run ! other load "$BATS_TEST_TMPDIR/file"
	[[ $output == *"cannot load '$BATS_TEST_TMPDIR/file'"* ]]
	run ! other load docker-daemon:base
	[[ $output == *"docker save"* ]]
}

@test "basic authentication: flag, credential file, and the message without them" {
	"$MICA_TEST_TOOLS/registry-server" start "$BATS_TEST_TMPDIR/private" --auth me:secret >"$BATS_TEST_TMPDIR/address"
	address=$(cat "$BATS_TEST_TMPDIR/address")
	mica push -q --creds me:secret base "$address/base"
	run ! other pull -q --no-creds "$address/base"
	[[ $output == *"status 401"* && $output == *"mica login $address"* ]]
	run ! other pull -q --creds me:wrong "$address/base"
	[[ $output == *"user 'me' (from --creds)"* && $output != *wrong* ]]
	printf '{"auths":{"%s":{"auth":"%s"}}}' "$address" "$(printf me:secret | base64)" >"$BATS_TEST_TMPDIR/auth.json"
	chmod 600 "$BATS_TEST_TMPDIR/auth.json"
	other pull -q --authfile "$BATS_TEST_TMPDIR/auth.json" "$address/base"
	same_tree "$address/base"
	"$MICA_TEST_TOOLS/registry-server" stop "$BATS_TEST_TMPDIR/private"
}

@test "TLS: an unknown authority is refused, a certificate directory is used" {
	"$MICA_TEST_TOOLS/registry-server" start "$BATS_TEST_TMPDIR/tls" --tls "$BATS_TEST_TMPDIR/certs" >"$BATS_TEST_TMPDIR/address"
	address=$(cat "$BATS_TEST_TMPDIR/address")
	run ! mica push -q base "$address/base"
	[[ $output == *certificate* && $output == *"/etc/containers/certs.d/$address/ca.crt"* ]]
	mica push -q --cert-dir "$BATS_TEST_TMPDIR/certs" base "$address/base"
	other pull -q --tls-verify=false "$address/base"
	same_tree "$address/base"
	"$MICA_TEST_TOOLS/registry-server" stop "$BATS_TEST_TMPDIR/tls"
}

@test "wrong bytes in the registry never become an image" {
	mica push -q base "$REGISTRY/bad/base:1"
	digest=$(skopeo inspect --raw --tls-verify=false "docker://$REGISTRY/bad/base:1" | jq -r '.layers[0].digest')
	# The storage of the registry is ours: a byte of the layer changes, its size does not.
	blob=$WORK/data/docker/registry/v2/blobs/sha256/${digest:7:2}/${digest:7}/data
	cp "$blob" "$BATS_TEST_TMPDIR/good"
	printf X | dd of="$blob" bs=1 seek=100 conv=notrunc status=none
	run ! other pull -q "$REGISTRY/bad/base:1"
	cp "$BATS_TEST_TMPDIR/good" "$blob"
	run ! other inspect "$REGISTRY/bad/base:1"
	other fsck
	other pull -q "$REGISTRY/bad/base:1"
	same_tree "$REGISTRY/bad/base:1"
}

@test "import: tar, compressed tar, directory and changes" {
	dir=$BATS_TEST_TMPDIR
	mica export base >"$dir/base.tar"
	gzip -k "$dir/base.tar"
	zstd -q "$dir/base.tar"
	xz -k "$dir/base.tar"
	bzip2 -k "$dir/base.tar"
	for from in "$dir/base.tar" "$dir/base.tar.gz" "$dir/base.tar.zst" "$dir/base.tar.xz" "$dir/base.tar.bz2"; do
		rm -rf "$second"
		other import -c 'ENTRYPOINT ["/bin/sh", "-c"]' -c 'ENV A=b C="d e"' -c 'EXPOSE 80 53/udp' -c 'LABEL x=y' \
			-c 'VOLUME /data' -c 'WORKDIR /w' -c 'USER 5' "$from" imported
		same_tree imported
	done
	other inspect imported | jq -e '.[0].Config | .Entrypoint == ["/bin/sh","-c"] and .User == "5" and .WorkingDir == "/w" and
		(.Env | index("C=d e")) and .ExposedPorts["53/udp"] and .Volumes["/data"] and .Labels.x == "y"'
	run ! other import -c 'RUN true' "$dir/base.tar" bad
	[[ $output == *"--change cannot be RUN"* ]]
	other import - <"$dir/base.tar" piped
	same_tree piped
}
