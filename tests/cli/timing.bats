#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Where the time of a build went (UX-89); how builds are named (UX-2).

load common

setup_file() {
	mica_setup_file
}

setup() {
	context
}

# Two branches of which one takes longer, joined; the joint waits for the longer.
fork() {
	dockerfile <<-EOT
		FROM base AS short
		RUN $1 && echo >/short
		FROM base AS long
		RUN $2 && echo >/long
		FROM base
		COPY --from=short /short /
		COPY --from=long /long /
		RUN echo >/end
	EOT
}

@test "the critical path goes through the longer branch; slack is what the shorter had left (UX-89)" {
	fork true 'sleep 0.4'
	mica build -q -t timed "$ctx"
	mica timing --json >"$ctx/timing"
	critical() {
		jq -r --arg name "$1" '.steps[] | select((.name | startswith($name)) and .state == "done") | .critical' "$ctx/timing"
	}
	[ "$(critical '[long 2/2]')" = true ]
	[ "$(critical '[short 2/2]')" = false ]
	[ "$(critical '[stage-2 4/4]')" = true ]
	jq -e '.steps[] | select((.name | startswith("[short 2/2]")) and .state == "done") | .slackMs > 200' "$ctx/timing"
	jq -e '.criticalMs >= 400 and .criticalMs <= .wallMs and .workMs >= .criticalMs' "$ctx/timing"
	run -0 mica timing
	[[ $output == *"critical path: "*"[long 2/2]"* ]]
	[[ $output == *"steps ran"* ]]
	# Nothing ran: no bar of a step.
	mica build -q -t timed "$ctx"
	run -0 mica timing
	[[ $output != *"RUN"* ]]
}

@test "two builds compared; a build by id, by its beginning, by how long ago (UX-2, UX-89)" {
	fork true true
	mica build -q -t timed --no-cache "$ctx"
	fork true 'sleep 0.3'
	mica build -q -t timed --no-cache "$ctx"
	run -0 mica timing --compare ^1
	[[ $output == *"+0."*"new  [long 2/2] RUN sleep"* ]]
	[[ $output == *"gone"*"[long 2/2] RUN true"* ]]
	id=$(mica timing --json ^0 | jq -r .ref)
	[ "$(mica timing --json "$id" | jq -r .ref)" = "$id" ]
	[ "$(mica timing --json "${id%?}" | jq -r .ref)" = "$id" ]
	[ "$(mica timing --json ^1 | jq -r .ref)" != "$id" ]
	run -2 --separate-stderr mica timing "${id%%-*}"
	[[ $stderr == *"several builds begin with"*"$id"* ]]
	run -125 --separate-stderr mica timing nonesuch
	[[ $stderr == *"there is no build 'nonesuch'"* ]]
	run -2 mica timing ^x
}
