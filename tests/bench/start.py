#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Start of a container (SEC-I112, SEC-I114): 'true' of a static busybox, wall time of the whole command, interleaved.

floor   fork, exec and wait of the same busybox, no container
process start of mica alone ('mica --version'), which 'mica run' includes
mica    'mica run IMAGE busybox true', root filesystem mounted and unmounted
crun    'crun run' on the same directory with crun's default specification

Arguments: the root directory, which is image 'base' of the store $MICA_ROOT, and a scratch directory. Needs root.
crun 1.8 refuses hybrid cgroups: run all of it below "unshare -m" with /sys/fs/cgroup/unified unmounted.
Prints JSON with p50 and p90 in milliseconds."""
import json
import os
import subprocess
import sys
import time

ROUNDS = 60
MICA = os.environ.get("MICA", "build/mica")


def crun_bundle(rootfs, where):
    os.makedirs(where, exist_ok=True)
    path = os.path.join(where, "config.json")
    if not os.path.exists(path):
        subprocess.run(["crun", "spec"], cwd=where, check=True)
    with open(path) as f:
        spec = json.load(f)
    spec["process"]["args"] = ["/bin/busybox", "true"]
    spec["process"]["terminal"] = False
    spec["root"] = {"path": os.path.abspath(rootfs)}
    spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "network"]
    with open(path, "w") as f:
        json.dump(spec, f)
    return where


def once(argv):
    begin = time.perf_counter()
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begin) * 1000


def main():
    rootfs, scratch = sys.argv[1], sys.argv[2]
    bundle = crun_bundle(rootfs, os.path.join(scratch, "bundle"))
    commands = {
        "floor": ["/bin/busybox", "true"],
        "process": [MICA, "--version"],
        "mica": [MICA, "run", "base", "/bin/busybox", "true"],
        "crun": ["crun", "--cgroup-manager=disabled", "run", "-b", bundle, f"bench{os.getpid()}"],
    }
    times = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, argv in commands.items():
            times[name].append(once(argv))
    result = {}
    for name, values in times.items():
        values.sort()
        result[name] = {"p50": round(values[len(values) // 2], 2),
                        "p90": round(values[len(values) * 9 // 10], 2)}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
