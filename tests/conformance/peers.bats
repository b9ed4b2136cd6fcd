#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# docker, podman and buildah on the other side of a registry. PEERS is a command prefix that runs them, sharing /tmp and the
# loopback network with this machine; without it these tests are skipped.

load ../cli/common

setup() {
	[ -n "${PEERS:-}" ] || skip "PEERS is not set"
	needs_root
}

setup_file() {
	[ -n "${PEERS:-}" ] && [ "$(id -u)" = 0 ] || return 0
	mica_setup_file
	mkdir "$BATS_FILE_TMPDIR/ctx"
	printf 'FROM base\nRUN echo made by mica >/who\nCMD ["/bin/cat", "/who"]\n' >"$BATS_FILE_TMPDIR/ctx/Dockerfile"
	"$MICA" build -q -t app "$BATS_FILE_TMPDIR/ctx" >/dev/null
	"$MICA_TEST_TOOLS/registry-server" start "$BATS_FILE_TMPDIR/registry" >"$BATS_FILE_TMPDIR/registry.address"
	export REGISTRY
	REGISTRY=$(cat "$BATS_FILE_TMPDIR/registry.address")
	"$MICA" push app "$REGISTRY/app:1"
}

teardown_file() {
	[ -z "${REGISTRY:-}" ] || "$MICA_TEST_TOOLS/registry-server" stop "$BATS_FILE_TMPDIR/registry" || true
}

peer() {
	# shellcheck disable=SC2086 # a command prefix
	$PEERS "$@"
}

@test "docker pulls and runs what mica pushed" {
	peer docker pull -q "$REGISTRY/app:1"
	run -0 --separate-stderr peer docker run --rm --network=host "$REGISTRY/app:1"
	[ "$output" = "made by mica" ]
}

@test "podman pulls and runs what mica pushed" {
	peer podman pull -q --tls-verify=false "$REGISTRY/app:1"
	run -0 --separate-stderr peer podman run --rm --network=host --cgroups=disabled "$REGISTRY/app:1"
	[ "$output" = "made by mica" ]
}

@test "docker load and podman load take mica's docker-archive" {
	mica save app -o "$BATS_FILE_TMPDIR/app.tar"
	run -0 peer docker load -i "$BATS_FILE_TMPDIR/app.tar"
	[[ $output == *app* ]]
	run -0 peer podman load -i "$BATS_FILE_TMPDIR/app.tar"
}

@test "an image that docker pushed (gzip) is pulled and run" {
	peer docker tag "$REGISTRY/app:1" "$REGISTRY/from-docker:1"
	printf 'FROM %s\nRUN echo made by docker >/who\n' "$REGISTRY/app:1" >"$BATS_FILE_TMPDIR/Dockerfile.docker"
	peer docker buildx build -q --network=host -t "$REGISTRY/from-docker:1" -f "$BATS_FILE_TMPDIR/Dockerfile.docker" "$BATS_FILE_TMPDIR/ctx"
	peer docker push -q "$REGISTRY/from-docker:1"
	mica pull --root "$BATS_TEST_TMPDIR/s" "$REGISTRY/from-docker:1"
	run -0 --separate-stderr mica run --root "$BATS_TEST_TMPDIR/s" "$REGISTRY/from-docker:1"
	[ "$output" = "made by docker" ]
}

@test "an image that buildah pushed (zstd) is pulled and run" {
	printf 'FROM %s\nRUN echo made by buildah >/who\n' "$REGISTRY/app:1" >"$BATS_FILE_TMPDIR/Dockerfile.buildah"
	peer buildah bud -q --tls-verify=false --network=host -t from-buildah -f "$BATS_FILE_TMPDIR/Dockerfile.buildah" "$BATS_FILE_TMPDIR/ctx"
	peer buildah push -q --tls-verify=false --compression-format zstd from-buildah "docker://$REGISTRY/from-buildah:1"
	mica pull --root "$BATS_TEST_TMPDIR/s" "$REGISTRY/from-buildah:1"
	run -0 --separate-stderr mica run --root "$BATS_TEST_TMPDIR/s" "$REGISTRY/from-buildah:1"
	[ "$output" = "made by buildah" ]
}

# mica as the others start it: they may lack the libraries that it is linked with.
make_mount_program() {
	mkdir -p "$1/lib"
	cp "$MICA" "$1/mica"
	ldd "$MICA" | awk '$3 ~ /\/(libfuse3|libjansson|libisal)/ { print $3 }' | xargs -I{} cp -L {} "$1/lib/"
	printf '#!/bin/bash\nexport LD_LIBRARY_PATH=%s/lib\nexec -a mica-fuse-overlayfs %s/mica "$@"\n' "$1" "$1" >"$1/mount"
	chmod 755 "$1/mount"
}

@test "buildah builds and podman runs with mica as their mount_program (FS-151, FS-203)" {
	dir="$BATS_TEST_TMPDIR"
	make_mount_program "$dir"
	cat >"$dir/storage.conf" <<-END
		[storage]
		driver = "overlay"
		graphroot = "$dir/graph"
		runroot = "$dir/run"
		[storage.options.overlay]
		mount_program = "$dir/mount"
	END
	mkdir "$dir/ctx"
	cp "$(command -v busybox)" "$dir/ctx/"
	cat >"$dir/ctx/Containerfile" <<-'END'
		FROM scratch
		COPY busybox /bin/busybox
		RUN ["/bin/busybox", "--install", "-s", "/bin"]
		RUN mkdir -p /a/b && echo hi >/a/b/c && ln /a/b/c /a/b/d && chmod 4755 /a/b/c
		RUN mv /a/b /a/e && rm /a/e/d && mkdir /a/b
		RUN [ -z "$(ls /a/b)" ] && [ "$(ls /a/e)" = c ] && [ "$(stat -c %a:%h /a/e/c)" = 4755:1 ]
	END
	run -0 peer env "CONTAINERS_STORAGE_CONF=$dir/storage.conf" buildah bud --layers --network=host -t localhost/mounted "$dir/ctx"
	run -0 --separate-stderr peer env "CONTAINERS_STORAGE_CONF=$dir/storage.conf" podman run --rm --network=host --cgroups=disabled \
		localhost/mounted cat /a/e/c
	[ "$output" = hi ]
}

@test "an index of several platforms with attestations: docker, podman and buildx read it (RCP-529, RCP-992)" {
	printf 'FROM scratch\nLABEL a=b\nCOPY Dockerfile /f\n' >"$BATS_TEST_TMPDIR/Dockerfile"
	mica build -q --platform linux/amd64,linux/arm64 --provenance=max --sbom -t "$REGISTRY/attested:1" --push \
		-f "$BATS_TEST_TMPDIR/Dockerfile" "$BATS_FILE_TMPDIR/ctx"
	peer docker pull -q "$REGISTRY/attested:1"
	peer docker pull -q --platform linux/arm64 "$REGISTRY/attested:1"
	peer podman pull -q --tls-verify=false "$REGISTRY/attested:1"
	run -0 peer docker buildx imagetools inspect "$REGISTRY/attested:1" --format '{{json .Provenance}}'
	[ "$(jq -r '."linux/arm64".SLSA.buildDefinition.buildType' <<<"$output")" = urn:mica:build:v1 ]
	run -0 peer docker buildx imagetools inspect "$REGISTRY/attested:1" --format '{{json .SBOM}}'
	[ "$(jq -r '."linux/amd64".SPDX.SPDXID' <<<"$output")" = SPDXRef-DOCUMENT ]
}

@test "outputs of a build: docker load, podman load of both archives, Docker's media types (RCP-541, RCP-542)" {
	mica build -q -t out:1 -o "type=docker,dest=$BATS_TEST_TMPDIR/d.tar" -o "type=oci,dest=$BATS_TEST_TMPDIR/o.tar" \
		-o "type=registry,name=$REGISTRY/v2s2:1,oci-mediatypes=false,force-compression=true" "$BATS_FILE_TMPDIR/ctx"
	run -0 peer docker load -i "$BATS_TEST_TMPDIR/d.tar"
	[[ $output == *out:1* ]]
	run -0 peer podman load -q -i "$BATS_TEST_TMPDIR/d.tar"
	run -0 peer podman load -q -i "$BATS_TEST_TMPDIR/o.tar"
	peer docker pull -q "$REGISTRY/v2s2:1"
	run -0 --separate-stderr peer docker run --rm --network=host "$REGISTRY/v2s2:1"
	[ "$output" = "made by mica" ]
}
