#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# mica check, build --check, build --call: every rule once where it fires and once where it is silent, where it can be skipped,
# and the forms in which it is told (RCP-127, RCP-128, RCP-401 to RCP-404, UX-59 to UX-62).

# shellcheck disable=SC2154,SC2119,SC2120,SC2016
load common

setup_file() {
	mica_setup_file
}

setup() {
	context
}

# Findings of the recipe on standard input, "LINE RULE" each.
findings() {
	dockerfile
	mica check --offline --format line "$@" "$ctx" >"$BATS_TEST_TMPDIR/out" || [ $? = 1 ]
	sed -E 's/^[^:]*:([0-9]+):1: (warning|error): ([A-Za-z]+).*/\1 \3/' "$BATS_TEST_TMPDIR/out"
}

# The rule $1 fires for the recipe on standard input, at line $2, and no other one does.
fires() {
	local rule=$1 line=$2
	shift 2
	[ "$(findings "$@")" = "$line $rule" ] || { cat "$BATS_TEST_TMPDIR/out"; false; }
}

silent() {
	[ -z "$(findings "$@")" ] || { cat "$BATS_TEST_TMPDIR/out"; false; }
}

@test "StageNameCasing (RCP-401)" {
	fires StageNameCasing 1 <<<'FROM scratch AS Build'
	silent <<<'FROM scratch AS build-1'
}

@test "FromAsCasing (RCP-401)" {
	fires FromAsCasing 1 <<<'FROM scratch as build'
	silent <<<'from scratch as build'
	silent <<<'FROM scratch AS build'
}

@test "NoEmptyContinuation (RCP-106, RCP-401)" {
	fires NoEmptyContinuation 3 <<<$'FROM scratch\nLABEL a=b \\\n\n  c=d'
	silent <<<$'FROM scratch\nLABEL a=b \\\n# comment\n  c=d\n\n\nLABEL e=f'
}

@test "ConsistentInstructionCasing (RCP-401)" {
	fires ConsistentInstructionCasing 3 <<<$'FROM scratch\nLABEL a=b\nlabel c=d'
	fires ConsistentInstructionCasing 2 <<<$'FROM scratch\nlabel a=b'
	fires ConsistentInstructionCasing 3 <<<$'from scratch\nlabel a=b\nLabel c=d'
	silent <<<$'from scratch\nlabel a=b'
}

@test "DuplicateStageName (RCP-401)" {
	fires DuplicateStageName 2 <<<$'FROM scratch AS a\nFROM scratch AS a'
	silent <<<$'FROM scratch AS a\nFROM scratch AS b'
}

@test "ReservedStageName (RCP-401)" {
	fires ReservedStageName 1 <<<'FROM scratch AS scratch'
	fires ReservedStageName 1 <<<'FROM scratch AS context'
	silent <<<'FROM scratch AS contexts'
}

@test "JSONArgsRecommended (RCP-401)" {
	fires JSONArgsRecommended 2 <<<$'FROM scratch\nCMD run it'
	fires JSONArgsRecommended 2 <<<$'FROM scratch\nENTRYPOINT run it'
	silent <<<$'FROM scratch\nENTRYPOINT ["run", "it"]'
	silent <<<$'FROM scratch\nSHELL ["/bin/bash", "-c"]\nCMD run it'
}

@test "MaintainerDeprecated (RCP-401)" {
	fires MaintainerDeprecated 2 <<<$'FROM scratch\nMAINTAINER me'
	silent <<<$'FROM scratch\nLABEL org.opencontainers.image.authors=me'
}

@test "UndefinedArgInFrom (RCP-401, RCP-7)" {
	findings <<<$'ARG VERSION=1\nFROM --platform=$BUILDPLATFORM img:$VERSIO' | grep -x '2 UndefinedArgInFrom'
	grep -F "did you mean VERSION?" "$BATS_TEST_TMPDIR/out"
	silent <<<$'ARG VERSION=1\nFROM --platform=$BUILDPLATFORM img:$VERSION'
}

@test "WorkdirRelativePath (RCP-401)" {
	fires WorkdirRelativePath 2 <<<$'FROM scratch\nWORKDIR app'
	silent <<<$'FROM scratch\nWORKDIR /srv\nWORKDIR app'
	silent <<<$'FROM scratch AS a\nWORKDIR /srv\nFROM a\nWORKDIR app'
}

@test "UndefinedVar (RCP-188, RCP-401, RCP-7)" {
	fires UndefinedVar 3 <<<$'FROM scratch\nENV PLACE=/x\nCOPY $PLAC /y'
	grep -F "'\$PLAC' (did you mean \$PLACE?)" "$BATS_TEST_TMPDIR/out"
	fires UndefinedVar 2 <<<$'FROM scratch\nLABEL a=$x b=$x'
	silent <<<$'FROM scratch\nARG x\nCOPY a$x /$PATH'
	silent <<<$'FROM scratch\nLABEL a=\'$x\' b=\\$x'
	# What the base sets counts; of a base that is not there nothing is known.
	fires UndefinedVar 2 <<<$'FROM base\nLABEL a=$x'
	silent <<<$'FROM nowhere.invalid/x\nLABEL a=$x'
}

@test "MultipleInstructionsDisallowed: at the earlier one (RCP-401)" {
	fires MultipleInstructionsDisallowed 2 <<<$'FROM scratch\nCMD ["a"]\nCMD ["b"]'
	fires MultipleInstructionsDisallowed 2 <<<$'FROM scratch\nENTRYPOINT ["a"]\nENTRYPOINT ["b"]'
	fires MultipleInstructionsDisallowed 2 <<<$'FROM scratch\nHEALTHCHECK CMD a\nHEALTHCHECK NONE'
	silent <<<$'FROM scratch AS a\nCMD ["a"]\nFROM a\nCMD ["b"]'
}

@test "LegacyKeyValueFormat (RCP-401)" {
	fires LegacyKeyValueFormat 2 <<<$'FROM scratch\nENV a b'
	fires LegacyKeyValueFormat 2 <<<$'FROM scratch\nLABEL a b'
	silent <<<$'FROM scratch\nENV a=b'
}

@test "InvalidBaseImagePlatform (RCP-401)" {
	fires InvalidBaseImagePlatform 1 --platform linux/s390x <<<'FROM base'
	silent <<<'FROM base'
}

@test "RedundantTargetPlatform (RCP-401)" {
	fires RedundantTargetPlatform 1 <<<'FROM --platform=$TARGETPLATFORM scratch'
	fires RedundantTargetPlatform 1 <<<'FROM --platform=${TARGETPLATFORM} scratch'
	silent <<<'FROM --platform=$BUILDPLATFORM scratch'
}

@test "SecretsUsedInArgOrEnv (RCP-401)" {
	local name
	for name in APIKEY auth git_auth credential credentials KEY API_KEY password my_pword_1 passwd SECRET GITHUB_TOKEN; do
		fires SecretsUsedInArgOrEnv 2 <<<$'FROM scratch\nARG '"$name"
		fires SecretsUsedInArgOrEnv 2 <<<$'FROM scratch\nENV '"$name=x"
	done
	for name in PUBLIC_KEY KEY_FILE TOKEN_VERSION KEYBOARD authority passwords; do
		silent <<<$'FROM scratch\nARG '"$name"
	done
}

@test "InvalidDefaultArgInFrom (RCP-401)" {
	fires InvalidDefaultArgInFrom 2 <<<$'ARG v\nFROM img:$v'
	fires InvalidDefaultArgInFrom 2 --build-arg v=1 <<<$'ARG v\nFROM img:$v'
	silent <<<$'ARG v=1\nFROM img:$v'
	silent <<<$'ARG v\nFROM img:${v:-1}'
}

@test "FromPlatformFlagConstDisallowed (RCP-401)" {
	fires FromPlatformFlagConstDisallowed 1 <<<'FROM --platform=linux/amd64 scratch'
	fires FromPlatformFlagConstDisallowed 1 <<<'FROM --platform=linux/amd64 scratch AS build'
	silent <<<'FROM --platform=linux/amd64 scratch AS build-amd64'
	silent <<<'FROM --platform=linux/amd64 scratch AS linux'
}

@test "CopyIgnoredFile (RCP-401)" {
	printf '%s\n' '*.log' dir >"$ctx/.dockerignore"
	fires CopyIgnoredFile 2 <<<$'FROM scratch\nCOPY a.log /'
	fires CopyIgnoredFile 2 <<<$'FROM scratch\nADD ./dir/file /'
	silent <<<$'FROM scratch AS x\nCOPY a.txt *.log . /x/\nADD http://x/a.log /\nFROM scratch\nCOPY --from=x /a.log /'
	echo '!a' >>"$ctx/.dockerignore"
	silent <<<$'FROM scratch\nCOPY a.log /'
	echo '**' >"$ctx/.dockerignore"
	fires CopyIgnoredFile 2 <<<$'FROM scratch\nCOPY . /'
}

@test "InvalidDefinitionDescription, experimental (RCP-128, RCP-401)" {
	local on='# check=experimental=InvalidDefinitionDescription'
	fires InvalidDefinitionDescription 3 <<<"$on"$'\n# this is the base\nFROM scratch AS base'
	fires InvalidDefinitionDescription 3 <<<"$on"$'\n# which version\nARG version=1\nFROM scratch'
	silent <<<"$on"$'\n# base what all start from\nFROM scratch AS base'
	silent <<<"$on"$'\n# about something else\n#\nFROM scratch AS base'
	silent <<<"$on"$'\n# about something else\n\nFROM scratch AS base'
	silent <<<$'# this is the base\nFROM scratch AS base'
	fires InvalidDefinitionDescription 3 <<<$'# check=experimental=all\n# what\nFROM scratch AS base'
}

@test "ExposeProtoCasing (RCP-401)" {
	fires ExposeProtoCasing 2 <<<$'FROM scratch\nEXPOSE 80/TCP'
	silent <<<$'FROM scratch\nEXPOSE 80/tcp'
}

@test "ExposeInvalidFormat (RCP-401)" {
	fires ExposeInvalidFormat 2 <<<$'FROM scratch\nEXPOSE 127.0.0.1:80:80/tcp'
	fires ExposeInvalidFormat 2 <<<$'FROM scratch\nEXPOSE 8080:80'
	silent <<<$'FROM scratch\nEXPOSE 80 81-82/udp'
}

@test "# check=: skip, all, blanks, above an instruction, the build argument instead (RCP-127)" {
	local two=$'FROM scratch\nENV a b\nMAINTAINER me'
	[ "$(findings <<<"$two")" = $'2 LegacyKeyValueFormat\n3 MaintainerDeprecated' ]
	[ "$(findings <<<$'# check=skip=LegacyKeyValueFormat\n'"$two")" = '4 MaintainerDeprecated' ]
	silent <<<$'# check = skip = LegacyKeyValueFormat , MaintainerDeprecated ; error = true\n'"$two"
	silent <<<$'# check=error=false;skip=all\n'"$two"
	[ "$(findings <<<$'FROM scratch\n# words\n# check=skip=LegacyKeyValueFormat\nENV a b\nENV c d')" = '5 LegacyKeyValueFormat' ]
	[ "$(findings <<<$'# check=skip=all\nFROM scratch\n\n# check=skip=MaintainerDeprecated\nMAINTAINER me')" = '' ]
	silent <<<$'FROM scratch\n# check=skip=LegacyKeyValueFormat because it is old\nENV a b'
	[ "$(findings --build-arg BUILDKIT_DOCKERFILE_CHECK=skip=MaintainerDeprecated \
		<<<$'# check=skip=all\n'"$two")" = '3 LegacyKeyValueFormat' ]
	run -1 mica check --offline "$ctx" --build-arg BUILDKIT_DOCKERFILE_CHECK='skp=all'
	[[ $output == *"unknown check option 'skp' (did you mean skip?)"* ]]
	dockerfile <<<$'# check=error=maybe\nFROM scratch'
	run -1 mica check --offline "$ctx"
	[[ $output == *"takes true or false, not 'maybe'"* ]]
}

@test "findings fail a build only when asked, before anything runs (RCP-402)" {
	local how
	dockerfile <<<$'FROM base\nRUN touch /x; exit 7\nENV a b'
	run -7 mica build "$ctx"
	for how in --check-error --check=error --build-arg=BUILDKIT_DOCKERFILE_CHECK=error=true; do
		run -125 mica build -t checked "$how" "$ctx"
		[[ $output == *"lint violation found for rules: LegacyKeyValueFormat"* ]]
		[[ $output != *"touch /x"* ]]
	done
	dockerfile <<<$'# check=error=true\nFROM base\nRUN exit 7\nENV a b'
	run -125 mica build -t checked "$ctx"
	[[ $output == *"lint violation"* ]]
	run ! mica inspect checked
	dockerfile <<<$'# check=error=true\nFROM scratch\nENV a=b'
	run -0 mica build "$ctx"
}

@test "check: text with excerpts, sorted; statuses; needs no store (RCP-403, UX-60, UX-61)" {
	dockerfile <<<$'FROM scratch\nENV a b\nMAINTAINER me\nLABEL x=y'
	run -1 --separate-stderr env MICA_ROOT=/nowhere "$MICA" check --offline "$ctx"
	[ "$output" = 'Check complete, 2 warnings have been found!

WARNING: LegacyKeyValueFormat - https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/
"ENV key=value" should be used instead of legacy "ENV key value" format
'"$ctx"'/Dockerfile:2
--------------------
   1 |     FROM scratch
   2 | >>> ENV a b
   3 |     MAINTAINER me
   4 |     LABEL x=y
--------------------

WARNING: MaintainerDeprecated - https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/
Maintainer instruction is deprecated in favor of using label
'"$ctx"'/Dockerfile:3
--------------------
   1 |     FROM scratch
   2 |     ENV a b
   3 | >>> MAINTAINER me
   4 |     LABEL x=y
--------------------' ]
	# shellcheck disable=SC2154
	[ -z "$stderr" ]
	[ ! -e /nowhere ]
	run -1 mica build --check "$ctx"
	[[ $output == *"2 warnings have been found!"* ]]
	run -1 mica build --call=check "$ctx"
	dockerfile <<<'FROM scratch'
	run -0 mica check "$ctx"
	[ "$output" = "Check complete, no warnings found." ]
	dockerfile <<<$'FROM scratch\nENV a b'
	run -1 mica check "$ctx"
	[[ $output == *"1 warning has been found!"* ]]
	run -1 mica check -f - "$ctx" < <(cat "$ctx/Dockerfile")
}

@test "check: a recipe that cannot be built is one finding more (UX-60)" {
	dockerfile <<<$'FROM scratch\nRUNN x'
	run -1 --separate-stderr mica check "$ctx"
	[ -z "$output" ]
	[[ $stderr == *">>> RUNN x"*"unknown instruction: RUNN (did you mean RUN?)"* ]]
	run -1 --separate-stderr mica check --format json "$ctx"
	[ -z "$stderr" ]
	jq -e '.warnings == [] and .buildError.location.ranges[0].start.line == 2 and
		(.buildError.message | test("did you mean RUN"))' <<<"$output"
	run -1 mica check --format line "$ctx"
	[[ $output == *"/Dockerfile:2:1: error: unknown instruction: RUNN"* ]]
	run -1 mica check --format github "$ctx"
	[[ $output == "::error file=$ctx/Dockerfile,line=2,"* ]]
	dockerfile <<<$'FROM scratch\nENV a b\nCOPY --from=x --from=y / /'
	run -1 mica check --format line "$ctx"
	[[ $output == *"duplicate flag specified: --from"* ]]
}

@test "check --format: json, sarif, github, checkstyle, gitlab (RCP-403, UX-61)" {
	dockerfile <<<$'FROM scratch\nLABEL a "<100%>,:" \\\n x'
	cd "$ctx"
	run -1 --separate-stderr mica check --format json
	jq -e '.warnings == [{ruleName: "LegacyKeyValueFormat", description: .warnings[0].description,
		url: "https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/",
		detail: .warnings[0].detail, location: {ranges: [{start: {line: 2, character: 0}, end: {line: 3, character: 0}}]}}]
		and (.sources[0] | .filename == "Dockerfile" and (.data | @base64d | startswith("FROM scratch")))' <<<"$output"
	run -1 --separate-stderr mica check --format sarif
	jq -e '.version == "2.1.0" and (.runs[0].tool.driver.rules | length) == 22 and
		(.runs[0].results[0] | .ruleId == "LegacyKeyValueFormat" and .level == "warning" and
		.locations[0].physicalLocation == {artifactLocation: {uri: "Dockerfile"}, region: {startLine: 2, endLine: 3}})' <<<"$output"
	run -1 --separate-stderr mica check --format github
	[[ $output == '::warning file=Dockerfile,line=2,endLine=3,title=LegacyKeyValueFormat::"LABEL key=value"'* ]]
	run -1 --separate-stderr mica check --format checkstyle
	python3 -c 'import sys, xml.etree.ElementTree as x
e = x.fromstring(sys.argv[1].encode()).find("file/error")
assert e.get("line") == "2" and e.get("source") == "mica.LegacyKeyValueFormat" and "\"LABEL" in e.get("message")' "$output"
	run -1 --separate-stderr mica check --format gitlab
	jq -e '.[0] | .check_name == "LegacyKeyValueFormat" and .location.lines.begin == 2 and
		(.fingerprint | length) == 64 and .severity == "minor"' <<<"$output"
	# File names with what separates.
	mv Dockerfile 'a,b:c%'
	run -1 --separate-stderr mica check --format github -f 'a,b:c%'
	[[ $output == '::warning file=a%2Cb%3Ac%25,line=2'* ]]
	run -2 mica check --format jsn
	[[ $output == *"(did you mean json?)"* ]]
}

@test "--call=outline: arguments, secrets, agents, caches of the target (RCP-128, RCP-404, UX-62)" {
	dockerfile <<-'D'
		# version which one
		ARG version=1
		ARG unused
		FROM scratch AS other
		ARG elsewhere
		RUN --mount=type=secret,id=not true
		# build makes it
		FROM scratch AS build
		ARG version
		# flags for the compiler
		ARG flags=-O2
		RUN --mount=type=secret,id=token,required --mount=type=ssh --mount=type=cache,target=/c,id=cc x
		RUN --mount=type=secret,id=token x
		FROM scratch AS end
	D
	run -0 mica build --call=outline --target build "$ctx"
	[ "$output" = 'TARGET:      build
DESCRIPTION: makes it

BUILD ARG   VALUE   DESCRIPTION
version     1       which one
unused
flags       -O2     for the compiler

SECRET   REQUIRED
token    true

SSH       REQUIRED
default

CACHE
cc' ]
	run -0 mica check --call=outline,format=json --target build --build-arg flags=-O3 "$ctx"
	jq -e '.name == "build" and .description == "makes it" and
		([.args[] | [.name, .value, .used]] == [["version", "1", true], ["unused", null, false], ["flags", "-O3", true]]) and
		.secrets == [{name: "token", required: true}] and .ssh == [{name: "default"}] and .cache == [{ID: "cc"}]' <<<"$output"
}

@test "--call=targets: stages, bases, platforms, the default (RCP-404, UX-62)" {
	dockerfile <<-'D'
		# one the first
		FROM --platform=$BUILDPLATFORM scratch AS one
		FROM one
	D
	run -0 mica build --call targets "$ctx"
	[ "$output" = 'TARGET      BASE      DESCRIPTION
one         scratch   the first
(default)   one' ]
	run -0 mica check --call=targets,format=json "$ctx"
	jq -e '[.targets[] | del(.location)] == [{name: "one", description: "the first", base: "scratch",
		platform: "$BUILDPLATFORM"}, {default: true, base: "one"}]' <<<"$output"
	run -2 mica build --call=outlin "$ctx"
	[[ $output == *"(did you mean outline?)"* ]]
	run -2 mica build --call=targets,format=sarif "$ctx"
}

@test "# syntax= is told, and refused by --strict-syntax (RCP-125, RCP-904)" {
	dockerfile <<<$'# syntax=registry.example/docker/dockerfile:1\nFROM scratch'
	run -0 mica check "$ctx"
	dockerfile <<<$'# syntax=example.org/other\nFROM scratch'
	run -0 mica build "$ctx"
	[[ $output == *"'example.org/other' is not run"* ]]
	run -125 mica build --strict-syntax "$ctx"
	[[ $output == *"asks for the language of 'example.org/other'"* ]]
}

@test "10 000 secrets and no more (RCP-6)" {
	dockerfile <<<'FROM scratch'
	seq -f 'id=s%.0f,env=HOME' 10001 | sed 's/^/--secret=/' >"$BATS_TEST_TMPDIR/secrets"
	mapfile -t secrets < <(head -10000 "$BATS_TEST_TMPDIR/secrets")
	run -0 mica build -q "${secrets[@]}" "$ctx"
	mapfile -t secrets <"$BATS_TEST_TMPDIR/secrets"
	run -2 mica build -q "${secrets[@]}" "$ctx"
	[[ $output == *"more than 10000 secrets"* ]]
}
