#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# What comes out of a build (RCP-513, RCP-541 to RCP-544), judged by tar, skopeo, umoci and jq.
# shellcheck disable=SC2016,SC2030,SC2031,SC2154  # recipes have '$'; bats runs each test in a subshell and sets variables

load common
load user

setup_file() {
	mica_setup_file
	user_setup_file
	export REGISTRY=
	if command -v docker-registry >/dev/null; then
		"$MICA_TEST_TOOLS/registry-server" start "$BATS_FILE_TMPDIR/registry" >"$BATS_FILE_TMPDIR/address"
		REGISTRY=$(cat "$BATS_FILE_TMPDIR/address")
	fi
}

teardown_file() {
	[ -z "$REGISTRY" ] || "$MICA_TEST_TOOLS/registry-server" stop "$BATS_FILE_TMPDIR/registry" || true
}

setup() {
	context
	out=$BATS_TEST_TMPDIR/out
}

teardown() {
	assert_clean
	# Nothing half-written stays beside an output.
	[ -z "$(find "$BATS_TEST_TMPDIR" -name '.tmp-*')" ]
}

# A tree with one of everything.
rich() {
	mkdir -p "$ctx/d/sub"
	echo one >"$ctx/d/one"
	ln "$ctx/d/one" "$ctx/d/sub/hard"
	ln -s ../one "$ctx/d/sub/soft"
	chmod 640 "$ctx/d/one"
	chmod 1750 "$ctx/d/sub"
	touch -d @1234567890 "$ctx/d/one" "$ctx/d/sub"
	dockerfile <<-'D'
		FROM scratch
		COPY d /d
	D
}

simple() {
	echo content >"$ctx/f"
	printf 'FROM scratch\nCOPY f /f\nENV A=b\n' | dockerfile
}

needs_registry() {
	[ -n "$REGISTRY" ] || skip "docker-registry is not installed"
}

# Digest of the one manifest of a layout directory.
layout_digest() {
	jq -r '.manifests[0].digest' "$1/index.json"
}

blob() {
	cat "$1/blobs/${2/://}"
}

# --- local ---

@test "local: modes, times, links; nothing on standard output and no image (RCP-543)" {
	rich
	run -0 --separate-stderr mica build -t nothing -o "$out" "$ctx"
	[ -z "$output" ]
	[ "$(stat -c '%a %Y %h' "$out/d/one")" = "640 1234567890 2" ]
	[ "$(stat -c '%a %Y' "$out/d/sub")" = "1750 1234567890" ]
	[ "$out/d/one" -ef "$out/d/sub/hard" ]
	[ "$(readlink "$out/d/sub/soft")" = ../one ]
	run ! mica inspect nothing
	# No blob was made for it.
	[ -z "$(find "$MICA_ROOT/oci/blobs" -newer "$ctx/Dockerfile" -size +1k)" ]
}

@test "local: into a directory that is there; what is foreign stays, files are replaced, links are not followed (RCP-543)" {
	mkdir -p "$out/d/keep" "$BATS_TEST_TMPDIR/outside" "$out/d/one"
	echo old >"$out/other"
	echo stays >"$out/d/keep/me"
	echo safe >"$BATS_TEST_TMPDIR/outside/hard"
	ln -s "$BATS_TEST_TMPDIR/outside" "$out/d/sub"
	rich
	mica build -q -o "type=local,dest=$out" "$ctx"
	[ "$(cat "$out/other" "$out/d/keep/me" "$out/d/one")" = $'old\nstays\none' ]
	[ ! -L "$out/d/sub" ]
	[ "$(cat "$BATS_TEST_TMPDIR/outside/hard")" = safe ]
	# Again over its own result.
	echo changed >"$ctx/d/one"
	mica build -q -o "$out" "$ctx"
	[ "$(cat "$out/d/one")" = changed ]
}

@test "local: mode=delete needs --allow output.delete and removes what is foreign (RCP-543)" {
	mkdir -p "$out/d/gone" "$out/old"
	rich
	run ! mica build -q -o "type=local,dest=$out,mode=delete" "$ctx"
	[[ $output == *"mode=delete needs --allow output.delete"* ]]
	[ -d "$out/old" ]
	mica build -q --allow output.delete -o "type=local,dest=$out,mode=delete" "$ctx"
	[ "$(ls "$out" "$out/d")" = "$out:
d

$out/d:
one
sub" ]
}

@test "local: devices are left out with a warning, fifos are made; root keeps owners (RCP-543)" {
	needs_root
	printf 'FROM base\nRUN mknod /dev1 c 1 3 && mkfifo /pipe && touch /mine && chown 7:8 /mine && chmod 4755 /mine\n' | dockerfile
	run -0 mica build -q -o "$out" "$ctx"
	[[ $output == *"1 device was left out of"*"'/dev1'"* ]]
	[ ! -e "$out/dev1" ] && [ -p "$out/pipe" ]
	[ "$(stat -c '%u:%g %a' "$out/mine")" = "7:8 4755" ]
}

@test "local: an ordinary user owns everything (RCP-543)" {
	needs_user_namespaces
	run -0 as_user ranges '
		mkdir ctx && printf "FROM base\nRUN touch /mine && chown 7:8 /mine && chmod 750 /mine\n" >ctx/Dockerfile
		mica build -q -o out ctx && stat -c "%U %a" out/mine && stat -c %U out/bin/busybox
		mica build -q --allow output.delete -o type=local,dest=out,mode=delete ctx && stat -c "%U" out/mine'
	[ "$output" = $'micatest 750\nmicatest\nmicatest' ]
}

@test "local: content of many files is that of the image, sparse files stay sparse" {
	printf 'FROM base\nRUN truncate -s 20M /hole && echo x >>/hole && for i in 1 2 3; do mkdir /d$i && echo $i >/d$i/f; done\n' | dockerfile
	mica build -q -o "$out" -o "type=tar,dest=$BATS_TEST_TMPDIR/t.tar" "$ctx"
	mkdir "$BATS_TEST_TMPDIR/x"
	tar -C "$BATS_TEST_TMPDIR/x" -xpf "$BATS_TEST_TMPDIR/t.tar"
	diff -r --no-dereference "$out" "$BATS_TEST_TMPDIR/x"
	[ "$(du -k "$out/hole" | cut -f1)" -lt 1000 ]
}

@test "outputs of an ordinary user with a single id: the same files and layers as root's (RCP-541)" {
	needs_user_namespaces
	script='mkdir ctx && printf "FROM base\nRUN mkdir /d && echo 1 >/d/f && ln /d/f /d/g\nRUN rm /bin/wc && echo 2 >/d/h\n" >ctx/Dockerfile
		mica build -q -t x -o type=tar,dest=t -o type=oci,dest=o -o type=docker,dest=d -o l ctx >/dev/null
		mica build -q -t x --squash --sbom --provenance -o type=image -o type=oci,dest=s ctx >/dev/null
		[ l/d/f -ef l/d/g ] && [ -s o ] && [ -s d ] && [ -s s ] && sha256sum <t && mica inspect x'
	digests() {
		sed 1q <<<"$1" && sed 1d <<<"$1" | jq -c '.[0].RootFS'
	}
	run -0 --separate-stderr as_user single "$script"
	theirs=$(digests "$output")
	mkdir "$out" && cd "$out"
	export MICA_ROOT="$out/store" SOURCE_DATE_EPOCH=1000000000
	mica import "$BATS_FILE_TMPDIR/user/base.tar" base >/dev/null
	run -0 --separate-stderr env PATH="$BATS_FILE_TMPDIR/user:$PATH" bash -c "$script"
	[ "$theirs" = "$(digests "$output")" ]
}

# --- tar ---

@test "tar: to a file and to standard output, the same bytes (RCP-541)" {
	rich
	mica build -q -o "type=tar,dest=$out" "$ctx"
	mica build -q -o - "$ctx" >"$out.2"
	cmp "$out" "$out.2"
	run -0 tar -tvf "$out"
	[[ $output == *"-rw-r----- 0/0 "*"d/one"* ]]
	[[ $output == *"d/sub/hard link to d/one"* ]]
	[[ $output == *"d/sub/soft -> ../one"* ]]
}

# --- oci, docker ---

@test "oci: a tar and a directory that skopeo and umoci read (RCP-541)" {
	simple
	mica build -q -t app:1 --compression gzip -o "type=oci,dest=$out.tar" -o "type=oci,dest=$out,tar=false" "$ctx"
	[ "$(skopeo inspect "oci-archive:$out.tar" | jq -r .Digest)" = "$(layout_digest "$out")" ]
	umoci unpack --rootless --image "$out:1" "$BATS_TEST_TMPDIR/bundle"
	[ "$(cat "$BATS_TEST_TMPDIR/bundle/rootfs/f")" = content ]
	[ "$(jq -r '.manifests[0].annotations["io.containerd.image.name"]' "$out/index.json")" = docker.io/library/app:1 ]
	tar -xOf "$out.tar" index.json | cmp - "$out/index.json"
}

@test "oci: a directory keeps its other images and replaces those of the same name (REG-902)" {
	simple
	mica build -q -t one -o "type=oci,dest=$out/" "$ctx"
	mica build -q -t two -o "type=oci,dest=$out" "$ctx"
	echo other >"$ctx/f"
	mica build -q -t one -o "type=oci,dest=$out" "$ctx"
	run -0 jq -r '.manifests[].annotations["io.containerd.image.name"]' "$out/index.json"
	[ "$output" = $'docker.io/library/two:latest\ndocker.io/library/one:latest' ]
}

@test "docker: an archive that skopeo reads, with the names of the build (RCP-541)" {
	simple
	mica build -q -t app:1 -t app:2 -o "type=docker,dest=$out" "$ctx"
	[ "$(tar -xOf "$out" manifest.json | jq -c '.[].RepoTags')" = '["app:1","app:2"]' ]
	skopeo copy -q "docker-archive:$out:docker.io/library/app:2" "dir:$BATS_TEST_TMPDIR/dir"
	mica build -q -o type=docker,name=loaded "$ctx"
	[ "$(mica cat loaded /f)" = content ]
}

# --- image attributes ---

@test "image: names of the output win over those of the build; a quoted field holds several (RCP-542)" {
	simple
	mica build -q -t unused -o '"name=a:1,b:2",type=image' "$ctx"
	[ "$(mica cat a:1 /f)" = "$(mica cat b:2 /f)" ]
	run ! mica inspect unused
	mica build -q -t canon -o type=image,name-canonical=true "$ctx"
	[ "$(mica cat "canon@$(manifest_of canon)" /f)" = content ]
}

@test "image: Docker's media types throughout, base layers included (RCP-444, RCP-987)" {
	printf 'FROM base\nRUN echo x >/x\n' | dockerfile
	mica build -q -t d -o "type=oci,dest=$out,tar=false,oci-mediatypes=false" "$ctx"
	run -0 jq -r '.manifests[0].mediaType' "$out/index.json"
	[ "$output" = application/vnd.docker.distribution.manifest.v2+json ]
	run -0 jq -r '.config.mediaType, .layers[].mediaType' <(blob "$out" "$(layout_digest "$out")")
	[ "$output" = "application/vnd.docker.container.image.v1+json
application/vnd.docker.image.rootfs.diff.tar.gzip
application/vnd.docker.image.rootfs.diff.tar.gzip" ]
	run ! mica build -q -o type=image,oci-mediatypes=false,compression=zstd "$ctx"
	[[ $output == *"no name for zstd layers"* ]]
	run ! mica build -q -o type=image,oci-mediatypes=false,annotation.a=b "$ctx"
}

@test "image: compression of new layers, of all with force-compression; base layers else untouched (RCP-444, RCP-987)" {
	printf 'FROM base\nRUN echo x >/x\n' | dockerfile
	base_blob=$(mica inspect base | jq -r '.[0].Descriptor.digest' | sed 's,:,/,' |
		xargs -I{} jq -r '.layers[0].digest' "$MICA_ROOT/oci/blobs/{}")
	types() {
		jq -r '.layers[].mediaType' <(blob "$out" "$(layout_digest "$out")") | sed 's/.*layer.v1.//' | xargs
	}
	rm -rf "$out"
	mica build -q -o "type=oci,dest=$out,tar=false,compression=gzip" "$ctx"
	[ "$(types)" = "tar+zstd tar+gzip" ]
	[ "$(jq -r '.layers[0].digest' <(blob "$out" "$(layout_digest "$out")"))" = "$base_blob" ]
	rm -rf "$out"
	mica build -q -o "type=oci,dest=$out,tar=false,compression=gzip,force-compression=true" "$ctx"
	[ "$(types)" = "tar+gzip tar+gzip" ]
	rm -rf "$out"
	mica build -q -o "type=oci,dest=$out,tar=false,compression=uncompressed,force-compression=true" "$ctx"
	[ "$(types)" = "tar tar" ]
	mica build -q --compression-level 19 --no-cache "$ctx"
	run ! mica build -q --compression gzip --compression-level 19 "$ctx"
	[[ $output == *"1 to 9"* ]]
}

@test "image: metadata only, no layers; min-layers=1 adds the empty one (RCP-445, RCP-984)" {
	printf 'FROM scratch\nLABEL a=b\n' | dockerfile
	mica build -q -t none -o "type=oci,dest=$out,tar=false" -o type=image "$ctx"
	[ "$(jq '.layers | length' <(blob "$out" "$(layout_digest "$out")"))" = 0 ]
	[ "$(mica inspect none | jq '.[0].RootFS.Layers | length')" = 0 ]
	mica build -q -t one -o "type=oci,dest=$out.1,tar=false,min-layers=1" "$ctx"
	config=$(jq -r .config.digest <(blob "$out.1" "$(layout_digest "$out.1")"))
	run -0 jq -r '.rootfs.diff_ids[], ([.history[] | select(.empty_layer | not)] | length)' <(blob "$out.1" "$config")
	[ "$output" = $'sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef\n1' ]
	umoci ls --layout "$out.1"
}

@test "annotations: scopes and platforms (RCP-517, RCP-542)" {
	simple
	mica build -q -t a --annotation k=v --annotation 'manifest[linux/arm64],index:who=both' --annotation manifest-descriptor:d=e \
		--platform linux/amd64,linux/arm64 -o "type=oci,dest=$out,tar=false,annotation-index.x.y=z,annotation-index-descriptor.i=j" "$ctx"
	index=$(layout_digest "$out")
	[ "$(jq -c '.manifests[0].annotations.i' "$out/index.json")" = '"j"' ]
	run -0 jq -c '.annotations, .manifests[].annotations' <(blob "$out" "$index")
	[ "$output" = $'{"who":"both","x.y":"z"}\n{"d":"e"}\n{"d":"e"}' ]
	run -0 jq -c '.annotations' <(blob "$out" "$(blob "$out" "$index" | jq -r '.manifests[1].digest')")
	[ "$output" = '{"k":"v","who":"both"}' ]
	run -0 jq -c '.annotations' <(blob "$out" "$(blob "$out" "$index" | jq -r '.manifests[0].digest')")
	[ "$output" = '{"k":"v"}' ]
	run ! mica build -q --annotation index:a=b "$ctx"
	[[ $output == *"has no index to annotate"* ]]
	run ! mica build -q --annotation manifset:a=b "$ctx"
	[[ $output == *"did you mean 'manifest'"* ]]
}

# --- configuration ---

@test "labels and variables are taken out, base labels dropped, history left out (RCP-517)" {
	printf 'FROM base\nLABEL base=1 also=2\nENV OLD=1\n' | dockerfile
	mica build -q -t labelled "$ctx"
	printf 'FROM labelled\nLABEL own=3\nENV NEW=1 GONE=1\nRUN test "$GONE" = 1\n' | dockerfile
	mica build -q -t l --unset-label also --unset-env GONE --unset-env OLD --label cli=4 "$ctx"
	[ "$(mica inspect l | jq -c '.[0].Config.Labels')" = '{"base":"1","cli":"4","own":"3"}' ]
	[ "$(mica inspect l | jq -c '.[0].Config.Env[1:]')" = '["NEW=1"]' ]
	mica build -q -t l --inherit-labels=false --omit-history "$ctx"
	[ "$(mica inspect l | jq -c '.[0].Config.Labels')" = '{"own":"3"}' ]
	[ "$(mica history -q l | wc -l)" -le 1 ]
}

# --- pushing ---

@test "push: by name, by digest, registry only; skopeo agrees (RCP-514, RCP-990)" {
	needs_registry
	simple
	mica build -q -t "$REGISTRY/team/app:1" --push --metadata-file "$out" "$ctx"
	digest=$(jq -r '."containerimage.digest"' "$out")
	[ "$(skopeo inspect --tls-verify=false "docker://$REGISTRY/team/app:1" | jq -r .Digest)" = "$digest" ]
	[ "$(manifest_of "$REGISTRY/team/app:1")" = "$digest" ]
	mica build -q -o "type=image,name=$REGISTRY/team/by,push-by-digest=true,push=true" "$ctx"
	run -0 skopeo inspect --raw --tls-verify=false "docker://$REGISTRY/team/by@$digest"
	run ! skopeo inspect --tls-verify=false "docker://$REGISTRY/team/by:latest"
	mica build -q -o "type=registry,name=$REGISTRY/team/only:2" "$ctx"
	skopeo inspect --tls-verify=false "docker://$REGISTRY/team/only:2" >/dev/null
	run ! mica inspect "$REGISTRY/team/only:2"
	run ! mica build -q --push "$ctx"
	[[ $output == *"--push needs a name"* ]]
}

@test "a failed push leaves no tag, no file and no id (RCP-544)" {
	simple
	run ! timeout 60 mica build -q -t 127.0.0.1:1/x/y --push -o type=image -o "type=oci,dest=$out.tar" -o "$out.dir" -o "type=tar,dest=$out.t" \
		-o "type=oci,dest=$out.lay,tar=false" --iidfile "$out.id" --metadata-file "$out.md" --digest-file "$out.dg" "$ctx"
	run ! mica inspect 127.0.0.1:1/x/y
	[ -z "$(find "$BATS_TEST_TMPDIR" -maxdepth 1 -name 'out*')" ]
}

@test "a failed build and a failed output leave what was there (RCP-544)" {
	simple
	mica build -q -t keep "$ctx"
	before=$(manifest_of keep)
	echo old >"$out"
	echo new >"$ctx/f"
	printf 'FROM base\nCOPY f /f\nRUN false\n' | dockerfile
	run ! mica build -q -t keep -o "type=oci,dest=$out" --iidfile "$out.id" "$ctx"
	printf 'FROM base\nCOPY f /f\n' | dockerfile
	run ! mica build -q -t keep -o type=image -o "type=oci,dest=$out" -o "type=tar,dest=$ctx/f/impossible" "$ctx"
	[[ $output == *"$ctx/f/impossible"* ]]
	[ "$(cat "$out")" = old ] && [ ! -e "$out.id" ]
	[ "$(manifest_of keep)" = "$before" ]
}

@test "a full disk: said, and nothing stays (RCP-544, RCP-991)" {
	needs_root
	head -c 4000000 /dev/urandom >"$ctx/f"
	printf 'FROM scratch\nCOPY f /f\n' | dockerfile
	mica build -q -t full "$ctx"
	for output in "type=tar,dest=/mnt/x" "type=oci,dest=/mnt/x" "type=docker,dest=/mnt/x" "type=oci,dest=/mnt/x,tar=false" "type=local,dest=/mnt/x" "type=local,dest=/mnt"; do
		run ! unshare -m sh -c 'mount -t tmpfs -o size=1m none /mnt && "$0" build -q -t never -o type=image -o "$1" "$2"; s=$?; echo "left:$(ls -A /mnt)"; exit $s' \
			"$MICA" "$output" "$ctx"
		[[ $output == *"No space left on device"* ]]
		[ "${lines[-1]}" = left: ]
	done
	run ! mica inspect never
}

@test "an interrupted build leaves no tag and no file (RCP-544)" {
	printf 'FROM base\nRUN touch /started && sleep 30\n' | dockerfile
	mkfifo "$BATS_TEST_TMPDIR/rows"
	"$MICA" build --progress rawjson -t never -o type=image -o "$out" --iidfile "$out.id" "$ctx" 2>"$BATS_TEST_TMPDIR/rows" >/dev/null 3>&- &
	pid=$!
	grep -m1 'RUN touch.*"started"' "$BATS_TEST_TMPDIR/rows" >/dev/null
	kill -INT "$pid"
	status=0
	wait "$pid" || status=$?
	[ "$status" = 130 ]
	run ! mica inspect never
	[ ! -e "$out" ] && [ ! -e "$out.id" ]
}

# --- ids ---

@test "iidfile, digest files, metadata: keys of buildx and of mica (RCP-515)" {
	printf 'from base\nCOPY f /f\nRUN true\n' | dockerfile
	echo f >"$ctx/f"
	id=$(mica build -q -t m:1 -t m:2 --iidfile "$out.id" --digestfile "$out.d1" --metadata-file "$out" "$ctx")
	mica build -q -t m:1 -t m:2 --digest-file "$out.d2" --metadata-file "$out.2" "$ctx"
	[ "$(cat "$out.id")" = "$id" ] && cmp "$out.d1" "$out.d2"
	[ "$(cat "$out.d1")" = "$(manifest_of m:1)" ]
	run -0 jq -r '."containerimage.config.digest", ."containerimage.digest", ."containerimage.descriptor".digest, ."image.name",
		(."mica.build.steps" | "\(.executed) \(.cached)"), (."buildx.build.warnings"[0].short | @base64d)' "$out"
	[ "$output" = "$id
$(cat "$out.d1")
$(cat "$out.d1")
m:1,m:2
2 0
ConsistentInstructionCasing: Command 'from' should match the case of the command majority (uppercase)" ]
	[ "$(jq -c '."mica.build.steps"' "$out.2")" = '{"executed":0,"cached":2}' ]
	[ -f "$MICA_ROOT/builds/$(jq -r '."mica.build.id"' "$out")/record.json" ]
}

@test "ids of a build that only writes files: an image without a name is made for them (RCP-515)" {
	simple
	mica build -q -o "$out" --iidfile "$out.id" "$ctx"
	[[ $(cat "$out.id") =~ ^sha256:[0-9a-f]{64}$ ]]
	[ "$(cat "$out/f")" = content ]
}

@test "a file for an id that cannot be written to costs no build; what is no regular file is written to (RCP-515)" {
	printf 'FROM base\nRUN touch /never\n' | dockerfile
	run ! mica build --progress plain -t never --iidfile "$out/none/id" "$ctx"
	[[ $output == *"cannot create '$out/none/id'"* && $output != *"RUN touch"* ]]
	simple
	run -0 --separate-stderr mica build -q --iidfile /dev/stdout "$ctx"
	[ "${output:0:71}" = "${output:71:71}" ]
	# Only files, and no ids asked for: no image.
	mica build -q -o "$out" --metadata-file "$out.md" "$ctx"
	[ "$(jq -c '[."containerimage.digest", ."mica.build.steps".cached]' "$out.md")" = '[null,1]' ]
	run -2 mica build -q -o "$out" --provenance "$ctx"
	[[ $output == *"none of the outputs can hold attestations"* ]]
}

# --- wrong texts ---

@test "what is wrong with an output is said, with a suggestion (RCP-533, RCP-542)" {
	simple
	check() {
		run -2 mica build -q -o "$1" "$ctx"
		[[ $output == *"$2"* ]] || { echo "$1: $output"; false; }
	}
	check type=imgae "did you mean 'image'"
	check type=image,anme=x "unknown attribute 'anme' of an output of type 'image'"
	check type=image,anme=x "did you mean 'name'"
	check type=local,dest=x,compression=zstd "unknown attribute 'compression'"
	check type=local "dest is missing"
	check type=local,dest=- "a directory cannot be written to standard output"
	check type=image,push=perhaps "bad value 'perhaps'"
	check type=image,name=UPPER "UPPER"
	check type=image,compression=lzma "zstd, gzip or uncompressed"
	check type=image,compression-level=99 "bad value '99'"
	check 'type=image,"name=a' "does not end its field"
	check dest=x,mode=copy "the type is missing"
	check '' "empty --output"
	run ! mica build -q -o type=image,compression=estargz "$ctx"
	[[ $output == *"cannot be written"* ]]
	run -2 mica build -q -o - -o type=oci,dest=- "$ctx"
	[[ $output == *"cannot both be standard output"* ]]
	mkdir "$out"
	run -2 mica build -q -o "type=oci,tar=false,dest=$out" -o "type=oci,tar=false,dest=$out/../out" "$ctx"
	[[ $output == *"two outputs cannot both be"* ]]
	mica build -q -o type=tar,dest=/dev/null -o type=oci,dest=/dev/null "$ctx"
}

# --- platforms ---

@test "several platforms: an index, each with its configuration; the build platform's stage runs once (RCP-505, RCP-643, RCP-992)" {
	echo src >"$ctx/f"
	dockerfile <<-'D'
		FROM --platform=$BUILDPLATFORM base AS build
		COPY f /f
		RUN echo "on $(uname -m)" >>/f
		FROM scratch
		ARG TARGETARCH TARGETVARIANT
		ENV ARCH=$TARGETARCH$TARGETVARIANT
		COPY --from=build /f /f
	D
	run -0 mica build --progress plain -t multi --platform linux/amd64,linux/arm64,linux/arm/v7 -o type=image -o "type=oci,dest=$out,tar=false" \
		--metadata-file "$out.md" "$ctx"
	[ "$(grep -c 'RUN echo' <<<"$output")" = 1 ]
	[ "$(jq -c '."mica.build.steps"' "$out.md")" = '{"executed":3,"cached":0}' ]
	index=$(layout_digest "$out")
	run -0 jq -r '.mediaType, (.manifests[].platform | "\(.os)/\(.architecture)/\(.variant)")' <(blob "$out" "$index")
	[ "$output" = "application/vnd.oci.image.index.v1+json
linux/amd64/null
linux/arm64/null
linux/arm/v7" ]
	[ "$(manifest_of multi)" = "$index" ] || [ "$(jq -r '."containerimage.digest"' "$out.md")" = "$index" ]
	for arch in amd64 arm64; do
		run -0 skopeo inspect --config --override-arch "$arch" "oci:$out:latest"
		[ "$(jq -r '.architecture, .config.Env[1]' <<<"$output")" = "$arch
ARCH=$arch" ]
	done
	mica cat multi /f | grep -q "on $(uname -m)"
}

@test "several platforms: directories of their own, or one for all (RCP-541)" {
	printf 'FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /\n' | dockerfile
	mkdir "$ctx/amd64" "$ctx/arm64"
	echo 1 >"$ctx/amd64/one" && echo 2 >"$ctx/arm64/two"
	mica build -q --platform linux/amd64,linux/arm64 -o "$out" -o "type=tar,dest=$out.tar" -o "type=local,dest=$out.flat,platform-split=false" "$ctx"
	[ "$(cat "$out/linux_amd64/one" "$out/linux_arm64/two")" = $'1\n2' ]
	[ "$(tar -tf "$out.tar" | xargs)" = "linux_amd64/ linux_amd64/one linux_arm64/ linux_arm64/two" ]
	[ "$(ls "$out.flat")" = $'one\ntwo' ]
	cp "$ctx/amd64/one" "$ctx/arm64/one"
	run ! mica build -q --platform linux/amd64,linux/arm64 -o "type=local,dest=$out.both,platform-split=false" "$ctx"
	[[ $output == *"'one'"*"File exists"* ]]
	[ ! -e "$out.both" ]
	run -2 mica build -q --platform linux/amd64,linux/arm64 -o "type=docker,dest=$out.d" "$ctx"
	[[ $output == *"one platform"* ]]
}

@test "a RUN of another platform without emulator is refused before anything runs (RCP-505)" {
	printf 'FROM base\nRUN echo first\nFROM --platform=linux/s390x scratch\nCOPY --from=0 /bin /bin\nRUN ["/bin/true"]\n' | dockerfile
	grep -qs '^enabled' /proc/sys/fs/binfmt_misc/qemu-s390x && skip "an emulator for s390x is registered"
	run ! mica build --progress plain "$ctx"
	[[ $output == *"Dockerfile:5"*"RUN for platform 'linux/s390x' needs an emulator"* ]] || [[ $output == *"needs an emulator"* ]]
	[[ $output != *"echo first"*DONE* ]]
}

@test "a RUN of another platform runs where an emulator is registered (RCP-505)" {
	needs_root
	[ -d /proc/sys/fs/binfmt_misc ] || skip "the kernel has no binfmt_misc"
	mkdir "$out"
	printf 'enabled\ninterpreter /q\nflags: F\noffset 0\nmagic 7f454c4602020100000000000000000000020016\nmask ffffffffffffff00fffffffffffffffffffeffff\n' >"$out/any"
	# The programs are this machine's: what is asked is only whether somebody is registered.
	printf 'FROM --platform=linux/s390x scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "touch", "/ran"]\n' | dockerfile
	cp "$BATS_FILE_TMPDIR/rootfs/bin/busybox" "$ctx/"
	unshare -m sh -c 'mount --bind "$1" /proc/sys/fs/binfmt_misc && exec "$0" build -q -t emulated --platform linux/s390x "$2"' "$MICA" "$out" "$ctx"
	mica ls emulated /ran
}

@test "platforms share what is equal, and find it again; steps that differ have keys of their own (RCP-643)" {
	mkdir "$ctx/d" && echo 1 >"$ctx/d/f"
	dockerfile <<-'D'
		FROM --platform=$BUILDPLATFORM base AS one
		COPY d /d
		ARG TARGETARCH
		RUN echo "$TARGETARCH" >/arch
		FROM --platform=$BUILDPLATFORM base AS both
		RUN echo same >/same
		FROM scratch
		COPY --from=one /arch /arch
		COPY --from=both /same /same
		COPY d /d
	D
	steps() {
		mica build -q --platform linux/amd64,linux/arm64 -t p --metadata-file "$out" "$@" "$ctx" && jq -c '."mica.build.steps"' "$out"
	}
	# COPY d once, RUN arch twice, RUN same once; then three COPYs each.
	run -0 steps
	[ "${lines[1]}" = '{"executed":10,"cached":0}' ]
	run -0 steps
	[[ ${lines[1]} == '{"executed":0,'* ]]
	run -0 steps --no-cache -j 1
	[ "${lines[1]}" = '{"executed":10,"cached":0}' ]
	for arch in amd64 arm64; do
		mica build -q --platform "linux/$arch" -o "$out.$arch" "$ctx"
		[ "$(cat "$out.$arch/arch")" = "$arch" ]
	done
}

@test "BUILDKIT_MULTI_PLATFORM makes an index around one image" {
	simple
	mica build -q -t x --build-arg BUILDKIT_MULTI_PLATFORM=1 -o "type=oci,dest=$out,tar=false" "$ctx"
	run -0 jq -r '.manifests | length' <(blob "$out" "$(layout_digest "$out")")
	[ "$output" = 1 ]
}

@test "bases of other platforms come from the registry and stay beside each other (RCP-992)" {
	needs_registry
	simple
	mica build -q --platform linux/amd64,linux/arm64 -t "$REGISTRY/team/multi:1" --push "$ctx"
	mica untag "$REGISTRY/team/multi:1"
	printf 'FROM %s/team/multi:1\nCOPY f /g\n' "$REGISTRY" | dockerfile
	mica build -q --platform linux/amd64,linux/arm64 -o "type=oci,dest=$out,tar=false" "$ctx"
	run -0 jq -c '[.manifests[].platform.architecture]' <(blob "$out" "$(layout_digest "$out")")
	[ "$output" = '["amd64","arm64"]' ]
	for n in 0 1; do
		config=$(jq -r .config.digest <(blob "$out" "$(blob "$out" "$(layout_digest "$out")" | jq -r ".manifests[$n].digest")"))
		blob "$out" "$config" | jq -r .architecture
	done | xargs >"$out.archs"
	[ "$(cat "$out.archs")" = "amd64 arm64" ]
	# The plain name is this machine's image; what is there is not asked for again.
	[ "$(mica inspect "$REGISTRY/team/multi:1" | jq -r '.[0].Architecture')" = amd64 ]
	mica build -q --pull --platform linux/arm64 "$ctx"
	[ "$(mica inspect "$REGISTRY/team/multi:1" | jq -r '.[0].Architecture')" = amd64 ]
	mica build -q --pull=never --platform linux/amd64,linux/arm64 "$ctx"
	run ! mica build -q --pull=never --platform linux/s390x -f - "$ctx" <<<"FROM $REGISTRY/team/only:9"
	[[ $output == *"no image '$REGISTRY/team/only:9' in the store"* ]]
}

@test "all-platforms: those of every base that follows the platform (RCP-536)" {
	needs_registry
	simple
	mica build -q --platform linux/amd64,linux/arm64,linux/s390x --provenance -t "$REGISTRY/team/three:1" --push "$ctx"
	mica build -q --platform linux/arm64,linux/s390x,linux/riscv64 -t "$REGISTRY/team/other:1" --push "$ctx"
	mica untag "$REGISTRY/team/three:1"
	all() {
		rm -rf "$out" && mica build -q --all-platforms -o "type=oci,dest=$out,tar=false" "$ctx" &&
			blob "$out" "$(layout_digest "$out")" | jq -c '[.manifests[].platform.architecture]'
	}
	printf 'FROM --platform=$BUILDPLATFORM base AS b\nRUN true\nFROM %s/team/three:1\nCOPY --from=b /bin/sh /sh\n' "$REGISTRY" | dockerfile
	run -0 all
	[ "${lines[-1]}" = '["amd64","arm64","s390x"]' ]
	printf 'FROM %s/team/three:1 AS a\nFROM %s/team/other:1\nCOPY --from=a /f /g\n' "$REGISTRY" "$REGISTRY" | dockerfile
	run -0 all
	[ "${lines[-1]}" = '["arm64","s390x"]' ]
	printf 'FROM scratch\nCOPY f /f\n' | dockerfile
	run -2 all
	[[ $output == *"no base image tells which there are"* ]]
	printf 'FROM %s/team/three:1\n' "$REGISTRY" | dockerfile
	run -2 mica build -q --all-platforms -o "type=docker,dest=$out.d" "$ctx"
	[[ $output == *"holds one platform"* ]]
}

@test "an index with attestations goes to a registry and comes back whole (RCP-529, REG-911)" {
	needs_registry
	simple
	mica build -q --platform linux/amd64,linux/arm64 --provenance --sbom -t "$REGISTRY/team/attested:1" --push --digest-file "$out" "$ctx"
	run -0 skopeo inspect --raw --tls-verify=false "docker://$REGISTRY/team/attested:1"
	[ "$(jq '.manifests | length' <<<"$output")" = 4 ]
	[ "sha256:$(printf %s "$output" | sha256sum | cut -d' ' -f1)" = "$(cat "$out")" ]
	mica pull --root "$out.store" --all-platforms -q "$REGISTRY/team/attested:1"
	mica fsck --root "$out.store"
	[ "$(mica cat --root "$out.store" "$REGISTRY/team/attested:1" /f)" = content ]
	mica pull --root "$out.one" -q "$REGISTRY/team/attested:1"
	[ "$(mica cat --root "$out.one" "$REGISTRY/team/attested:1" /f)" = content ]
}

@test "base layers with urls keep them and their type (RCP-444, RCP-987)" {
	printf 'FROM base\nRUN touch /x\n' | dockerfile
	mica build -q -t odd -o "type=oci,dest=$out,tar=false" "$ctx"
	foreign='.layers[0] |= (.mediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd" | .urls = ["https://files.invalid/l"])'
	load_changed "$out" . odd:foreign "$foreign"
	printf 'FROM odd:foreign\nRUN touch /y\n' | dockerfile
	mica build -q -o "type=oci,dest=$out.2,tar=false,compression=gzip,force-compression=true" "$ctx"
	run -0 jq -c '.layers[] | [.mediaType, .urls]' <(blob "$out.2" "$(layout_digest "$out.2")")
	[ "$output" = '["application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",["https://files.invalid/l"]]
["application/vnd.oci.image.layer.v1.tar+gzip",null]
["application/vnd.oci.image.layer.v1.tar+gzip",null]' ]
}

# --- layers made from layers ---

@test "squash: one layer, the same tree, whiteouts and links included; the history keeps all entries (RCP-527)" {
	echo f >"$ctx/f"
	printf 'FROM base\nRUN mkdir /d && echo a >/d/a && ln /d/a /d/b && echo lower >/lower && ln /lower /lower2 && mkdir /gone && echo x >/gone/x\n' | dockerfile
	mica build -q -t below "$ctx"
	dockerfile <<-'D'
		FROM below
		COPY f /f
		RUN echo more >>/d/a && rm -r /gone && ln /lower /third && rm /f && mkdir /new && touch /new/n
		RUN rm -r /new && echo file >/new && rm /bin/wc && chmod 700 /tmp
		ENV X=1
	D
	mica build -q -t plain "$ctx"
	mica build -q -t squashed --squash "$ctx"
	mica export plain >"$out.1"
	mica export squashed >"$out.2"
	cmp "$out.1" "$out.2"
	run -0 jq -c '[.[0].RootFS.Layers | length]' <(mica inspect squashed)
	[ "$output" = '[3]' ]
	layer=$(mica inspect squashed | jq -r '.[0].RootFS.Layers[2]')
	run -0 tar -tf "$MICA_ROOT/layers/${layer#sha256:}/tar"
	[ "$(grep -F .wh. <<<"$output" | xargs)" = ".wh.gone bin/.wh.wc" ]
	grep -qx lower2 <<<"$output"
	run ! grep -qx f <<<"$output"
	mica save squashed -o "$out.oci"
	run -0 jq -r '[.history[] | select(.empty_layer | not)] | length, .[-1].created_by' <(skopeo inspect --config "docker-archive:$out.oci")
	[ "$output" = $'3\nRUN /bin/sh -c rm -r /new && echo file >/new && rm /bin/wc && chmod 700 /tmp # buildkit' ]
	# Again: nothing is made anew.
	before=$(manifest_of squashed)
	mica build -q -t squashed --squash "$ctx"
	[ "$(manifest_of squashed)" = "$before" ]
}

@test "squash=STAGE: layers below the stage stay (RCP-527)" {
	printf 'FROM base AS one\nRUN echo 1 >/1\nRUN echo 2 >/2\nFROM one AS two\nRUN echo 3 >/3\nRUN echo 4 >/4\nFROM two\nRUN echo 5 >/5\n' | dockerfile
	count() {
		mica inspect x | jq '.[0].RootFS.Layers | length'
	}
	mica build -q -t plain "$ctx"
	mica build -q -t x --squash=two "$ctx"
	[ "$(count)" = 4 ]
	mica diff plain x
	mica build -q -t x --squash=0 "$ctx"
	[ "$(count)" = 2 ]
	run -2 mica build -q --squash=nowhere "$ctx"
	[[ $output == *"there is no stage 'nowhere'"* ]]
}

@test "layers cached without an epoch get its times, rewrite-timestamp=false leaves them (RCP-562)" {
	printf 'FROM base\nRUN mkdir /d && touch /d/now && touch -d @1000 /d/old\n' | dockerfile
	mica build -q -t now "$ctx"
	mica build -q -t dated --source-date-epoch 1500000000 "$ctx"
	[ "$(mica export dated | tar -tv --full-time --utc | grep -E " d/" | awk '{ print $4 "T" $5, $6 }')" = "2017-07-14T02:40:00 d/
2017-07-14T02:40:00 d/now
1970-01-01T00:16:40 d/old" ]
	[ "$(mica inspect dated | jq -r '.[0].Created')" = 2017-07-14T02:40:00Z ]
	mica build -q -t kept --timestamp 1500000000 -o type=image,rewrite-timestamp=false "$ctx"
	[ "$(mica inspect kept | jq -c '.[0].RootFS.Layers')" = "$(mica inspect now | jq -c '.[0].RootFS.Layers')" ]
	# The same as from a clean store (RCP-989).
	mica import --root "$out.store" "$BATS_FILE_TMPDIR/rootfs" base >/dev/null
	mica build --root "$out.store" -q -t dated --source-date-epoch 1500000000 "$ctx"
	[ "$(mica inspect dated | jq -c '.[0].RootFS.Layers')" = "$(mica inspect --root "$out.store" dated | jq -c '.[0].RootFS.Layers')" ]
}

@test "two builds from clean stores with an epoch: equal manifest digests, for one thread and for many (RCP-565, RCP-989)" {
	mkdir "$ctx/d"
	for i in $(seq 50); do echo "$i" >"$ctx/d/$i"; done
	head -c 9000000 /dev/zero >"$ctx/d/zeros"
	dockerfile <<-'D'
		FROM base AS b
		RUN for i in 1 2 3; do mkdir /r$i && date >/dev/null && touch /r$i/f; done
		FROM base
		WORKDIR /made/by/workdir
		COPY <<EOF /heredoc
		text
		EOF
		COPY d /implicit/parents/d
		COPY --from=b /r1 /r1
		RUN touch now && head -c 5000000 /dev/zero >big
	D
	tar -C "$BATS_FILE_TMPDIR/rootfs" --sort=name --mtime=@1000000 --owner=0 --group=0 -cf "$out.base.tar" .
	for n in 1 2; do
		export SOURCE_DATE_EPOCH=1600000000
		[ "$n" = 2 ] && [ -c /dev/fuse ] && export MICA_DRIVER=fuse
		mica import --root "$out.$n" "$out.base.tar" base >/dev/null
		if [ "$n" = 1 ]; then
			taskset -c 0 "$MICA" build --root "$out.$n" -q -j 1 -t r --digest-file "$out.d$n" "$ctx"
		else
			touch "$ctx/d"/*
			mica build --root "$out.$n" -q -t r --digest-file "$out.d$n" "$ctx"
		fi
	done
	# COPY keeps the times of the context, and they were changed to later ones: all become the epoch.
	cmp "$out.d1" "$out.d2"
}

# A web server on the directory $1, at $HTTP until its descriptor 8 is closed.
serve() {
	mkfifo "$BATS_TEST_TMPDIR/in" "$BATS_TEST_TMPDIR/address"
	"$MICA_TEST_TOOLS/httpsim" "$1" <"$BATS_TEST_TMPDIR/in" >"$BATS_TEST_TMPDIR/address" 2>/dev/null 3>&- &
	exec 8>"$BATS_TEST_TMPDIR/in"
	read -r HTTP <"$BATS_TEST_TMPDIR/address"
}

@test "an epoch from a git context, a named one, an archive by URL, a stage (RCP-562, RCP-989)" {
	created() {
		mica inspect e | jq -r '.[0].Created' && mica cat e /seen
	}
	mkdir -p "$out/git" "$out/files" "$out/work"
	printf 'FROM base\nARG SOURCE_DATE_EPOCH\nRUN echo "$SOURCE_DATE_EPOCH" >/seen\n' | tee "$ctx/Dockerfile" >"$out/work/Dockerfile"
	(
		cd "$out/work" && export GIT_COMMITTER_DATE="1300000000 +0000" GIT_AUTHOR_DATE="1200000000 +0000"
		git init -q . && git add . && git -c user.name=x -c user.email=x@y commit -q -m 1
		git clone -q --bare . "$out/git/app.git"
	)
	touch -d @1250000000 "$out/work/Dockerfile"
	tar -C "$out/work" -cf "$out/files/a.tar" Dockerfile
	serve "$out"
	mica build -q -t e --source-date-epoch context "http://$HTTP/git/app.git"
	[ "$(created)" = $'2011-03-13T07:06:40Z\n1300000000' ]
	mica build -q -t e --build-arg SOURCE_DATE_EPOCH=Src --build-context "src=http://$HTTP/git/app.git" "$ctx"
	[ "$(created)" = $'2011-03-13T07:06:40Z\n1300000000' ]
	SOURCE_DATE_EPOCH=context mica build -q -t e "http://$HTTP/files/a.tar"
	[ "$(created)" = $'2009-08-11T14:13:20Z\n1250000000' ]
	curl -sf "http://$HTTP/_control/rules" -d '{"/files/a.tar": {"headers": {"Last-Modified": "Thu, 01 Jan 2015 00:00:00 GMT"}}}'
	mica build -q -t e --source-date-epoch context "http://$HTTP/files/a.tar"
	[ "$(created)" = $'2015-01-01T00:00:00Z\n1420070400' ]
	printf 'FROM scratch AS stamp\nARG N=a\nADD http://%s/files/$N.tar /\n%s\n' "$HTTP" "$(cat "$out/work/Dockerfile")" | dockerfile
	mica build -q -t e --source-date-epoch stamp "$ctx"
	[ "$(created)" = $'2015-01-01T00:00:00Z\n1420070400' ]
	# The provenance names the commit of a context and what ADD fetched.
	printf 'FROM scratch\nADD http://%s/files/a.tar?token=hidden /\nADD http://%s/git/app.git#HEAD /g/\n' "$HTTP" "$HTTP" | dockerfile
	commit=$(git -C "$out/work" rev-parse HEAD)
	for n in 1 2; do
		mica build -q --provenance=max,builder-id=https://b.example/1 --metadata-file "$out.md" "$ctx"
		run -0 jq -c '."buildx.build.provenance" | .runDetails.builder.id, .buildDefinition.resolvedDependencies[]' "$out.md"
		[ "$output" = "\"https://b.example/1\"
{\"uri\":\"http://$HTTP/files/a.tar\",\"digest\":{\"sha256\":\"$(sha256sum <"$out/files/a.tar" | cut -d' ' -f1)\"}}
{\"uri\":\"http://$HTTP/git/app.git#HEAD\",\"digest\":{\"gitCommit\":\"$commit\"}}" ]
	done
	mica build -q --attest type=provenance,mode=max --metadata-file "$out.md" "http://$HTTP/git/app.git"
	[ "$(jq -c '."buildx.build.provenance".buildDefinition.externalParameters.configSource' "$out.md")" = \
		"{\"uri\":\"http://$HTTP/git/app.git\",\"digest\":{\"gitCommit\":\"$commit\"},\"path\":\"Dockerfile\"}" ]
	run -2 mica build -q --source-date-epoch x --build-context x=docker-image://base "$ctx"
	[[ $output == *"an image is no source"* ]]
	exec 8>&-
	# A directory has none; a number is seen by who declares it, and by nobody else.
	printf 'FROM base\nARG SOURCE_DATE_EPOCH\nRUN echo "[$SOURCE_DATE_EPOCH]" >/seen\n' | dockerfile
	mica build -q -t e --source-date-epoch context "$ctx"
	[[ $(created) == 202*"[]" ]]
	SOURCE_DATE_EPOCH=1400000000 mica build -q -t e "$ctx"
	[ "$(created)" = $'2014-05-13T16:53:20Z\n[1400000000]' ]
	printf 'FROM base\nRUN echo "[$SOURCE_DATE_EPOCH]" >/seen\n' | dockerfile
	run -0 env SOURCE_DATE_EPOCH=1400000000 "$MICA" build -t e "$ctx"
	[[ $output != *"not consumed"* ]]
	[ "$(mica cat e /seen)" = "[]" ]
}

@test "wrong epochs are refused (RCP-989)" {
	simple
	run -2 mica build -q --source-date-epoch soon "$ctx"
	[[ $output == *"bad SOURCE_DATE_EPOCH 'soon'"* ]]
	run -2 mica build -q --source-date-epoch 12x "$ctx"
	[[ $output == *"bad SOURCE_DATE_EPOCH '12x'"* ]]
	printf 'FROM scratch AS two\nADD http://x/a /\nADD http://x/b /\nFROM scratch AS local\nADD f /\n' | dockerfile
	for stage in two local; do
		run -2 mica build -q --source-date-epoch "$stage" "$ctx"
		[[ $output == *"bad SOURCE_DATE_EPOCH '$stage'"* ]]
	done
	simple
	run -2 mica build -q --build-arg SOURCE_DATE_EPOCH=-1 "$ctx"
	[[ $output == *"bad SOURCE_DATE_EPOCH '-1'"* ]]
}

# --- attestations ---

@test "provenance: as BuildKit keeps it; materials, arguments, recipe; nothing without being asked (RCP-529, RCP-992)" {
	echo token >"$BATS_TEST_TMPDIR/secret"
	printf 'FROM base\nARG A\nRUN --mount=type=secret,id=tok --network=none true\n' | dockerfile
	mica build -q -t plain -o "type=oci,dest=$out.plain,tar=false" "$ctx"
	[ "$(jq -r '.manifests[0].mediaType' "$out.plain/index.json")" = application/vnd.oci.image.manifest.v1+json ]
	mica build -q -t app --provenance=max --build-arg A=1 --build-arg HTTPS_PROXY=http://u:hidden@p --label l=m --secret "id=tok,src=$BATS_TEST_TMPDIR/secret" \
		-o "type=oci,dest=$out,tar=false" -o type=image --iidfile "$out.id" --metadata-file "$out.md" "$ctx"
	index=$(layout_digest "$out")
	run -0 jq -c '.manifests[] | [.platform.os, .annotations["vnd.docker.reference.type"]]' <(blob "$out" "$index")
	[ "$output" = $'["linux",null]\n["unknown","attestation-manifest"]' ]
	image=$(blob "$out" "$index" | jq -r '.manifests[0].digest')
	[ "$(blob "$out" "$index" | jq -r '.manifests[1].annotations["vnd.docker.reference.digest"]')" = "$image" ]
	attestation=$(blob "$out" "$index" | jq -r '.manifests[1].digest')
	run -0 jq -r '.layers[] | .mediaType, .annotations["in-toto.io/predicate-type"]' <(blob "$out" "$attestation")
	[ "$output" = $'application/vnd.in-toto+json\nhttps://slsa.dev/provenance/v1' ]
	blob "$out" "$(blob "$out" "$attestation" | jq -r '.layers[0].digest')" >"$out.statement"
	run -0 jq -r '._type, .predicateType, .subject[0].digest.sha256, .subject[0].name' "$out.statement"
	[ "$output" = "https://in-toto.io/Statement/v1
https://slsa.dev/provenance/v1
${image#sha256:}
pkg:docker/app@latest?platform=linux%2Famd64" ]
	run -0 jq -c '.predicate.buildDefinition | [.externalParameters.request.args, .externalParameters.request.secrets, .externalParameters.configSource.path]' "$out.statement"
	[ "$output" = '[{"build-arg:A":"1","label:l":"m"},[{"id":"tok"}],"Dockerfile"]' ]
	run -0 jq -r '.predicate.buildDefinition.resolvedDependencies[] | .uri, .digest.sha256' "$out.statement"
	[ "$output" = "pkg:docker/base@latest?platform=linux%2Famd64
$(manifest_of base | cut -d: -f2)" ]
	[ "$(jq -r '.predicate.runDetails.metadata.mica_metadata.source.text' "$out.statement")" = "$(cat "$ctx/Dockerfile")" ]
	run ! grep -qE 'token|hidden' "$out.statement"
	[ "$(jq -r '."buildx.build.provenance".buildDefinition.buildType' "$out.md")" = urn:mica:build:v1 ]
	# It is an image like any other.
	[ "$(mica inspect app | jq -r '.[0].Id')" = "$(cat "$out.id")" ]
	mica run app true
	mica gc
	skopeo inspect --config "oci:$out:latest" >/dev/null
}

@test "provenance min has no arguments, with an epoch it is reproducible (RCP-529, RCP-989)" {
	simple
	for n in 1 2; do
		mica build -q --no-cache --attest type=provenance --sbom --build-arg A=1 --source-date-epoch 1600000000 \
			-o "type=oci,dest=$out.$n,tar=false" "$ctx"
	done
	[ "$(layout_digest "$out.1")" = "$(layout_digest "$out.2")" ]
	run ! grep -rq '"build-arg' "$out.1/blobs"
	run -2 mica build -q --provenance=most "$ctx"
	[[ $output == *"min, max or false"* ]]
	run ! mica build -q --sbom=generator=x/y "$ctx"
	[[ $output == *"are not run"* ]]
}

@test "sbom: what dpkg and apk have installed (RCP-529)" {
	mkdir -p "$ctx/var/lib/dpkg" "$ctx/lib/apk/db" "$ctx/etc"
	printf 'ID=debian\nVERSION_ID="12"\n' >"$ctx/etc/os-release"
	cp "$PWD/tests/fuzz/inputs/packages/dpkg" "$ctx/var/lib/dpkg/status"
	cp "$PWD/tests/fuzz/inputs/packages/apk" "$ctx/lib/apk/db/installed"
	printf 'FROM scratch\nCOPY . /\n' | dockerfile
	mica build -q -t app --platform linux/amd64,linux/arm64 --sbom -o "type=oci,dest=$out,tar=false" "$ctx"
	index=$(layout_digest "$out")
	[ "$(blob "$out" "$index" | jq -c '[.manifests[].platform.os]')" = '["linux","linux","unknown","unknown"]' ]
	layer=$(blob "$out" "$(blob "$out" "$index" | jq -r '.manifests[3].digest')" | jq -r '.layers[0].digest')
	run -0 jq -r '.predicateType, (.predicate.packages[1:][] | .externalRefs[0].referenceLocator)' <(blob "$out" "$layer")
	[ "$output" = "https://spdx.dev/Document
pkg:apk/debian/busybox@1.36?arch=x86_64&distro=debian-12
pkg:apk/debian/musl@1.2.4-r2?arch=x86_64&distro=debian-12
pkg:deb/debian/bash@5.2.15-2?arch=amd64&distro=debian-12" ]
	run -0 jq -r '.predicate | .spdxVersion, .creationInfo.created, (.relationships | length)' <(blob "$out" "$layer")
	[[ $output == SPDX-2.3* ]]
}

# --- configuration and history ---

# Imports layout $1 after 'jq $2' over the config of its image and $4 over its manifest, as image $3.
load_changed() {
	local config size manifest
	manifest=$(layout_digest "$1")
	blob "$1" "$(blob "$1" "$manifest" | jq -r .config.digest)" | jq -c "$2" | tr -d '\n' >"$1/config"
	config=$(sha256sum <"$1/config" | cut -d' ' -f1)
	size=$(stat -c %s "$1/config")
	mv "$1/config" "$1/blobs/sha256/$config"
	blob "$1" "$manifest" | jq -c ".config.digest = \"sha256:$config\" | .config.size = $size | ${4:-.}" | tr -d '\n' >"$1/manifest"
	manifest=$(sha256sum <"$1/manifest" | cut -d' ' -f1)
	size=$(stat -c %s "$1/manifest")
	mv "$1/manifest" "$1/blobs/sha256/$manifest"
	jq -c ".manifests[0].digest = \"sha256:$manifest\" | .manifests[0].size = $size" "$1/index.json" >"$1/index"
	mv "$1/index" "$1/index.json"
	mica load "oci:$1" "$3"
}

@test "base: labels are inherited, annotations not; unknown fields and history stay (RCP-433, RCP-985, RCP-986)" {
	printf 'FROM base\nLABEL from=base\nRUN touch /x\nENV E=1\n' | dockerfile
	mica build -q -t odd -o "type=oci,dest=$out,tar=false,annotation.of=base" "$ctx"
	load_changed "$out" '.unknown = {"a": [1, null]} | .config.Strange = "x" | .author = "me"' odd:1
	printf 'FROM odd:1\nRUN touch /y\nLABEL own=1\nWORKDIR /tmp\n' | dockerfile
	mica build -q -t next -o "type=oci,dest=$out.2,tar=false" -o type=image "$ctx"
	manifest=$(blob "$out.2" "$(layout_digest "$out.2")")
	[ "$(jq -c '.annotations' <<<"$manifest")" = null ]
	blob "$out.2" "$(jq -r .config.digest <<<"$manifest")" >"$out.config"
	[ "$(jq -c '[.unknown, .config.Strange, .author, .config.Labels]' "$out.config")" = '[{"a":[1,null]},"x","me",{"from":"base","own":"1"}]' ]
	# Base entries first, one for each instruction, non-empty ones as many as layers.
	run -0 jq -r '.history[-6:][].created_by' "$out.config"
	[ "$output" = "LABEL from=base
RUN /bin/sh -c touch /x # buildkit
ENV E=1
RUN /bin/sh -c touch /y # buildkit
LABEL own=1
WORKDIR /tmp" ]
	[ "$(jq '[.history[] | select(.empty_layer | not)] | length' "$out.config")" = "$(jq '.rootfs.diff_ids | length' "$out.config")" ]
}

@test "what changes the configuration alone makes config and manifest, nothing else (RCP-447, RCP-983)" {
	printf 'FROM base\nRUN touch /x\nENV A=1\n' | dockerfile
	mica build -q -t meta "$ctx"
	before=$(mica inspect meta | jq -c '.[0].RootFS')
	(cd "$MICA_ROOT" && find layers oci/blobs -type f) | sort >"$out"
	printf 'FROM base\nRUN touch /x\nENV A=2\nLABEL x=y\nCMD ["/x"]\n' | dockerfile
	mica build -q -t meta --metadata-file "$out.md" "$ctx"
	[ "$(jq '."mica.build.steps".executed' "$out.md")" = 0 ]
	[ "$(mica inspect meta | jq -c '.[0].RootFS')" = "$before" ]
	run -0 comm -13 "$out" <(cd "$MICA_ROOT" && find layers oci/blobs -type f | sort)
	[ "${#lines[@]}" = 2 ]
}

@test "an image gets no label, annotation or comment of its own (RCP-436)" {
	simple
	mica build -q -t pure -o "type=oci,dest=$out,tar=false" "$ctx"
	manifest=$(blob "$out" "$(layout_digest "$out")")
	[ "$(jq -c 'keys' <<<"$manifest")" = '["config","layers","mediaType","schemaVersion"]' ]
	run -0 jq -c '[keys, .config]' <(blob "$out" "$(jq -r .config.digest <<<"$manifest")")
	[ "$output" = '[["architecture","config","created","history","os","rootfs"],{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","A=b"],"WorkingDir":"/"}]' ]
}
