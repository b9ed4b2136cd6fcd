#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Recipe parsers against tables of inputs and results (RCP-701 to RCP-704). They need neither store nor privileges. The rows of
# the public tables are in tests/data/recipe/public; with MICA_VECTORS naming a directory that has checkouts of buildkit and
# patternmatcher in it, those are read as well, newer rows and all.
# shellcheck disable=SC2016,SC1003

: "${MICA:=$PWD/build/mica}"
: "${MICA_TEST_TOOLS:=$PWD/tests/tools}"
data="$PWD/tests/data/recipe"
public="$data/public"
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
	"$MICA" debug giturl <"$public/giturl.in" | without_texts | diff - "$public/giturl.out"
	"$MICA" debug giturl --fragment <"$public/giturl-fragment.in" | diff - "$public/giturl-fragment.out"
	"$MICA" debug giturl --fragment --with-subdir <"$public/giturl-subdir.in" | diff - "$public/giturl-subdir.out"
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

# Time is that of the processor, so that other load does not count; memory is below ten times the recipe.
@test "16 MiB of whatever shape parse in a second (RCP-112, RCP-923)" {
	python3 - "$BATS_TEST_TMPDIR" <<-'P'
		import sys
		size = 16 << 20
		shapes = {
		    "continued-lines": "RUN a \\\n" + "  word \\\n" * ((size - 100) // 9) + "end\n",
		    "empty-continuations": "RUN a \\\n" + "\n" * (size - 100) + "b\n",
		    "comments-in-a-continuation": "RUN a \\\n" + "# c\n" * ((size - 100) // 4) + "b\n",
		    "100000-instructions": ("RUN " + "x" * 155 + "\n") * 99999,
		    "a-heredoc": "RUN <<E\n" + "line of a body\n" * ((size - 100) // 15) + "E\n",
		    "a-heredoc-without-tabs": "RUN <<-E\n" + "\t\tx\n" * ((size - 100) // 4) + "E\n",
		    "one-line": "RUN " + "x" * (size - 100) + "\n",
		    "one-line-of-quotes": "RUN " + "\"' <<" * ((size - 100) // 5) + "\n",
		    "comments": "# c\n" * ((size - 100) // 4) + "RUN x\n",
		    "one-JSON-text": 'RUN ["' + "\\n" * ((size - 100) // 2) + '"]\n',
		    "an-open-JSON-list": "RUN " + "[" * (size - 100) + "\n",
		    "one-word-of-dollars": "ENV a=" + "$" * (size - 100) + "\n",
		}
		for name, text in shapes.items():
		    open(f"{sys.argv[1]}/{name}.large", "w").write("FROM x\n" + text)
	P
	python3 - "$MICA" "$BATS_TEST_TMPDIR"/*.large <<-'P'
		import os, sys
		nothing = os.open("/dev/null", os.O_RDWR)
		for path in sys.argv[2:]:
		    child = os.posix_spawn(sys.argv[1], [sys.argv[1], "debug", "ast", path], os.environ,
		                           file_actions=[(os.POSIX_SPAWN_DUP2, nothing, 1), (os.POSIX_SPAWN_DUP2, nothing, 2)])
		    status, used = os.wait4(child, 0)[1:]
		    cpu, memory = used.ru_utime + used.ru_stime, used.ru_maxrss << 10
		    print(f"{os.path.basename(path)}: {cpu:.2f} s, {memory >> 20} MiB, status {status >> 8}")
		    assert cpu < 1 and memory < 10 * os.path.getsize(path) and not status & 127
	P
}

@test "public trees of recipes, refused ones, line ranges (RCP-711 to RCP-713)" {
	local folder count=0
	for folder in "$public"/ast/testfiles/*; do
		"$MICA" debug ast "$folder/Dockerfile" | cmp - "$folder/result"
		count=$((count + 1))
	done
	for folder in "$public"/ast/testfiles-negative/*; do
		run -1 "$MICA" debug ast "$folder/Dockerfile"
		count=$((count + 1))
	done
	run -0 "$MICA" debug ast --lines "$public/ast/testfile-line/Dockerfile"
	[ "$(sed 's/ .*//' <<<"$output" | paste -sd ' ')" = '5-31 5-5 11-12 17-31' ]
	[ "$count" = 37 ]
}

@test "public tables of expansion (RCP-714, RCP-715)" {
	local environment=() row word
	while IFS= read -r word; do
		environment+=(--env "$word")
	done <"$public/env-var.env"
	"$MICA" debug expand "${environment[@]}" <"$public/env-var.in" | without_texts | diff - "$public/env-var.out"
	[ "$(wc -l <"$public/env-var.out")" = 228 ]
	while IFS=$'\t' read -ra row; do
		environment=()
		for word in "${row[@]:1}"; do
			environment+=(--env "$word")
		done
		"$MICA" debug expand --words "${environment[@]}" <<<"${row[0]}"
	done <"$public/words.in" | without_texts | diff - "$public/words.out"
	[ "$(wc -l <"$public/words.out")" = 24 ]
}

@test "public tables of ignore patterns (RCP-716, RCP-717, RCP-719)" {
	local table
	for table in "$public"/match-*.in; do
		"$MICA" debug match <"$table" | without_texts | diff - "${table%.in}.out"
	done
	[ "$(cat "$public"/match-*.out | wc -l)" = $((72 + 54 + 11)) ]
	# A malformed pattern is refused each time.
	[ "$(yes '{"patterns":["[a"],"path":"x"}' | head -3 | "$MICA" debug match | grep -c error)" = 3 ]
}

# The reader of the public test gives '!' back and leaves the error to the one who matches; here reading says so.
@test "reading an ignore file (RCP-719)" {
	printf 'test1\n/test2\n/a/file/here\n\nlastfile\n# this is a comment\n! /inverted/abs/path' >"$BATS_TEST_TMPDIR/i"
	run -0 "$MICA" debug match --read-ignore "$BATS_TEST_TMPDIR/i"
	[ "$output" = '["test1","test2","a/file/here","lastfile","!inverted/abs/path"]' ]
	printf '\n!\n! ' >>"$BATS_TEST_TMPDIR/i"
	run -125 "$MICA" debug match --read-ignore "$BATS_TEST_TMPDIR/i"
	[[ $output == *"/i:8: "* ]]
	: >"$BATS_TEST_TMPDIR/i"
	run -0 "$MICA" debug match --read-ignore "$BATS_TEST_TMPDIR/i"
	[ "$output" = '[]' ]
}

@test "public tables as their checkouts have them today (RCP-711 to RCP-721)" {
	[ -n "${MICA_VECTORS:-}" ] || skip "MICA_VECTORS is not set: the transcribed rows ran"
	"$MICA_TEST_TOOLS/public-vectors" "$MICA" "$MICA_VECTORS"
}
