# SPDX-License-Identifier: Apache-2.0
"""What 'compare' and 'random' share: base images, builds by mica and by BuildKit, and the comparison of two images.

Both tools get the same bytes: one copy of the context with fixed times, and base images that mica imported or built and that
BuildKit takes from an OCI layout. SOURCE_DATE_EPOCH is set for both, and times behind it count as it: what a RUN writes has
no time that two builds could agree on.
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

from image_tree import Image, Strange

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = os.path.join(HERE, "..", "tools")
EPOCH = 1_700_000_000  # behind every file of a context, before everything that a step writes
CONTEXT_TIME = 1_600_000_000


def peers():
    return shlex.split(os.environ.get("PEERS", ""))


def quote(data):
    return "".join(chr(byte) if 32 < byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in data) or "."


class Failed(Exception):
    pass


# --- what differs ---

FIELDS = ("kind", "mode", "uid", "gid", "size", "mtime", "target", "xattrs", "device", "sha256")


def clamp(mtime):
    return None if mtime is None else min(mtime, EPOCH * 10**9)


def link_groups(tree):
    """Path -> first path of the same inode, for inodes with more than one name."""
    first, names = {}, {}
    for path, node in tree.walk():
        if node.kind != "d":
            first.setdefault(id(node), path)
            names.setdefault(id(node), []).append(path)
    return {path: first[key] for key, paths in names.items() if len(paths) > 1 for path in paths}


def shown(field, value):
    if field in ("mode",):
        return f"{value:04o}"
    if field == "mtime":
        return "none" if value is None else f"{value // 10**9}.{value % 10**9:09d}"
    return repr(value) if isinstance(value, (dict, bytes)) else str(value)


class Difference:
    """At 'path' (or 'config:KEY', 'history:N'), 'fields' differ; 'text' is for people."""

    def __init__(self, path, fields, text, directory=False):
        self.path, self.fields, self.text, self.directory = path, fields, text, directory

    def __str__(self):
        return f"{self.path}: {self.text}"


def compare_trees(mine, theirs):
    a, b = dict(mine.walk()), dict(theirs.walk())
    links_a, links_b = link_groups(mine), link_groups(theirs)
    for path in sorted(a.keys() | b.keys()):
        name, x, y = quote(path), a.get(path), b.get(path)
        if x is None or y is None:
            only = x or y
            yield Difference(name, ["missing" if x is None else "extra"],
                             f"only in {'BuildKit' if x is None else 'mica'} ({only.kind} {only.mode:04o} {only.uid}:{only.gid})")
            continue
        fields, texts = [], []
        for field in FIELDS:
            u, v = getattr(x, field), getattr(y, field)
            if field == "mtime":
                u, v = clamp(u), clamp(v)
                # RCP-817: a directory that gained or lost an entry keeps its time here, BuildKit's tells the clock.
                if x.kind == y.kind == "d" and v == EPOCH * 10**9:
                    continue
                if u is None or v is None:  # a parent that the layer takes for granted has no time
                    continue
            if u != v:
                fields.append(field)
                texts.append(f"{field} {shown(field, u)} != {shown(field, v)}")
        if links_a.get(path) != links_b.get(path):
            fields.append("links")
            texts.append(f"name of {quote(links_a.get(path, path))} != {quote(links_b.get(path, path))}")
        if fields:
            if "sha256" in fields and x.data is not None and y.data is not None and max(len(x.data), len(y.data)) < 400:
                texts.append(f"{x.data!r} != {y.data!r}")
            yield Difference(name, fields, ", ".join(texts), x.kind == y.kind == "d")


def compare_configs(mine, theirs):
    def flat(config):
        keys = {"config:" + key: value for key, value in config.items() if key not in ("config", "history", "rootfs")}
        keys.update({"config:config." + key: value for key, value in (config.get("config") or {}).items()})
        return keys

    a, b = flat(mine), flat(theirs)
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key):
            yield Difference(key, ["value"], f"{json.dumps(a.get(key))} != {json.dumps(b.get(key))}")
    x, y = mine.get("history") or [], theirs.get("history") or []
    if len(x) != len(y):
        yield Difference("history", ["length"], f"{len(x)} != {len(y)} entries: " +
                         f"{[e.get('created_by') for e in x]} != {[e.get('created_by') for e in y]}")
        return
    fewer = 0  # layers, by entries that say so
    for number, (e, f) in enumerate(zip(x, y)):
        fewer += e.get("empty_layer", False) - f.get("empty_layer", False)
        for key in sorted(e.keys() | f.keys()):
            if e.get(key) != f.get(key):
                yield Difference(f"history:{number}:{e.get('created_by', '').split(' ')[0]}", [key], f"{key} {json.dumps(e.get(key))} != {json.dumps(f.get(key))}")
    counts = [len(config["rootfs"].get("diff_ids") or []) for config in (mine, theirs)]
    if counts[0] + fewer != counts[1]:
        yield Difference("layers", ["length"], f"{counts[0]} != {counts[1]}")


def compare_images(mine, theirs):
    return list(compare_configs(mine.config, theirs.config)) + list(compare_trees(mine.tree(), theirs.tree()))


class Known:
    """The differences that are meant or cannot be avoided, with their reason: lines RECIPE PATH FIELDS REASON, globs."""

    def __init__(self, path):
        self.rules, self.used = [], set()
        with open(path) as file:
            for line in file:
                if line.strip() and not line.startswith("#"):
                    recipe, where, fields, reason = line.split(None, 3)
                    self.rules.append((recipe, where, fields.split(","), reason.strip()))

    def reason(self, recipe, difference):
        for number, (pattern, where, fields, reason) in enumerate(self.rules):
            if (fnmatch.fnmatchcase(recipe, pattern) and fnmatch.fnmatchcase(difference.path, where)
                    and ("*" in fields or all(field in fields for field in difference.fields))):
                self.used.add(number)
                return reason
        return None


# --- builds ---


def make_busybox(root):
    """With mount points: BuildKit makes missing ones in the first layer, mica in none (RCP-270)."""
    if not os.path.exists(root):
        subprocess.run([os.path.join(TOOLS, "make-busybox-base"), root], check=True)
        for mountpoint in ("dev", "proc", "sys"):
            os.makedirs(os.path.join(root, mountpoint), exist_ok=True)


class Builder:
    def __init__(self, mica, work):
        self.mica, self.work = os.path.abspath(mica), work
        self.store = os.path.join(work, "store")
        for name in ("layouts", "logs", "contexts", "bases", "random"):
            os.makedirs(os.path.join(work, name), exist_ok=True)
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(("MICA_", "BUILDKIT_"))}
        self.environment["MICA_ROOT"] = self.store
        self.environment["LC_ALL"] = "C.UTF-8"

    def path(self, *names):
        return os.path.join(self.work, *names)

    def run(self, command, log, extra=None, timeout=1800):
        with open(log, "ab") as file:
            file.write(f"$ {shlex.join(command)}\n".encode())
            file.flush()
            return subprocess.run(["nice", "-n", "10"] + command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=timeout,
                                  env=dict(self.environment, **(extra or {}))).returncode

    def must(self, command, log):
        if self.run(command, log):
            with open(log, errors="replace") as file:
                raise Failed(f"{shlex.join(command)}:\n" + file.read()[-1500:])

    def export(self, image):
        """The OCI layout of an image of the store."""
        layout = self.path("layouts", image)
        shutil.rmtree(layout, ignore_errors=True)
        self.must([self.mica, "export", "--format", "oci", "-o", layout, image], self.path("logs", "export"))
        return layout

    def has_image(self, name):
        return subprocess.run([self.mica, "inspect", name], env=self.environment, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL).returncode == 0

    def base(self, name):
        """Makes base image 'name' if the store lacks it, and returns its layout."""
        layout = self.path("layouts", name)
        if os.path.exists(layout) and self.has_image(name):
            return layout
        log = self.path("logs", name + ".base")
        if name == "busybox":
            root = self.path("bases", "busybox")
            make_busybox(root)
            self.must([self.mica, "import", "--change", 'CMD ["/bin/sh"]', root, name], log)
        elif name == "debian":
            tar = self.path("bases", "debian.tar")
            subprocess.run([os.path.join(TOOLS, "make-debian-base"), tar], check=True)
            self.must([self.mica, "import", "--change", 'CMD ["/bin/bash"]', tar, name], log)
        else:
            recipe = Recipe(name, self)
            self.must(self.mica_command(recipe, name), log)
        return self.export(name)

    def mica_command(self, recipe, tag, *options):
        return [self.mica, "build", "--progress=plain", "--source-date-epoch", str(EPOCH), "-t", tag, "-f", recipe.dockerfile,
                *options, *recipe.options, *recipe.own_options, recipe.context]

    def build_mica(self, recipe, *options):
        """The image of mica, or None when it refuses."""
        log = self.path("logs", recipe.name + ".mica")
        open(log, "w").close()
        if self.run(self.mica_command(recipe, "case-" + recipe.name, "--no-cache", *options), log):
            return None
        return Image(self.export("case-" + recipe.name))

    def build_buildkit(self, recipe):
        log, layout = self.path("logs", recipe.name + ".buildkit"), self.path("layouts", "buildkit-" + recipe.name)
        open(log, "w").close()
        shutil.rmtree(layout, ignore_errors=True)
        # SOURCE_DATE_EPOCH is an argument here: buildx takes it from its environment, which the command prefix may clear.
        command = peers() + ["docker", "buildx", "build", "--progress=plain", "--network=host", "--provenance=false",
                             "--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}",
                             "-o", f"type=oci,dest={layout},tar=false,compression=uncompressed,rewrite-timestamp=true", "-f", recipe.dockerfile]
        for name in recipe.bases:
            command += ["--build-context", f"{name}=oci-layout://{self.path('layouts', name)}:latest"]
        if self.run(command + recipe.options + [recipe.context], log):
            return None
        return Image(layout)


class Recipe:
    """A directory with a Dockerfile, and with 'context', 'prepare' and 'options' if it needs them. The context is copied to
    where both tools see it, with plain modes and fixed times, and 'prepare' then makes what a repository cannot hold."""

    def __init__(self, name, builder, source=None):
        self.name, self.source = name, source or os.path.join(HERE, name)
        place = builder.path("contexts", name)
        shutil.rmtree(place, ignore_errors=True)
        self.context, self.dockerfile = os.path.join(place, "context"), os.path.join(place, "Dockerfile")
        os.makedirs(self.context)
        shutil.copy(os.path.join(self.source, "Dockerfile"), self.dockerfile)
        extra = os.path.join(self.source, "Dockerfile.dockerignore")
        if os.path.exists(extra):
            shutil.copy(extra, self.dockerfile + ".dockerignore")
        if os.path.isdir(os.path.join(self.source, "context")):
            shutil.copytree(os.path.join(self.source, "context"), self.context, symlinks=True, dirs_exist_ok=True)
        plain_modes(self.context)
        prepare = os.path.join(self.source, "prepare")
        if os.path.exists(prepare):
            subprocess.run([prepare], cwd=self.context, check=True, umask=0o022, env=dict(os.environ, LC_ALL="C.UTF-8"))
        fixed_times(self.context)
        with open(self.dockerfile, "rb") as file:
            text = file.read().decode(errors="replace")
        names = re.findall(r"(?im)^\s*(?:FROM|ARG\s+\w+=)\s*(?:--\S+\s+)*([\w.-]+)|from=([\w.-]+)", text)
        self.bases = sorted({name for pair in names for name in pair if name in ("busybox", "debian") or name.startswith("base-")})
        self.options, self.own_options = [], []  # own: not for BuildKit
        if os.path.exists(os.path.join(self.source, "options.mica")):
            with open(os.path.join(self.source, "options.mica")) as file:
                self.own_options = shlex.split(file.read(), comments=True)
        if os.path.exists(os.path.join(self.source, "options")):
            with open(os.path.join(self.source, "options")) as file:
                self.options = shlex.split(file.read().replace("@PLACE@", place), comments=True)
        if any("npmrc" in option for option in self.options):
            write_npmrc(place)
        for base in self.bases:
            builder.base(base)


def write_npmrc(place):
    """What npm is configured to here: its registry and, where it has one, the file of authorities that it trusts."""
    def setting(name):
        return subprocess.run(["npm", "config", "get", name], capture_output=True, text=True, check=True).stdout.strip()

    authorities = setting("cafile")
    with open(os.path.join(place, "npm-ca"), "wb") as file:
        if os.path.exists(authorities):
            with open(authorities, "rb") as source:
                file.write(source.read())
    with open(os.path.join(place, "npmrc"), "w") as file:
        file.write(f"registry={setting('registry')}\n")
        if os.path.exists(authorities):
            file.write("cafile=/run/secrets/npm-ca\n")


def plain_modes(top):
    for directory, _, files in os.walk(top):
        os.chmod(directory, 0o755)
        for file in files:
            path = os.path.join(directory, file)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.stat(path).st_mode & 0o100 else 0o644)


def fixed_times(top):
    """Times that differ by path, with nanoseconds, and that are the same in every run."""
    for directory, _, files in os.walk(top, topdown=False):
        for name in files + [""]:
            path = os.path.join(directory, name) if name else directory
            seed = sum(os.fsencode(os.path.relpath(path, top)))
            when = (CONTEXT_TIME + seed) * 10**9 + seed * 1001
            os.utime(path, ns=(when, when), follow_symlinks=False)
    # links to directories are not in 'files'
    for directory, names, _ in os.walk(top):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.islink(path):
                os.utime(path, ns=(CONTEXT_TIME * 10**9, CONTEXT_TIME * 10**9), follow_symlinks=False)


def recipes():
    return sorted(name for name in os.listdir(HERE) if os.path.exists(os.path.join(HERE, name, "Dockerfile")))


def last_error(builder, name, who):
    with open(builder.path("logs", f"{name}.{who}"), errors="replace") as file:
        lines = [line.rstrip() for line in file if re.search(r"(?i)error|failed|mica: ", line)]
    return lines[-1] if lines else "?"


def compare_recipe(builder, recipe):
    """The differences, or a string when there is nothing to compare."""
    theirs = builder.build_buildkit(recipe)
    mine = builder.build_mica(recipe)
    if mine is None or theirs is None:
        if mine is None and theirs is None:
            return "both refuse: " + last_error(builder, recipe.name, "mica")
        who = "mica" if mine is None else "buildkit"
        return [Difference("build", ["refused-by-" + who], f"{who} refuses: {last_error(builder, recipe.name, who)}")]
    try:
        return compare_images(mine, theirs)
    except Strange as error:
        return [Difference("layers", ["strange"], str(error))]
    finally:  # they may be large
        shutil.rmtree(mine.layout)
        shutil.rmtree(theirs.layout)


def fail(text):
    print(text, file=sys.stderr)
    sys.exit(2)
