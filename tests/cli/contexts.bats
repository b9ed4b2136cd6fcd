#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Where files come from: contexts of every kind, named contexts, ADD of URLs and git. The web and git server is httpsim, on
# loopback.
# shellcheck disable=SC2154,SC2016
load common
load user

setup_file() {
	mica_setup_file
	export SRV="$BATS_FILE_TMPDIR/srv" HTTP
	mkdir -p "$SRV/files" "$SRV/git"
	mkfifo "$BATS_FILE_TMPDIR/alive"
	"$MICA_TEST_TOOLS/httpsim" "$SRV" <"$BATS_FILE_TMPDIR/alive" >"$BATS_FILE_TMPDIR/address" 3>&- &
	exec 9>"$BATS_FILE_TMPDIR/alive"
	while ! [ -s "$BATS_FILE_TMPDIR/address" ]; do read -rt 0.05 <>"$BATS_FILE_TMPDIR/alive" || true; done
	HTTP="http://$(cat "$BATS_FILE_TMPDIR/address")"
	export GIT_CONFIG_GLOBAL="$BATS_FILE_TMPDIR/gitconfig" GIT_CONFIG_NOSYSTEM=1
	git config --global user.email t@example.org
	git config --global user.name t
	git config --global protocol.file.allow always
	export GIT_COMMITTER_DATE='2020-01-02T03:04:05Z' GIT_AUTHOR_DATE='2020-01-02T03:04:05Z'
	repository r
}

teardown_file() {
	exec 9>&-
}

setup() {
	context
	out="$BATS_TEST_TMPDIR/out"
	http reset
}

teardown() {
	assert_clean
}

# http reset | rules <JSON | log
http() {
	case $1 in
	log) curl -sS "$HTTP/_control/log" ;;
	rules) curl -sS --data-binary @- "$HTTP/_control/rules" ;;
	reset) curl -sS -d '' "$HTTP/_control/reset" ;;
	esac
}

# Statuses of the requests for a path, in order.
statuses() {
	http log | jq -r --arg path "$1" '[.[] | select(.path == $path) | .status] | map(tostring) | join(" ")'
}

# A repository with two commits: tag v1 (annotated) is the first, branch 'side' differs. Served at /git/NAME.git.
repository() {
	local name=$1 work="$BATS_FILE_TMPDIR/work-$1"
	shift
	git init -q -b main "$@" "$work"
	mkdir -p "$work/sub/deep"
	echo one >"$work/f"
	echo deep >"$work/sub/deep/x"
	printf '#!/bin/sh\n' >"$work/run"
	chmod 755 "$work/run"
	ln -s sub/deep "$work/link"
	ln -s /etc "$work/abs"
	printf 'f export-ignore\n' >"$work/.gitattributes"
	printf 'FROM scratch\nCOPY . /\n' >"$work/Dockerfile"
	git -C "$work" add .
	git -C "$work" commit -qm first
	git -C "$work" tag -a v1 -m v1
	echo two >"$work/f"
	git -C "$work" commit -qam second
	git -C "$work" checkout -qb side
	echo side >"$work/f"
	git -C "$work" commit -qam side
	git -C "$work" checkout -q main
	publish "$name"
}

publish() {
	rm -rf "$SRV/git/$1.git"
	git clone -q --bare "$BATS_FILE_TMPDIR/work-$1" "$SRV/git/$1.git"
	git -C "$SRV/git/$1.git" update-server-info
}

commit_of() {
	git -C "$BATS_FILE_TMPDIR/work-r" rev-parse "$1"
}

# Builds to $out; the recipe is standard input, the rest are arguments.
built() {
	rm -rf "$out"
	mica build -q -o "$out" -f - "$@"
}

# --- git ---

@test "ADD git: branch, tag, commit, full ref, query, subdirectory; modes, owner, times (RCP-336, RCP-815, RCP-947)" {
	built "$ctx" <<-END
		FROM scratch
		ADD $HTTP/git/r.git /head
		ADD $HTTP/git/r.git#side /side
		ADD $HTTP/git/r.git#v1 /v1
		ADD $HTTP/git/r.git#refs/tags/v1:sub /sub
		ADD $HTTP/git/r.git#$(commit_of side) /commit
		ADD $HTTP/git/r.git?branch=side&subdir=sub/deep /deep
		ADD --chown=5:6 $HTTP/git/r.git#v1:/sub/../sub/ /owned
		ADD $HTTP/git/r.git?mtime=checkout /clock
		ADD $HTTP/git/r.git#heads/side /partial
		ADD $HTTP/git/r.git#tags/v1 /partialtag
	END
	[ "$(cat "$out"/{head,side,v1,commit,partial,partialtag}/f)" = $'two\nside\none\nside\nside\none' ]
	[ "$(cd "$out" && echo sub/* deep/* owned/*)" = "sub/deep deep/x owned/deep" ]
	[ "$(readlink "$out/head/link" "$out/head/abs")" = $'sub/deep\n/etc' ]
	[ -z "$(find "$out" -name .git)" ]
	[ "$(stat -c %Y "$out/head/f")" = "$(date -d "$GIT_COMMITTER_DATE" +%s)" ]
	[ "$(stat -c %Y "$out/clock/f")" -gt $(($(date +%s) - 600)) ]
	mica build -q -t g -f - "$ctx" <<-END
		FROM scratch
		ADD $HTTP/git/r.git#v1 /v1
	END
	mica ls -lR g | tee "$BATS_TEST_TMPDIR/ls"
	grep -E '^-rwxr-xr-x +1 +0 +0 +10 2020-01-02 03:04 v1/run' "$BATS_TEST_TMPDIR/ls"
	grep -E '^-rw-r--r-- +1 +0 +0 +4 2020-01-02 03:04 v1/f' "$BATS_TEST_TMPDIR/ls"
	grep -E '^drwxr-xr-x .* 2020-01-02 03:04 v1/sub/deep' "$BATS_TEST_TMPDIR/ls"
}

@test "ADD git: the commit decides: a hit fetches nothing, a moved branch is a miss (RCP-336, RCP-982)" {
	repository move
	printf 'FROM scratch\nADD %s /\n' "$HTTP/git/move.git" >"$ctx/Dockerfile"
	mica build -q -t a "$ctx"
	http reset
	run -0 mica build --progress plain -t a "$ctx"
	[[ $output == *CACHED* ]]
	[ "$(http log | jq '[.[] | select(.path | contains("git-upload-pack")) | select(.method == "POST")] | length')" -le 1 ]
	# The same commit from elsewhere, by a name or by its id.
	printf 'FROM scratch\nADD %s#main /\n' "$HTTP/dumb/move.git" >"$ctx/Dockerfile"
	run -0 mica build --progress plain -t a "$ctx"
	[[ $output == *CACHED* ]]
	printf 'FROM scratch\nADD %s#%s /\n' "$HTTP/none/move.git" "$(git -C "$SRV/git/move.git" rev-parse main)" >"$ctx/Dockerfile"
	run -0 mica build --progress plain -t a "$ctx"
	[[ $output == *CACHED* ]]
	echo three >"$BATS_FILE_TMPDIR/work-move/f"
	git -C "$BATS_FILE_TMPDIR/work-move" commit -qam third
	publish move
	printf 'FROM scratch\nADD %s /\n' "$HTTP/git/move.git" >"$ctx/Dockerfile"
	mica build -q -o "$out" "$ctx"
	[ "$(cat "$out/f")" = three ]
}

@test "ADD git: --keep-git-dir gives a clean repository at its tag, without credentials (RCP-336, RCP-947)" {
	built "$ctx" <<-END
		FROM scratch
		ADD --keep-git-dir $HTTP/git/r.git#v1 /r
	END
	[ -z "$(git -c safe.directory='*' -C "$out/r" status --porcelain)" ]
	[ "$(git -c safe.directory='*' -C "$out/r" describe)" = v1 ]
	[ "$(git -c safe.directory='*' -C "$out/r" remote get-url origin)" = "$HTTP/git/r.git" ]
	[ -z "$(ls "$out/r/.git/hooks" 2>/dev/null)" ]
}

@test "ADD git: submodules come along, relative ones too, unless they are not wanted (RCP-336, RCP-947)" {
	local work="$BATS_FILE_TMPDIR/work-super"
	git init -q -b main "$work"
	git -C "$work" submodule --quiet add "$HTTP/git/r.git" mod
	git -C "$work" config -f .gitmodules submodule.mod.url ../r.git
	git -C "$work" add .gitmodules
	git -C "$work" commit -qm super
	publish super
	built "$ctx" <<-END
		FROM scratch
		ADD $HTTP/git/super.git /with
		ADD $HTTP/git/super.git?submodules=false /without
		ADD $HTTP/git/super.git?keep-git-dir=1 /kept
	END
	[ "$(cat "$out/with/mod/f")" = two ]
	[ -z "$(ls "$out/without/mod")" ]
	[ -z "$(find "$out/with" -name .git)" ]
	[ -z "$(git -c safe.directory='*' -C "$out/kept" status --porcelain)" ]
}

@test "ADD git: a submodule on this machine's disk or by a command is refused (SEC-B10)" {
	local work="$BATS_FILE_TMPDIR/work-evil" url
	git init -q -b main "$work"
	git -C "$work" submodule --quiet add "$HTTP/git/r.git" mod
	for url in "file://$SRV/git/r.git" "ext::sh -c touch% $BATS_TEST_TMPDIR/ran" "$SRV/git/r.git"; do
		git -C "$work" config -f .gitmodules submodule.mod.url "$url"
		git -C "$work" add .gitmodules
		git -C "$work" commit -qm evil
		publish evil
		run ! built "$ctx" <<-END
			FROM scratch
			ADD $HTTP/git/evil.git /
		END
		[[ $output == *"git submodule"* ]]
		[ ! -e "$BATS_TEST_TMPDIR/ran" ]
	done
}

@test "ADD git: checksum, flags against the address, missing ref and directory, no network (RCP-336, RCP-337, SEC-I04)" {
	local commit
	commit=$(commit_of main)
	built "$ctx" <<-END
		FROM scratch
		ADD --checksum=${commit:0:12} $HTTP/git/r.git /a
		ADD $HTTP/git/r.git?fetch-by-commit&checksum=$commit /b
	END
	[ "$(cat "$out/a/f" "$out/b/f")" = $'two\ntwo' ]
	add() {
		printf 'FROM scratch\nADD %s /\n' "$*" >"$BATS_TEST_TMPDIR/Dockerfile"
		run ! mica build -f "$BATS_TEST_TMPDIR/Dockerfile" "$ctx"
	}
	add --checksum=0123456 "$HTTP/git/r.git"
	[[ $output == *"checksum mismatch: the commit is '$commit'"* ]]
	add --keep-git-dir "$HTTP/git/r.git?keep-git-dir=0"
	[[ $output == *"--keep-git-dir contradicts"* ]]
	add --checksum=aa "$HTTP/git/r.git?checksum=bb"
	[[ $output == *"checksum conflicts"* ]]
	add "$HTTP/git/r.git#nothing"
	[[ $output == *"has no ref 'nothing'"* ]]
	add "$HTTP/git/r.git#:nothing"
	[[ $output == *'"/nothing": not found'* ]]
	add "$HTTP/git/gone.git"
	[[ $output == *"git repository '$HTTP/git/gone.git': git ls-remote"* ]]
	run ! mica build --network none -f "$BATS_TEST_TMPDIR/Dockerfile" "$ctx"
	[[ $output == *"the build has no network"* ]]
	PATH=/nonexistent run ! "$MICA" build -f "$BATS_TEST_TMPDIR/Dockerfile" "$ctx"
	[[ $output == *"the program 'git' is not installed"* ]]
}

@test "ADD git: a subdirectory cannot leave the repository through a symlink (SEC-B10)" {
	local directory
	for directory in abs link/../../../../etc abs/passwd; do
		printf 'FROM scratch\nADD %s /\n' "$HTTP/git/r.git#:$directory" >"$ctx/Dockerfile"
		run ! mica build -o "$out" "$ctx"
		[[ $output == *"not found"* ]]
	done
	printf 'FROM scratch\nADD %s /\n' "$HTTP/git/r.git#:link" >"$ctx/Dockerfile"
	mica build -q -o "$out" "$ctx"
	[ "$(ls "$out")" = x ]
}

@test "ADD git: repositories of SHA-256, and servers of plain files (RCP-336, RCP-947)" {
	repository wide --object-format=sha256
	built "$ctx" <<-END
		FROM scratch
		ADD $HTTP/git/wide.git#v1 /wide
		ADD $HTTP/dumb/r.git#side /dumb
	END
	[ "$(cat "$out/wide/f" "$out/dumb/f")" = $'one\nside' ]
}

@test "ADD git: nothing of the user's configuration or hooks is used (SEC-B10)" {
	mkdir -p "$BATS_TEST_TMPDIR/home/hooks"
	printf '#!/bin/sh\ntouch %s\n' "$BATS_TEST_TMPDIR/ran" >"$BATS_TEST_TMPDIR/home/hooks/post-checkout"
	chmod 755 "$BATS_TEST_TMPDIR/home/hooks/post-checkout"
	printf '[core]\n\thooksPath = %s\n[url "http://127.0.0.1:1/"]\n\tinsteadOf = %s\n' \
		"$BATS_TEST_TMPDIR/home/hooks" "$HTTP" >"$BATS_TEST_TMPDIR/home/.gitconfig"
	repository plain
	HOME="$BATS_TEST_TMPDIR/home" GIT_CONFIG_GLOBAL="$BATS_TEST_TMPDIR/home/.gitconfig" GIT_DIR=/nonexistent \
		built "$ctx" <<-END
			FROM scratch
			ADD $HTTP/git/plain.git?submodules=0 /
		END
	[ "$(cat "$out/f")" = two ]
	[ ! -e "$BATS_TEST_TMPDIR/ran" ]
}

# --- credentials ---

@test "GIT_AUTH_TOKEN, GIT_AUTH_HEADER: for their host alone; nowhere else to be found (RCP-211, RCP-338)" {
	local host=${HTTP#http://} canary=canary4711secret
	http rules <<-END
		{"/git/private.git/*": {"auth": "basic $(printf 'x-access-token:%s' $canary | base64 -w0)"},
		 "/git/header.git/*": {"auth": "Bearer $canary"}}
	END
	repository private
	repository header
	printf 'FROM scratch\nADD %s /\n' "$HTTP/git/private.git" >"$ctx/Dockerfile"
	run ! mica build "$ctx"
	[[ $output == *"git repository '$HTTP/git/private.git'"* ]]
	TOKEN=$canary mica build -q --secret id=GIT_AUTH_TOKEN,env=TOKEN -o "$out" "$ctx"
	[ "$(cat "$out/f")" = two ]
	printf 'FROM scratch\nADD --keep-git-dir %s /\n' "$HTTP/git/header.git" >"$ctx/Dockerfile"
	run ! env TOKEN="Bearer $canary" "$MICA" build --secret id=GIT_AUTH_HEADER.elsewhere,env=TOKEN "$ctx"
	TOKEN="Bearer $canary" mica build -q --secret "id=GIT_AUTH_HEADER.$host,env=TOKEN" -t c "$ctx"
	run ! env TOKEN="Bearer wrong$canary" "$MICA" build --no-cache --secret id=GIT_AUTH_HEADER,env=TOKEN "$ctx"
	[[ $output != *$canary* ]]
	run ! grep -rqa "$canary" "$MICA_ROOT"
	run ! grep -rqa "$(printf 'x-access-token:%s' $canary | base64 -w0)" "$MICA_ROOT"
}

@test "credentials of git are not sent where a redirect leads (RCP-211)" {
	local canary=canary4712
	repository moved
	http rules <<-END
		{"/git/from.git/info/refs": {"redirect": "http://localhost:${HTTP##*:}/git/moved.git/info/refs?service=git-upload-pack"}}
	END
	printf 'FROM scratch\nADD %s /\n' "$HTTP/git/from.git" >"$ctx/Dockerfile"
	TOKEN=$canary run ! mica build --secret id=GIT_AUTH_TOKEN,env=TOKEN "$ctx"
	[ "$(http log | jq '[.[] | select(.headers.Host | startswith("localhost"))] | length')" = 0 ]
	mica build -q "$ctx"
}

@test "a password in a git address is in no image, record, message or argument list (RCP-338)" {
	local canary=canary4713 address
	address="http://me:$canary@${HTTP#http://}/git/word.git"
	repository word
	http rules <<<"{\"/git/word.git/*\": {\"auth\": \"basic $(printf 'me:%s' $canary | base64 -w0)\"}}"
	# The argument lists of git and of what it starts.
	mkdir "$BATS_TEST_TMPDIR/bin"
	printf '#!/bin/bash\necho "git $*" >>%s\nexport GIT_EXEC_PATH=%s\nexec %s "$@"\n' "$BATS_TEST_TMPDIR/titles" \
		"$BATS_TEST_TMPDIR/exec" "$(command -v git)" >"$BATS_TEST_TMPDIR/bin/git"
	printf '#!/bin/bash\necho "$*" >>%s\nexec %s "$@"\n' "$BATS_TEST_TMPDIR/titles" \
		"$(git --exec-path)/git-remote-http" >"$BATS_TEST_TMPDIR/bin/git-remote-http"
	chmod 755 "$BATS_TEST_TMPDIR/bin/"*
	cp -rs "$(git --exec-path)" "$BATS_TEST_TMPDIR/exec"
	cp -f --remove-destination "$BATS_TEST_TMPDIR/bin/git-remote-http" "$BATS_TEST_TMPDIR/exec/git-remote-http"
	printf 'FROM scratch\nADD --keep-git-dir %s /\n' "$address" |
		PATH="$BATS_TEST_TMPDIR/bin:$PATH" mica build -q -t w -f - "$ctx"
	grep -q "^origin $HTTP/git/word.git" "$BATS_TEST_TMPDIR/titles"
	run ! grep -a "$canary" "$BATS_TEST_TMPDIR/titles"
	http rules <<<"{\"/git/word.git/*\": {\"auth\": \"none\"}}"
	printf 'FROM scratch\nARG A\nADD $A /x\n' >"$BATS_TEST_TMPDIR/Dockerfile"
	for address in "$address" "http://$canary@${HTTP#http://}/git/word.git"; do
		run ! mica build --no-cache --progress plain -f "$BATS_TEST_TMPDIR/Dockerfile" --build-arg A="$address" "$ctx"
		[[ $output == *"git repository 'http://127.0.0.1"* && $output != *$canary* ]]
	done
	mica history --no-trunc w | grep -F 'ADD http://****@127.0.0.1'
	run ! mica build "$address"
	[[ $output != *$canary* ]]
	run ! grep -rqa "$canary" "$MICA_ROOT"
}

@test "HTTP_AUTH_TOKEN, HTTP_AUTH_HEADER: for their host alone, not across a redirect (RCP-211, RCP-334)" {
	local canary=canary4714 port=${HTTP##*:}
	echo private >"$SRV/files/private"
	echo target >"$SRV/files/target"
	http rules <<-END
		{"/files/private": {"auth": "Bearer $canary"},
		 "/files/away": {"auth": "Token $canary", "redirect": "http://localhost:$port/files/target"}}
	END
	printf 'FROM scratch\nADD %s /\n' "$HTTP/files/private" >"$ctx/Dockerfile"
	run ! mica build "$ctx"
	[[ $output == *"cannot download '$HTTP/files/private': status 401"* ]]
	TOKEN=$canary mica build -q --secret id=HTTP_AUTH_TOKEN_127.0.0.1,env=TOKEN "$ctx"
	printf 'FROM scratch\nADD %s /\n' "$HTTP/files/away" >"$ctx/Dockerfile"
	TOKEN="Token $canary" mica build -q --secret "id=HTTP_AUTH_HEADER_127.0.0.1:$port,env=TOKEN" -o "$out" "$ctx"
	[ "$(cat "$out/away")" = target ]
	[ "$(http log | jq -r '.[] | select(.path == "/files/target") | .headers.Authorization')" = null ]
	run ! grep -rqa "$canary" "$MICA_ROOT"
}

# --- URLs ---

@test "ADD URL: 0600, root, Last-Modified, names (RCP-334, RCP-946)" {
	echo body >"$SRV/files/a b.txt"
	cp "$SRV/files/a b.txt" "$SRV/files/plain"
	http rules <<-END
		{"/files/plain": {"headers": {"Last-Modified": "Sun, 09 Sep 2001 01:46:40 GMT"}},
		 "/files/": {"body": "index"}, "/files/%2e%2e": {"body": "up"}, "/files/x%2Fy": {"body": "slash"}}
	END
	mica build -q -t u -f - "$ctx" <<-END
		FROM scratch
		ADD $HTTP/files/plain?query=1#fragment /d/
		ADD $HTTP/files/a%20b.txt /d/
		ADD $HTTP/files/ /un/
		ADD $HTTP/files/%2e%2e /up/
		ADD $HTTP/files/x%2Fy /slash/
		ADD --chmod=755 --chown=3:4 $HTTP/files/plain /named
	END
	mica ls -lR u | tee "$BATS_TEST_TMPDIR/ls"
	grep -E '^-rw------- +1 +0 +0 +5 2001-09-09 01:46 d/plain' "$BATS_TEST_TMPDIR/ls"
	grep -E '^-rw------- +1 +0 +0 +5 1980-01-02 00:00 d/a b.txt' "$BATS_TEST_TMPDIR/ls"
	grep -E '^-rwxr-xr-x +1 +3 +4 +5 2001-09-09 01:46 named' "$BATS_TEST_TMPDIR/ls"
	[ "$(grep -c ' \(un\|up\|slash\)/__unnamed__$' "$BATS_TEST_TMPDIR/ls")" = 3 ]
}

@test "ADD URL: ETag, then Last-Modified: 304 is a hit; a new body is a miss, the same body is not (RCP-335, RCP-946)" {
	printf 'FROM scratch\nADD %s /\n' "$HTTP/files/doc" >"$ctx/Dockerfile"
	rule() {
		http rules <<<"{\"/files/doc\": $1}"
	}
	again() {
		http reset
		rule "$1"
		run -0 mica build --progress plain -t u "$ctx"
		[ "$(statuses /files/doc)" = "$2" ]
		if [ "$3" = hit ]; then [[ $output == *CACHED* ]]; else [[ $output != *CACHED* ]]; fi
	}
	rule '{"body": "one", "headers": {"ETag": "\"1\"", "Last-Modified": "Sun, 09 Sep 2001 01:46:40 GMT"}}'
	mica build -q -t u "$ctx"
	again '{"body": "one", "headers": {"ETag": "\"1\"", "Last-Modified": "Sun, 09 Sep 2001 01:46:40 GMT"}}' 304 hit
	again '{"body": "one", "headers": {"ETag": "\"2\""}}' 200 hit
	again '{"body": "two", "headers": {"ETag": "\"3\""}}' 200 miss
	again '{"body": "two", "headers": {"ETag": "\"3\""}}' 304 hit
	again '{"body": "two", "headers": {"Last-Modified": "Sun, 09 Sep 2001 01:46:41 GMT"}}' 200 hit
	again '{"body": "two", "headers": {"Last-Modified": "Sun, 09 Sep 2001 01:46:41 GMT"}}' 304 hit
	again '{"body": "two"}' 200 hit
	again '{"body": "two"}' 200 hit
	again '{"body": "one"}' 200 hit
}

@test "ADD URL: checksum instead of a question; mismatch, 404, redirects (RCP-334, RCP-946, SEC-B12)" {
	local sum
	printf content >"$SRV/files/sum"
	sum=$(sha256sum <"$SRV/files/sum" | cut -d' ' -f1)
	printf 'FROM scratch\nADD --checksum=sha256:%s %s /\n' "$sum" "$HTTP/files/sum" >"$ctx/Dockerfile"
	mica build -q "$ctx"
	http reset
	run -0 mica build --progress plain "$ctx"
	[[ $output == *CACHED* ]]
	[ -z "$(statuses /files/sum)" ]
	printf 'FROM scratch\nADD --checksum=sha256:%064d %s /\n' 0 "$HTTP/files/sum" >"$ctx/Dockerfile"
	run ! mica build "$ctx"
	[[ $output == *"digest mismatch: got sha256:$sum, expected sha256:0000"* ]]
	add() {
		printf 'FROM scratch\nADD %s /x\n' "$1" >"$ctx/Dockerfile"
		run ! mica build "$ctx"
	}
	add "$HTTP/files/absent?token=canary"
	[[ $output == *"cannot download '$HTTP/files/absent': status 404"* ]]
	http rules <<<'{"/files/loop": {"redirect": "/files/loop?"}, "/files/file": {"redirect": "file:///etc/passwd"}}'
	add "$HTTP/files/loop"
	[[ $output == *"more redirects than the limit of 10"* ]]
	add "$HTTP/files/file"
	[[ $output == *redirect* ]]
	http rules <<<'{"/files/meta": {"redirect": "http://169.254.169.254/latest"}}'
	add "$HTTP/files/meta"
	[[ $output == *"'169.254.169.254', which is in a network of our own"* ]]
	add "http://me:pass@${HTTP#http://}/files/sum"
	[[ $output == *"credentials in a URL are refused"* ]]
	run ! mica build --network none "$ctx"
	[[ $output == *"the build has no network"* ]]
}

@test "ADD URL: an archive is unpacked only with --unpack; beside files, heredocs and git (RCP-331, RCP-334)" {
	mkdir "$BATS_TEST_TMPDIR/t"
	echo inside >"$BATS_TEST_TMPDIR/t/inside"
	tar -C "$BATS_TEST_TMPDIR/t" -czf "$SRV/files/t.tgz" .
	echo local >"$ctx/local"
	echo one >"$SRV/files/one"
	cp "$SRV/files/t.tgz" "$ctx/here.tgz"
	built "$ctx" <<-END
		FROM scratch
		ADD $HTTP/files/t.tgz /packed/
		ADD --unpack $HTTP/files/t.tgz /unpacked/
		ADD local $HTTP/files/one $HTTP/git/r.git#v1:sub here.tgz /mixed/
		ADD --exclude=f $HTTP/git/r.git#v1 /excluded/
	END
	cmp "$out/packed/t.tgz" "$SRV/files/t.tgz"
	[ "$(cat "$out/unpacked/inside")" = inside ]
	[ "$(cd "$out" && echo mixed/*)" = "mixed/deep mixed/inside mixed/local mixed/one" ]
	[ ! -e "$out/excluded/f" ] && [ -e "$out/excluded/run" ]
}

@test "ADD URL: a body that breaks off is asked for again, and never taken for whole (RCP-334)" {
	head -c 300000 /dev/urandom >"$SRV/files/long"
	printf 'FROM scratch\nADD %s /\n' "$HTTP/files/long" >"$ctx/Dockerfile"
	http rules <<<'{"/files/long": {"cut": 1}}'
	mica build -q -o "$out" "$ctx"
	cmp "$out/long" "$SRV/files/long"
	[ "$(statuses /files/long)" = "200 200" ]
}

@test "ADD archives: each match of a wildcard, PAX global headers, through links that were there; --unpack=false (RCP-331 to RCP-333, RCP-945)" {
	python3 - "$ctx" <<-'E'
		import io, sys, tarfile
		for name in ("a1.tar", "a2.tar"):
		    with tarfile.open(f"{sys.argv[1]}/{name}", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "global"}) as tar:
		        root = tarfile.TarInfo("./"); root.type = tarfile.DIRTYPE; root.mode = 0o700; root.uid = 9
		        tar.addfile(root)
		        for path in (f"deep/er/{name}", f"old/{name}"):
		            entry = tarfile.TarInfo(path); entry.size = 1; entry.uid = 7
		            tar.addfile(entry, io.BytesIO(b"x"))
	E
	echo text >"$ctx/a3.tar"
	: >"$ctx/a4.tar"
	printf 'FROM base\nRUN mkdir -p /to /real && ln -s /real /to/old\nADD a*.tar /to/\nADD --unpack=false a1.tar /kept\nADD --chown=3 --exclude=er --chmod=777 a1.tar /owned/\n' >"$ctx/Dockerfile"
	run -0 --separate-stderr mica build -q -t x "$ctx"
	[[ $stderr == *"--exclude does not reach into the archive 'a1.tar'"*"--chmod does not reach into the archive 'a1.tar'"* ]]
	mica ls -lR x | tee "$BATS_TEST_TMPDIR/ls"
	for path in to/deep/er/a1.tar to/deep/er/a2.tar real/a1.tar real/a2.tar; do
		grep -E " 7 .* $path" "$BATS_TEST_TMPDIR/ls"
	done
	grep -E '^-.* to/a3.tar' "$BATS_TEST_TMPDIR/ls"
	grep -E '^-.* to/a4.tar' "$BATS_TEST_TMPDIR/ls"
	[ "$(mica cat x kept | sha256sum)" = "$(sha256sum <"$ctx/a1.tar")" ]
	run ! grep -E ' (7|9) .* owned' "$BATS_TEST_TMPDIR/ls"
	grep -E '^-rw-r--r-- .* owned/deep/er/a1.tar' "$BATS_TEST_TMPDIR/ls"
}

# --- contexts ---

@test "context from standard input: tar in every compression, or a recipe (RCP-372, RCP-930)" {
	local packer
	mkdir "$ctx/d"
	echo file >"$ctx/d/file"
	printf 'FROM scratch\nCOPY d /\n' >"$ctx/Dockerfile"
	for packer in cat gzip bzip2 xz zstd; do
		rm -rf "$out"
		tar -C "$ctx" -c . | $packer | mica build -q -o "$out" -
		[ "$(cat "$out/file")" = file ]
	done
	printf 'FROM scratch\nCOPY <<E /f\ntext\nE\n' | mica build -q -o "$out" -
	[ "$(cat "$out/f")" = text ]
	printf 'FROM base\nRUN --mount=target=/c cat /c/d/file >/got\n' >"$ctx/Dockerfile"
	tar -C "$ctx" -c . | mica build -q -t r -
	[ "$(mica cat r got)" = file ]
	printf 'FROM scratch\nCOPY d /\n' >"$BATS_TEST_TMPDIR/Recipe"
	run ! mica build - <"$BATS_TEST_TMPDIR/Recipe"
	[[ $output == *'"/d": not found'* ]]
	run ! mica build -f - - </dev/null
	[[ $output == *"cannot both come from standard input"* ]]
}

@test "context from an archive: files become 0:0, a recipe by name in it or outside (RCP-371, RCP-372, RCP-374)" {
	mkdir "$ctx/d"
	echo file >"$ctx/d/file"
	printf 'FROM scratch\nCOPY d /inside\n' >"$ctx/d/Recipe"
	printf 'FROM scratch\nCOPY d/file /outside\n' >"$BATS_TEST_TMPDIR/Recipe"
	tar -C "$ctx" --owner=5 --group=6 -cf "$BATS_TEST_TMPDIR/c.tar" d
	mica build -q -t c -f d/Recipe "$BATS_TEST_TMPDIR/c.tar"
	mica ls -lR c | grep -E ' 0 +0 .* inside/file'
	mica build -q -o "$out" -f "$BATS_TEST_TMPDIR/Recipe" "$BATS_TEST_TMPDIR/c.tar"
	[ -f "$out/outside" ]
	run ! mica build "$BATS_TEST_TMPDIR/c.tar"
	[[ $output == *"no Dockerfile or Containerfile in"* ]]
	run ! mica build "$BATS_TEST_TMPDIR/Recipe"
	[[ $output == *"is neither a directory nor a tar archive"* ]]
}

@test "context by URL: archive or recipe, asked for once more only by its validators; -f URL (RCP-372, RCP-930)" {
	echo file >"$ctx/file"
	printf 'FROM scratch\nCOPY file /\n' >"$ctx/Dockerfile"
	tar -C "$ctx" -czf "$SRV/files/context.tgz" .
	printf 'FROM scratch\nCOPY <<E /f\ntext\nE\n' >"$SRV/files/recipe"
	http rules <<<'{"/files/context.tgz": {"headers": {"ETag": "\"a\""}}}'
	mica build -q -o "$out" "$HTTP/files/context.tgz"
	[ -f "$out/file" ]
	run -0 mica build --progress plain "$HTTP/files/context.tgz"
	[[ $output == *CACHED* ]]
	[ "$(statuses /files/context.tgz)" = "200 304" ]
	mica build -q -o "$out" "$HTTP/files/recipe"
	[ "$(cat "$out/f")" = text ]
	mica build -q -o "$out" -f "$HTTP/files/recipe" "$ctx"
	run ! mica build "$HTTP/files/none"
	[[ $output == *"build context: cannot download '$HTTP/files/none': status 404"* ]]
}

@test "context from git: subdirectory, recipe inside, .git only if asked for (RCP-372, RCP-930)" {
	run -0 mica build --progress plain -o "$out" "$HTTP/git/r.git#side"
	[[ $output == *"commit $(commit_of side)"* ]]
	[ "$(cat "$out/f")" = side ]
	[ ! -e "$out/.git" ]
	mica build -q -o "$out" --build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR=1 "$HTTP/git/r.git"
	[ -d "$out/.git" ]
	rm -rf "$out"
	printf 'FROM scratch\nCOPY x /\n' | mica build -q -o "$out" -f - "$HTTP/git/r.git#v1:sub/deep"
	[ "$(ls "$out")" = x ]
	# A directory of this name is one.
	mkdir -p "$BATS_TEST_TMPDIR/w/github.com/o/r"
	printf 'FROM scratch\nCOPY . /\n' >"$BATS_TEST_TMPDIR/w/github.com/o/r/Dockerfile"
	(cd "$BATS_TEST_TMPDIR/w" && mica build -q -t l github.com/o/r)
}

@test "context from elsewhere: its ignore file is not applied, which is said; only what is taken counts (RCP-351, RCP-604)" {
	mkdir "$ctx/a" "$ctx/b"
	echo 1 >"$ctx/a/f"
	echo 1 >"$ctx/b/f"
	echo a >"$ctx/.dockerignore"
	printf 'FROM scratch\nCOPY a /a\nCOPY b /b\n' >"$ctx/Dockerfile"
	run -0 bash -c "tar -C '$ctx' -c . | '$MICA' build -o '$out' -"
	[[ $output == *"'.dockerignore' of the context is not applied"* ]]
	run -0 bash -c "tar -C '$ctx' -c . | '$MICA' build --ignorefile '$ctx/.dockerignore' -"
	[[ $output == *"--ignorefile is not applied"* ]]
	[ -f "$out/a/f" ]
	echo 2 >"$ctx/b/f"
	run -0 bash -c "tar -C '$ctx' -c . | '$MICA' build --progress plain -"
	[ "$(grep -c CACHED <<<"$output")" = 1 ]
}

@test "hostile archives as context: nothing leaves it, deletions of layers are refused (RCP-317, RCP-333, SEC-X)" {
	hostile() {
		python3 - "$BATS_TEST_TMPDIR/h.tar" "$@" <<-'E'
			import sys, tarfile, io
			with tarfile.open(sys.argv[1], "w", format=tarfile.PAX_FORMAT) as tar:
			    def add(name, link=None, kind=tarfile.REGTYPE, data=b"x"):
			        entry = tarfile.TarInfo(name)
			        entry.type, entry.size = kind, len(data) if kind == tarfile.REGTYPE else 0
			        if link: entry.linkname = link
			        tar.addfile(entry, io.BytesIO(data))
			    add("Dockerfile", data=b"FROM scratch\nCOPY . /\n")
			    for word in sys.argv[2:]:
			        kind, _, rest = word.partition(":")
			        name, _, link = rest.partition("=")
			        add(name, link or None, {"f": tarfile.REGTYPE, "s": tarfile.SYMTYPE, "h": tarfile.LNKTYPE}[kind])
		E
	}
	hostile f:../../escaped f:/abs s:up=../.. f:sub/../../more
	mica build -q -o "$out" "$BATS_TEST_TMPDIR/h.tar"
	[ -f "$out/abs" ] && [ "$(readlink "$out/up")" = ../.. ]
	[ -z "$(find "$BATS_TEST_TMPDIR" "$BATS_FILE_TMPDIR" -maxdepth 2 -name escaped -not -path "$out/*")" ]
	for entries in "f:.wh.x" "s:out=/ f:out/etc/x" "h:hard=../../../../etc/passwd" "s:a=/etc h:b=a/passwd"; do
		# shellcheck disable=SC2086
		hostile $entries
		run mica build -o "$out" "$BATS_TEST_TMPDIR/h.tar"
		[ "$status" = 1 ] || [ ! -e "$out/etc/passwd" ]
		[ ! -s "$out/hard" ] || false
	done
	# A link that leads out is resolved inside.
	hostile s:passwd=/etc/passwd
	printf 'FROM scratch\nCOPY passwd /\n' >"$BATS_TEST_TMPDIR/Recipe"
	run ! mica build -f "$BATS_TEST_TMPDIR/Recipe" "$BATS_TEST_TMPDIR/h.tar"
	[[ $output == *'"/passwd": not found'* ]]
	# Damaged.
	tar -C "$ctx" -cz . | head -c 60 >"$BATS_TEST_TMPDIR/h.tgz" || true
	run ! mica build "$BATS_TEST_TMPDIR/h.tgz"
}

# --- named contexts ---

@test "--build-context: a directory, archive, git, URL for --from and mounts; its own ignore file (RCP-373, RCP-351)" {
	mkdir "$BATS_TEST_TMPDIR/n"
	echo named >"$BATS_TEST_TMPDIR/n/f"
	echo no >"$BATS_TEST_TMPDIR/n/ignored"
	echo ignored >"$BATS_TEST_TMPDIR/n/.dockerignore"
	tar -C "$BATS_TEST_TMPDIR/n" -cf "$BATS_TEST_TMPDIR/n.tar" .
	cp "$BATS_TEST_TMPDIR/n.tar" "$SRV/files/n.tar"
	echo single >"$SRV/files/single"
	built --build-context dir="$BATS_TEST_TMPDIR/n" --build-context tar="$BATS_TEST_TMPDIR/n.tar" \
		--build-context git="$HTTP/git/r.git#v1" --build-context web="$HTTP/files/n.tar" \
		--build-context one="$HTTP/files/single" "$ctx" <<-END
			FROM base AS run
			RUN --mount=from=dir,target=/m cat /m/f >/got; ls /m >/names
			RUN --mount=from=tar,target=/t,source=f cat /t >>/got
			FROM scratch
			COPY --from=dir . /dir
			COPY --from=tar f /tar/
			COPY --from=git f link /git/
			COPY --from=web f /web
			COPY --from=one single /
			COPY --from=run /got /names /
		END
	[ "$(ls "$out/dir")" = f ]
	[ "$(cat "$out/tar/f" "$out/git/f" "$out/web" "$out/single" "$out/got")" = $'named\none\nnamed\nsingle\nnamed\nnamed' ]
	[ "$(cat "$out/names")" = f ]
	[ -f "$out/git/x" ] || [ -f "$out/git/link/x" ]
}

@test "--build-context: in place of a stage, an image, for one platform; scratch stays; unused ones cost nothing (RCP-373)" {
	mica build -q -t other -f - "$ctx" <<-'END'
		FROM scratch
		COPY <<E /which
		other
		E
		ENV FROM_OTHER=1
	END
	mica build -q -o type=oci,dest="$BATS_TEST_TMPDIR/layout",tar=false -t lay:7 -f - "$ctx" <<-'END'
		FROM scratch
		COPY <<E /which
		layout
		E
	END
	which() {
		built "$@" "$ctx" <<-'END'
			FROM docker.io/library/nowhere:latest AS one
			FROM scratch
			COPY --from=one /which /
		END
		cat "$out/which"
	}
	[ "$(which --build-context nowhere=docker-image://other)" = other ]
	[ "$(which --build-context "one=oci-layout://$BATS_TEST_TMPDIR/layout" --build-context nowhere=docker-image://other)" = layout ]
	[ "$(which --build-context "nowhere=oci-layout://$BATS_TEST_TMPDIR/layout:7")" = layout ]
	digest=$(jq -r '.manifests[0].digest' "$BATS_TEST_TMPDIR/layout/index.json")
	[ "$(which --build-context "nowhere=oci-layout://$BATS_TEST_TMPDIR/layout@$digest")" = layout ]
	[ "$(which --build-context nowhere=docker-image://none --build-context nowhere::linux/amd64=docker-image://other \
		--build-context unused="$HTTP/files/gone" --build-context scratch=docker-image://none --platform linux/amd64)" = other ]
	run ! which --build-context "nowhere=oci-layout://$BATS_TEST_TMPDIR/layout:8"
	[[ $output == *"cannot load '$BATS_TEST_TMPDIR/layout'"* ]]
	printf 'FROM x\nCOPY --from=y a /\n' >"$ctx/Dockerfile"
	run ! mica build --build-context x=docker-image://scratch --build-context y=/nonexistent "$ctx"
	[[ $output == *"build context '/nonexistent'"* ]]
	run ! mica build --build-context x "$ctx"
	[[ $output == *"invalid build context 'x', NAME=SOURCE is expected"* ]]
}

@test "--build-context: a directory, git or archive as base of a stage (RCP-373)" {
	mkdir "$BATS_TEST_TMPDIR/n"
	echo file >"$BATS_TEST_TMPDIR/n/f"
	echo no >"$BATS_TEST_TMPDIR/n/ignored"
	echo ignored >"$BATS_TEST_TMPDIR/n/.dockerignore"
	mica build -q -t n --build-context start="$BATS_TEST_TMPDIR/n" -f - "$ctx" <<-'END'
		FROM start
		COPY <<E /g
		more
		E
		LABEL a=b
	END
	[ "$(mica ls n)" = $'.dockerignore\nf\ng' ]
	mica history --no-trunc n | grep -F 'FROM start'
	[ "$(mica inspect n | jq '.[0].RootFS.Layers | length')" = 2 ]
	built --build-context start="$HTTP/git/r.git#:sub" "$ctx" <<<'FROM start'
	[ "$(ls "$out")" = deep ]
}

@test "git over ssh goes through ssh, with the agent and the known hosts of the user alone (RCP-336, SEC-B10)" {
	mkdir "$BATS_TEST_TMPDIR/bin"
	cat >"$BATS_TEST_TMPDIR/bin/ssh" <<-'E'
		#!/bin/bash
		printf '%s\n' "$SSH_AUTH_SOCK" "$@" >"$SSH_LOG"
		exec sh -c "${*: -1}"
	E
	sed -i "s|\$SSH_LOG|$BATS_TEST_TMPDIR/log|" "$BATS_TEST_TMPDIR/bin/ssh"
	chmod 755 "$BATS_TEST_TMPDIR/bin/ssh"
	printf 'FROM scratch\nADD me@host.example:%s#v1 /\n' "$SRV/git/r.git" >"$ctx/Dockerfile"
	git config --global --add safe.directory '*'
	PATH="$BATS_TEST_TMPDIR/bin:$PATH" SSH_AUTH_SOCK=/agent mica build -q -o "$out" "$ctx"
	[ "$(cat "$out/f")" = one ]
	[ "$(head -n 1 "$BATS_TEST_TMPDIR/log")" = /agent ]
	grep -qx BatchMode=yes "$BATS_TEST_TMPDIR/log"
	grep -qx me@host.example "$BATS_TEST_TMPDIR/log"
	ssh-keygen -q -t ed25519 -N '' -f "$BATS_TEST_TMPDIR/key" 2>/dev/null || return 0
	cd "$BATS_TEST_TMPDIR"
	PATH="$BATS_TEST_TMPDIR/bin:$PATH" SSH_AUTH_SOCK=/agent mica build -q --no-cache --ssh default=key "$ctx"
	grep -qx "$BATS_TEST_TMPDIR/key" "$BATS_TEST_TMPDIR/log"
	[ -z "$(head -n 1 "$BATS_TEST_TMPDIR/log")" ]
}

@test "as an ordinary user: git, URL, archive and named contexts (SEC-I86)" {
	needs_user_namespaces
	user_setup_file
	echo body >"$SRV/files/user"
	local ids
	for ids in ranges single; do
		run -0 as_user $ids "
			printf 'FROM scratch\nADD $HTTP/git/r.git#v1 /g\nADD $HTTP/files/user /\nCOPY --from=n f /n\n' >R
			mica build -q -o out -f R --build-context n=$HTTP/git/r.git#side $HTTP/git/r.git
			cat out/g/f out/user out/n
			tar -c R | mica build -q -f R --build-context n=$HTTP/git/r.git#side -"
		[[ $output == *$'one\nbody\nside\n'* ]]
	done
}

# --- directories ---

@test "a file that changes while it is read is an error that names it (RCP-374)" {
	head -c 30000000 /dev/zero >"$ctx/busy"
	printf 'FROM scratch\nCOPY busy /\n' >"$ctx/Dockerfile"
	(while [ -d "$ctx" ] && echo more >>"$ctx/busy"; do :; done) 3>&- 2>/dev/null &
	writer=$!
	run mica build "$ctx"
	kill "$writer"
	[ "$status" != 0 ]
	[[ $output == *"busy' "*chang* ]]
}

@test "ignore files: the order of RCP-351, each alone (RCP-351, RCP-926)" {
	mkdir "$ctx/src"
	touch "$ctx"/src/{a,b,c,d}
	printf 'FROM scratch\nCOPY src /\n' >"$ctx/Dockerfile"
	echo src/d >"$ctx/.containerignore"
	echo src/c >"$ctx/.dockerignore"
	echo src/b >"$ctx/Dockerfile.dockerignore"
	echo src/a >"$BATS_TEST_TMPDIR/named"
	left() {
		rm -rf "$out"
		mica build -q -o "$out" "$@" "$ctx"
		(cd "$out" && echo *)
	}
	[ "$(left --ignorefile "$BATS_TEST_TMPDIR/named")" = "b c d" ]
	[ "$(left)" = "a c d" ]
	rm "$ctx/Dockerfile.dockerignore"
	[ "$(left)" = "a b d" ]
	rm "$ctx/.dockerignore"
	[ "$(left)" = "a b c" ]
	cp "$ctx/Dockerfile" "$BATS_TEST_TMPDIR/Other"
	echo src/b >"$BATS_TEST_TMPDIR/Other.dockerignore"
	[ "$(left -f "$BATS_TEST_TMPDIR/Other")" = "a c d" ]
}

@test "what is ignored is not opened: unreadable, FIFO, dangling; recipe and ignore file among it (RCP-355, RCP-925, RCP-927)" {
	mkdir -p "$ctx/secret" "$ctx/src"
	echo x >"$ctx/secret/f"
	echo y >"$ctx/src/unreadable"
	mkfifo "$ctx/src/fifo"
	ln -s nowhere "$ctx/src/dangling"
	touch "$ctx/src/kept"
	chmod 000 "$ctx/secret" "$ctx/src/unreadable"
	touch -a -d 2000-01-01 "$ctx/src/unreadable"
	printf 'secret\nsrc/unreadable\nsrc/fifo\nsrc/dangling\nDockerfile\n.dockerignore\n' >"$ctx/.dockerignore"
	printf 'FROM scratch\nCOPY . /\n' >"$ctx/Dockerfile"
	mica build -q -o "$out" "$ctx"
	[ "$(cd "$out" && find . -mindepth 1 | sort | tr '\n' ' ')" = "./src ./src/kept " ]
	[ "$(stat -c %X "$ctx/src/unreadable")" = "$(date -d 2000-01-01 +%s)" ]
	chmod 700 "$ctx/secret"
}

@test "ignore rules: exceptions below excluded parents, **, slashes, escapes, comments in column 0 (RCP-352, RCP-926)" {
	mkdir -p "$ctx/dir/sub" "$ctx/deep/x/y"
	touch "$ctx"/dir/{file,other} "$ctx/dir/sub/file" "$ctx/deep/x/y/z.log" "$ctx/top.log" "$ctx/ #c" "$ctx/a*b" "$ctx/axb" "$ctx/#h"
	printf '# comment\n #c\n*\n!dir/file\n!/dir/sub/\n!**/z.log\n!a\\*b\n!axb\na?b\n!a\\*b\n!#h\n' >"$ctx/.dockerignore"
	printf 'FROM scratch\nCOPY . /\n' >"$ctx/Dockerfile"
	mica build -q -o "$out" "$ctx"
	(cd "$out" && find . -type f | sort) | diff - <(printf '%s\n' './#h' './a*b' ./deep/x/y/z.log ./dir/file ./dir/sub/file)
}

@test "context entries: 0:0, modes with setuid, times, xattrs; links outward stay links or end inside (RCP-928, RCP-929)" {
	needs_root
	mkdir -p "$ctx/t/dir"
	echo x >"$ctx/t/s"
	ln -s ../../../../etc/passwd "$ctx/t/out"
	ln -s /etc/passwd "$ctx/abs"
	chown 12:13 "$ctx/t/s"
	chmod 6755 "$ctx/t/s"
	chmod 1777 "$ctx/t/dir"
	touch -d '2010-01-01 00:00:00.123456789Z' "$ctx/t/s"
	setfattr -n user.k -v v "$ctx/t/s"
	printf 'FROM scratch\nCOPY t /\nCOPY t/../../../t/s /again\n' >"$ctx/Dockerfile"
	mica build -q -t c "$ctx"
	mica ls -lR c | tee "$BATS_TEST_TMPDIR/ls"
	grep -E '^-rwsr-sr-x +1 +0 +0 +2 2010-01-01 00:00 s' "$BATS_TEST_TMPDIR/ls"
	grep -E '^drwxrwxrwt .* dir' "$BATS_TEST_TMPDIR/ls"
	grep -E 'out -> \.\./\.\./\.\./\.\./etc/passwd' "$BATS_TEST_TMPDIR/ls"
	printf 'FROM scratch\nCOPY abs /\n' >"$ctx/Dockerfile"
	run ! mica build "$ctx"
	[[ $output == *not\ found* ]]
}

@test "recipe outside, symlinked, from standard input; an empty context (RCP-371, RCP-930)" {
	printf 'FROM scratch\nCOPY <<E /f\nx\nE\n' >"$BATS_TEST_TMPDIR/Recipe"
	ln -s ../Recipe "$ctx/Dockerfile"
	mica build -q -o "$out" "$ctx"
	rm "$ctx/Dockerfile"
	mica build -q -o "$out" -f "$BATS_TEST_TMPDIR/Recipe" "$ctx"
	mica build -q -o "$out" -f - "$ctx" <"$BATS_TEST_TMPDIR/Recipe"
	run ! mica build "$BATS_TEST_TMPDIR/nowhere"
	[[ $output == *"cannot open build context '$BATS_TEST_TMPDIR/nowhere': No such file or directory"* ]]
}

@test "names: bytes, blanks, newlines, dashes, 255 bytes, paths over 4096 bytes; .wh. is refused (RCP-375, RCP-931)" {
	python3 - "$ctx" <<-'E'
		import os, sys
		os.chdir(os.fsencode(sys.argv[1]))
		os.mkdir("n")
		for name in (b"\xff\xfe", b"a b", b"new\nline", b"-rf", "grün".encode(), b"x" * 255):
		    open(b"n/" + name, "w").close()
		fd = os.open(".", os.O_RDONLY)
		for _ in range(15):
		    os.mkdir(b"d" * 250, dir_fd=fd)
		    fd = os.open(b"d" * 250, os.O_RDONLY, dir_fd=fd)
		os.close(os.open("end", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
	E
	printf 'FROM scratch\nCOPY . /\n' >"$ctx/Dockerfile"
	mica build -q -o type=tar,dest="$BATS_TEST_TMPDIR/t.tar" "$ctx"
	python3 - "$BATS_TEST_TMPDIR/t.tar" <<-'E'
		import sys, tarfile
		names = {os_name.encode("utf-8", "surrogateescape") for os_name in tarfile.open(sys.argv[1]).getnames()}
		names = {name.removeprefix(b"./") for name in names}
		for name in (b"\xff\xfe", b"a b", b"new\nline", b"-rf", "grün".encode(), b"x" * 255):
		    assert b"n/" + name in names, name
		assert b"/".join([b"d" * 250] * 15 + [b"end"]) in names
	E
	touch "$ctx/n/.wh.gone"
	run ! mica build "$ctx"
	[[ $output == *".wh."* ]]
}
