#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# What a build tells the CI service it runs on (UX-97).

load common

setup_file() {
	mica_setup_file
}

setup() {
	context
	export GITHUB_OUTPUT="$BATS_TEST_TMPDIR/output" GITHUB_STEP_SUMMARY="$BATS_TEST_TMPDIR/summary.md"
}

# Reads the file as the runner does: NAME=VALUE, or NAME<<DELIMITER and lines up to it.
outputs() {
	python3 - "$GITHUB_OUTPUT" <<-'EOT'
		import json, sys
		result, lines = {}, open(sys.argv[1]).read().split("\n")
		while lines:
		    line = lines.pop(0)
		    if "<<" in line and "=" not in line.split("<<")[0]:
		        name, delimiter = line.split("<<", 1)
		        value = []
		        while lines[0] != delimiter:
		            value.append(lines.pop(0))
		        lines.pop(0)
		        result[name] = "\n".join(value)
		    elif line:
		        name, value = line.split("=", 1)
		        result[name] = value
		print(json.dumps(result))
	EOT
}

@test "GITHUB_OUTPUT: imageid, digest, metadata of what was built (UX-97)" {
	dockerfile <<-'EOT'
		FROM base
		RUN echo 'digest=sha256:forged' >/f
	EOT
	echo "earlier=kept" >"$GITHUB_OUTPUT"
	id=$(mica build -q -t ci "$ctx")
	outputs >"$ctx/out"
	[ "$(jq -r .earlier "$ctx/out")" = kept ]
	[ "$(jq -r .imageid "$ctx/out")" = "$id" ]
	[ "$(jq -r .digest "$ctx/out")" = "$(manifest_of ci)" ]
	[ "$(jq -r '.metadata | fromjson | ."image.name"' "$ctx/out")" = ci:latest ]
	[ "$(jq -r 'keys | length' "$ctx/out")" = 4 ]
}

@test "GITHUB_STEP_SUMMARY: steps, digest, warnings, as text whatever they are called (UX-97)" {
	dockerfile <<-'EOT'
		FROM base
		RUN echo '<img src=x> | `a` [l](u)' >/f
		CMD echo shell form
	EOT
	mica build -q -t ci "$ctx"
	mica build -q -t ci "$ctx"
	grep -qF 'digest `sha256:' "$GITHUB_STEP_SUMMARY"
	grep -q 'JSONArgsRecommended' "$GITHUB_STEP_SUMMARY"
	grep -q '| done |' "$GITHUB_STEP_SUMMARY"
	grep -q '| cached |' "$GITHUB_STEP_SUMMARY"
	run ! grep -E '<img|[^\\]`a|[^\\]\[l' "$GITHUB_STEP_SUMMARY"
}

@test "GITHUB_STEP_SUMMARY: a failure brings the last lines of its log, whole and below a megabyte (UX-97)" {
	dockerfile <<-'EOT'
		FROM base
		RUN i=0; while [ $i -lt 3000 ]; do echo "line $i"' ````` '; i=$((i+1)); done; head -c 3000000 /dev/zero | tr '\0' x; echo; echo the end; exit 7
	EOT
	run -7 mica build -t ci "$ctx"
	[ ! -s "$GITHUB_OUTPUT" ]
	[ "$(stat -c %s "$GITHUB_STEP_SUMMARY")" -lt 1000000 ]
	grep -q '| \*\*failed\*\* |' "$GITHUB_STEP_SUMMARY"
	grep -qF 'exit code\: 7' "$GITHUB_STEP_SUMMARY"
	grep -qx 'the end' "$GITHUB_STEP_SUMMARY"
	dockerfile <<-'EOT'
		FROM base
		RUN i=0; while [ $i -lt 3000 ]; do echo "line $i"; i=$((i+1)); done; exit 7
	EOT
	rm "$GITHUB_STEP_SUMMARY"
	run -7 mica build -t ci "$ctx"
	grep -qx 'line 2900' "$GITHUB_STEP_SUMMARY"
	grep -qx 'line 2999' "$GITHUB_STEP_SUMMARY"
	run ! grep -x 'line 2899' "$GITHUB_STEP_SUMMARY"
}
