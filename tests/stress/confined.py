# SPDX-License-Identifier: Apache-2.0
"""A place where anything may be played: a mount namespace in which only a scratch file system can be written to.

An ext4 of its own: xattrs of objects that are full to ext4's ordinary limit need room for the marks of a union. Device nodes on
it are played with, never opened. What a run finds is written to DIR/finds of the build directory."""

import os
import shutil
import subprocess
import sys
import tempfile


def sh(*command, **keywords):
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, **keywords)


def import_tree(mica, lower, top):
    """The image 'tree' of TOP/store, of the directory LOWER; in its place what of it an image can hold (no sockets, no fractions
    of seconds)."""
    store, shown = top + "/store", top + "/image"
    for directory, below, names in os.walk(os.fsencode(lower), topdown=False):
        for name in filter(lambda name: name.startswith(b".wh."), below + names):
            path = os.path.join(directory, name)
            if name in below and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
    shutil.rmtree(store, ignore_errors=True)
    sh(mica, "import", "--root", store, lower, "tree", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shutil.rmtree(lower)
    os.makedirs(shown, exist_ok=True)
    sh(mica, "mount", "--root", store, "--driver", "kernel", "tree", shown, stdout=subprocess.DEVNULL)
    sh("cp", "-a", shown, lower)
    sh("umount", shown)


def outside():
    """The part that still may write: the scratch directory goes away however the rest ends."""
    scratch = tempfile.mkdtemp(prefix="stress-")
    try:
        return subprocess.call(["unshare", "-m", "--propagation", "private", sys.executable, *sys.argv],
                               env=dict(os.environ, STRESS_SCRATCH=scratch))
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def make_scratch(scratch, top, build):
    image = scratch + "/image"
    os.mkdir(top)
    with open(image, "wb") as file:
        file.truncate(4 << 30)
    sh("mkfs.ext4", "-q", "-F", "-I", "1024", "-O", "ea_inode", "-E", "lazy_itable_init=1,nodiscard", image)
    sh("mount", "-o", "loop,nodev,nosuid", image, top)
    finds = build + "/finds"
    os.makedirs(finds, exist_ok=True)
    sh("mount", "--bind", finds, finds)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        points = [line.split()[4] for line in table]
    for point in points:
        if point not in (top, finds) and not point.startswith(("/proc", "/dev")) and "\\" not in point:
            subprocess.run(["mount", "-o", "remount,bind,ro", point], stderr=subprocess.DEVNULL)


def confined(build, function):
    """Ends the program with what function(TOP) gives, TOP being the scratch file system. Root only."""
    if os.geteuid() != 0:
        sys.exit("this needs root")
    scratch = os.environ.get("STRESS_SCRATCH")
    if not scratch:
        sys.exit(outside())
    top, code = scratch + "/fs", 1
    try:
        make_scratch(scratch, top, os.path.abspath(build))
        code = function(top)
    finally:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            points = [line.split()[4] for line in table if line.split()[4].startswith(top)]
        for point in sorted(points, reverse=True):
            subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL)
    sys.exit(code)
