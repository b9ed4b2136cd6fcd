#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Recipe parsers against tables of inputs and results (RCP-701 to RCP-704). They need neither store nor privileges. The public
# tables are not in this tree: with MICA_VECTORS naming a directory that has checkouts of buildkit and patternmatcher in it,
# they run too.
# shellcheck disable=SC2016,SC1003

: "${MICA:=$PWD/build/mica}"
: "${MICA_TEST_TOOLS:=$PWD/tests/tools}"
data="$PWD/tests/data/recipe"
bats_require_minimum_version 1.5.0

# Only whether there was an error counts, not its text.
without_texts() {
	jq -c 'if has("error") then {error: true} else . end'
}

variables=(--env 'F=/a/b.tar.gz' --env 'E=' --env 'S=one two' --env '한글=글')

@test "expand: forms, patterns, quoting" {
	"$MICA" debug expand "${variables[@]}" <"$data/expand.in" | without_texts | diff - "$data/expand.out"
}

@test "expand --words: only unquoted white space splits" {
	"$MICA" debug expand --words "${variables[@]}" <"$data/words.in" | without_texts | diff - "$data/words.out"
}

@test "expand: the text of a mandatory variable, unset names, another escape character" {
	run -0 "$MICA" debug expand --env E= <<<"\${U:?no \${E:-one}}"
	[ "$output" = '{"error":"U: no one"}' ]
	run -0 "$MICA" debug expand --unmatched <<<"\$A \${B} \${C-}"
	[ "$output" = '{"ok":"  ","unmatched":["A","B"]}' ]
	run -0 "$MICA" debug expand --escape '`' <<<'a`$b\$c'
	[ "$output" = '{"ok":"a$b\\"}' ]
}

@test "match: ignore patterns" {
	"$MICA" debug match <"$data/match.in" | without_texts | diff - "$data/match.out"
}

@test "match --read-ignore: normal form" {
	"$MICA" debug match --read-ignore "$data/dockerignore" | diff - "$data/dockerignore.out"
}

# The rows are those of git_ref_test.go of moby/buildkit (Apache-2.0), commit 73ed682.
@test "giturl: addresses, their simple forms (RCP-337, RCP-704, RCP-720, RCP-721)" {
	"$MICA" debug giturl <"$data/giturl.in" | without_texts | diff - "$data/giturl.out"
	"$MICA" debug giturl --fragment <"$data/giturl-fragment.in" | diff - "$data/giturl-fragment.out"
	"$MICA" debug giturl --fragment --with-subdir <"$data/giturl-subdir.in" | diff - "$data/giturl-subdir.out"
}

@test "giturl: more refusals, booleans, escapes (RCP-337, SEC-B10)" {
	local text='refused address'
	while IFS= read -r text; do
		run -0 "$MICA" debug giturl <<<"$text"
		[[ $output == '{"error":'* ]] || echo "accepted: $text" >&2
		[[ $output == '{"error":'* ]]
	done <<-'E'
		https://h/r.git?keep-git-dir=maybe
		https://h/r.git?ref
		https://h/r.git?branch=a&branch=a
		https://h/r.git?subdir=a#:b
		https://h/r.git?commit=xyz
		https://h/r.git?checksum=ab&commit=cd
		https://h/r.git#--upload-pack=x
		https://-oProxyCommand=x/r.git
		git@h:-x
		https://h/r.git#a..b
		https://h/r.git#a%0ab
		https:///r.git
		ext::sh -c x
		file:///r.git
	E
	run -0 "$MICA" debug giturl <<<'https://h:1/p/r.git?keep-git-dir&submodules=f&branch=refs/heads/x%2Fy&subdir=a+b'
	jq -e '.ref == "refs/heads/x/y" and .subdir == "a b" and .keepGitDir and .submodules == false' <<<"$output"
	run -0 "$MICA" debug giturl --fragment --with-subdir <<<'HTTPS://h/r.git#:../../etc/./x//'
	[ "$output" = '{"url":"https://h/r.git#:etc/x","ok":true}' ]
}

@test "ast: trees of recipes" {
	for result in "$data"/ast/*.result; do
		lines=()
		[ "${result##*/}" = lines.result ] && lines=(--lines)
		"$MICA" debug ast "${lines[@]}" "${result%.result}.Dockerfile" | diff - "$result"
	done
}

@test "ast: CRLF, BOM, no newline at the end, escape at the end (RCP-901)" {
	run -0 "$MICA" debug ast - < <(printf '\xef\xbb\xbfFROM x\r\nRUN a \\\r\n  b\r\nRUN c \\')
	[ "$output" = '(from "x")
(run "a   b")
(run "c")' ]
}

@test "ast: errors name file and line on stderr and give status 1" {
	run -1 --separate-stderr "$MICA" debug ast - </dev/null
	# shellcheck disable=SC2154
	[[ $stderr == *"the recipe is empty"* ]]
	run -1 --separate-stderr "$MICA" debug ast - <<<$'FROM x\nENV a'
	[[ $stderr == *"-:2: ENV must have two arguments"* ]]
	run -1 --separate-stderr "$MICA" debug ast - <<<$'FROM x\nCMD ["a", ["b"]]'
	[[ $stderr == *"-:2: only texts"* ]]
}

@test "ast --json: heredocs, comments, lines" {
	"$MICA" debug ast --json - >"$BATS_TEST_TMPDIR/json" <<-'D'
		# what it does
		FROM x
		RUN 3<<-'E' cat
			a
		E
	D
	jq -e '.[0].comments == "what it does" and .[1].firstLine == 3 and .[1].lastLine == 5 and
		.[1].heredocs[0] == {name: "E", fd: 3, expand: false, chomp: true, content: "a\n"}' \
		"$BATS_TEST_TMPDIR/json"
}

@test "16 MiB parse in a second (RCP-112)" {
	{
		printf 'FROM x\nRUN a \\\n'
		yes '  word \' | head -c 16000000
		echo
	} >"$BATS_TEST_TMPDIR/large"
	timeout 5 "$MICA" debug ast "$BATS_TEST_TMPDIR/large" >/dev/null
}

@test "public tables (RCP-711 to RCP-721)" {
	[ -n "${MICA_VECTORS:-}" ] || skip "MICA_VECTORS is not set"
	"$MICA_TEST_TOOLS/public-vectors" "$MICA" "$MICA_VECTORS"
}
