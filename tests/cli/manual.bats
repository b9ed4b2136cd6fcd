#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# The manual says what the program says: pages, options and their sentences, exit statuses, variables (UX-67).

load common

setup_file() {
	export MICA
	mkdir "$BATS_FILE_TMPDIR/text"
	for page in builder/man/*.[157]; do
		plain "$page" >"$BATS_FILE_TMPDIR/text/${page##*/}"
	done
}

# A page as one line of lower-case text.
plain() {
	mandoc -Tascii "$1" | sed 's/.\x08//g' | tr -s ' \n' ' ' | tr '[:upper:]' '[:lower:]'
}

verbs() {
	mica help | awk '/^  [a-z]/ { print $1 }'
}

# Options of a verb as 'name<TAB>sentence', without the common ones; $2: part of the help, "Options" or "Common options".
options() {
	mica help "$1" | awk -v part="$2:" '
		/^[A-Z]/ { on = $0 == part; if (!on) next }
		!on { next }
		/^  +(-[a-zA-Z], )?--[a-z]/ && substr($0, 1, 30) ~ /-/ {
			if (name) print name "\t" text
			match($0, /--[a-z-]+/)
			name = substr($0, RSTART + 2, RLENGTH - 2)
			text = substr($0, 30, 1) == " " ? substr($0, 31) : "" # a long one has its sentence below
			next
		}
		/^ / { text = text (text ? " " : "") substr($0, 31) }
		END { if (name) print name "\t" text }'
}

documented() {
	sed -nE '/^\.It .*Fl -/ { s/^\.It .*Fl -([a-z-]+).*/\1/p }' "$1" | sort
}

@test "every verb has a page, every page a verb" {
	for verb in $(verbs); do
		[ -f "builder/man/mica-$verb.1" ] || { echo "no page of $verb"; false; }
		grep -q "^\.It Xr mica-$verb 1" builder/man/mica.1
	done
	for page in builder/man/mica-*.1; do
		verb=${page##*/mica-}
		verbs | grep -qx "${verb%.1}"
	done
}

@test "pages have the options of the tables, no other, and their sentences" {
	for verb in $(verbs); do
		page=builder/man/mica-$verb.1
		diff <(options "$verb" Options | cut -f1 | sort) <(documented "$page")
		while IFS=$'\t' read -r name sentence; do
			# Defaults and variables stand in parentheses and are the page's own words.
			sentence=${sentence%% (*}
			grep -qF -- "${sentence,,}" "$BATS_FILE_TMPDIR/text/mica-$verb.1" || {
				echo "$verb --$name: $sentence"
				false
			}
		done < <(options "$verb" Options)
	done
	diff <(options build "Common options" | cut -f1 | sort) <(documented builder/man/mica.1)
}

@test "letters of options are those of the tables" {
	for verb in $(verbs); do
		diff <(mica help "$verb" | sed '/^Common options/,$d' | sed -nE 's/^ +-([a-zA-Z]), --([a-z-]+).*/\1 \2/p' | sort) \
			<(sed -nE 's/^\.It Fl ([a-zA-Z]) , Fl -([a-z-]+).*/\1 \2/p' "builder/man/mica-$verb.1" | sort)
	done
}

@test "mandoc has nothing to say" {
	run -0 mandoc -Tlint -W warning builder/man/*.[157]
	[ -z "$output" ]
}

@test "references among the pages lead somewhere" {
	while read -r name section; do
		[ -f "builder/man/$name.$section" ] || { echo "$name($section)"; false; }
	done < <(grep -hoE 'Xr mica[a-z-]* [0-9]' builder/man/* | cut -d' ' -f2,3 | sort -u)
}

@test "mica(1) names every exit status and every variable that is read (UX-13, UX-50)" {
	for status in 0 1 2 125 126 127 129 130 141 143; do
		sed -n '/^\.Sh EXIT STATUS/,/^\.Sh EXAMPLES/p' builder/man/mica.1 | grep -E '^\.It ' | grep -qw "$status"
	done
	names=$(grep -rhoE '(getenv|search_variable)\([^"()]*"[A-Z_]+"' --include='*.c' builder formats layerfs registry-client |
		grep -oE '"[A-Z_]+"' | tr -d '"' | sort -u)
	[[ $names == *MICA_ROOT* && $names == *DOCKER_CONFIG* ]]
	for name in $names; do
		grep -qE "^\.It Ev .*\b$name\b" builder/man/mica.1 || { echo "$name is not in mica(1)"; false; }
	done
}

@test "verbs that print nothing or an id say so" {
	grep -q '^Prints nothing' builder/man/mica-{tag,untag,umount}.1
	for verb in build pull load import; do
		grep -q 'gets the image id' "builder/man/mica-$verb.1"
	done
}

@test "the examples of mica(1) run as they stand" {
	mica_setup_file
	cd "$BATS_TEST_TMPDIR"
	cp -a "$BATS_FILE_TMPDIR/rootfs" rootfs
	PATH="$(dirname "$MICA"):$PATH"
	[ "$(basename "$MICA")" = mica ]
	mandoc -Tascii "$BATS_TEST_DIRNAME/../../builder/man/mica.1" | sed 's/.\x08//g' |
		sed -n '/^EXAMPLES/,/^SEE ALSO/p' | sed -n 's/^ \{11\}//p' |
		sed '/registry\.example\.com/d; /docker load/d' >script
	unset -f mica
	run -0 bash -ex script
	[ "$(grep -cx hello <<<"$output")" = 3 ]
	[[ $output == *greeting* ]]
	run -1 grep -q "$PWD/m" /proc/self/mountinfo
}

# The examples of mica-ci(7) after a heading, as they stand in the page.
ci_example() {
	mandoc -Tascii "$BATS_TEST_DIRNAME/../../builder/man/mica-ci.7" | sed 's/.\x08//g' |
		awk -v heading="   $1" '$0 == heading { on = 1; next } /^ ? ? ?[^ ]/ { on = 0 } on' | sed -n 's/^ \{11\}//p'
}

@test "the YAML examples of mica-ci(7) are what they say (UX-100)" {
	cat >"$BATS_TEST_TMPDIR/look.py" <<-'EOT'
		import sys, yaml
		document = yaml.safe_load(sys.stdin)
		assert "mica" in str(document)
		steps = document.get("jobs", {}).get("image", {}).get("steps")
		pod = document.get("spec", {}).get("template", {}).get("spec")
		assert steps or pod or document["image"]["script"]
		assert not pod or (pod["hostUsers"] is False and pod["containers"][0]["command"][:2] == ["mica", "build"])
	EOT
	for heading in "GitHub Actions" "GitLab CI" "Kubernetes, in place of kaniko"; do
		ci_example "$heading" | python3 "$BATS_TEST_TMPDIR/look.py"
	done
}

@test "the script of mica-ci(7) builds, pushes and takes its cache from the registry (UX-100)" {
	mica_setup_file
	context
	registry=$("$MICA_TEST_TOOLS/registry-server" start "$BATS_TEST_TMPDIR/registry") || skip "no registry"
	printf 'FROM base\nRUN echo built >/f\nCMD ["cat", "/f"]\n' | dockerfile
	ci_example Shell >"$BATS_TEST_TMPDIR/script"
	grep -q deploy.txt "$BATS_TEST_TMPDIR/script"
	unset -f mica
	cd "$ctx"
	PATH="$(dirname "$MICA"):$PATH" REGISTRY=$registry run -0 sh "$BATS_TEST_TMPDIR/script"
	[[ $output == *built* ]]
	grep -qE "^$registry/team/app@sha256:[0-9a-f]{64}$" deploy.txt
	# Another machine: an empty store but for the base image.
	cp -a "$MICA_ROOT" "$BATS_TEST_TMPDIR/first"
	MICA_ROOT="$BATS_TEST_TMPDIR/second"
	"$MICA" import "$BATS_FILE_TMPDIR/rootfs" base --change 'CMD ["/bin/sh"]' >/dev/null
	PATH="$(dirname "$MICA"):$PATH" REGISTRY=$registry run -0 sh "$BATS_TEST_TMPDIR/script"
	"$MICA_TEST_TOOLS/registry-server" stop "$BATS_TEST_TMPDIR/registry"
	[[ $output == *CACHED* ]]
}

@test "make install puts program and pages into place" {
	make -s -o all install BUILD="$(dirname "$MICA")" DESTDIR="$BATS_TEST_TMPDIR/x" PREFIX=/usr >/dev/null
	[ -x "$BATS_TEST_TMPDIR/x/usr/bin/mica" ]
	for page in builder/man/*.[157]; do
		cmp "$page" "$BATS_TEST_TMPDIR/x/usr/share/man/man${page##*.}/${page##*/}"
	done
	[ "$(find "$BATS_TEST_TMPDIR/x/usr/share/man" -type f | wc -l)" = "$(find builder/man -type f | wc -l)" ]
}
