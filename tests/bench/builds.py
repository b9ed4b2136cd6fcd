# SPDX-License-Identifier: Apache-2.0
"""Rows about larger builds: long recipes, independent stages, one change among many files, one very large file, apt."""
import os


class BuildRows:
    """Mixed into Bench of tests/bench/run, whose methods it uses."""

    def rivals(self, row, recipe, context, cache=False, before=None, runs=None, options=()):
        """The same build by BuildKit and buildah; without 'cache' everything is executed again."""
        fresh = [] if cache else ["--no-cache"]
        if self.have("docker"):
            self.measure(row, "buildkit", self.peers(["docker", "buildx", "build", "--network=host", *fresh, *options, "-q", "-t", row,
                                                      "-f", recipe, context]), before=before, runs=runs)
        if self.have("buildah"):
            self.measure(row, "buildah", self.peers(["buildah", "bud", "--network=host", "--layers", *fresh, "-q", "-t", row,
                                                     "-f", recipe, context]), before=before, runs=1)

    def write_recipe(self, name, text):
        path = self.path(name + ".Dockerfile")
        with open(path, "w") as file:
            file.write(text)
        return path

    def row_long(self):
        """200 steps, each of which changes a file; engines with a limit of layers cannot."""
        recipe = self.write_recipe("long", "FROM bench-base\n" + "".join(f"RUN echo {i} >/f{i}\n" for i in range(200)))
        empty, _ = self.run_recipe()
        self.base("long-root")
        self.measure("long", "mica", self.m("long-root", "build", "-q", "--no-cache", "-t", "long", "-f", recipe, empty))
        self.measure("long-again", "mica", self.m("long-root", "build", "-q", "-t", "long", "-f", recipe, empty))
        self.base_for_rivals()
        self.rivals("long", recipe, empty)
        self.rivals("long-again", recipe, empty, cache=True)

    def row_stages(self):
        """Eight stages that compute the same time each, joined: a scheduler's floor is their sum over the processors."""
        busy = "RUN i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; echo {0} >/o{0}\n"
        recipe = self.write_recipe("stages", "".join(f"FROM bench-base AS s{i}\n" + busy.format(i) for i in range(8)) +
                                   "FROM scratch\n" + "".join(f"COPY --from=s{i} /o{i} /\n" for i in range(8)))
        empty, _ = self.run_recipe()
        rootfs = self.base("stages-root")
        loop = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done"
        self.measure("stages", "floor", f"seq 8 | xargs -P$(nproc) -I{{}} chroot {rootfs} /bin/sh -c '{loop}'")
        self.measure("stages", "mica", self.m("stages-root", "build", "-q", "--no-cache", "-t", "stages", "-f", recipe, empty))
        self.base_for_rivals()
        self.rivals("stages", recipe, empty)

    def row_onefile(self):
        """One of 100 000 files has changed; the recipe takes them all."""
        tree = self.many_files()
        recipe = self.write_recipe("onefile", "FROM scratch\nCOPY . /src/\n")
        changes = iter(range(1 << 30))

        def change():
            with open(os.path.join(tree, "7/7/file-7"), "w") as file:
                file.write(f"change {os.getpid()} {next(changes)}\n")

        command = self.m("onefile-root", "build", "-q", "-t", "onefile", "-f", recipe, tree)
        self.sh(command, check=True)
        self.measure("onefile", "floor", ["find", tree, "-newer", recipe, "-name", "none"], before=change)
        self.measure("onefile", "mica", command, before=change)
        if self.have("docker"):
            self.sh(self.peers(["docker", "buildx", "build", "-q", "-t", "onefile", "-f", recipe, tree]))
        self.rivals("onefile", recipe, tree, cache=True, before=change)

    def row_big(self):
        """One file of 5 GB that compresses by half."""
        context = self.path("big")
        os.makedirs(context, exist_ok=True)
        big = os.path.join(context, "big")
        if not os.path.exists(big) or os.path.getsize(big) != 5 << 30:
            with open(big, "wb") as file:
                for _ in range(5 << 8):
                    file.write(os.urandom(2 << 20) + bytes(2 << 20))
        recipe = self.write_recipe("big", "FROM scratch\nCOPY big /\n")
        self.measure("big", "floor", f"cat {big} | tee >(openssl dgst -sha256 >/dev/null) | zstd -3 -T2 -q >/dev/null", runs=1)
        self.measure("big", "mica", self.m("big-root", "build", "-q", "-t", "big", "-f", recipe, context),
                     before=self.clean("big-root"), runs=2)
        self.measure("big-again", "mica", self.m("big-root", "build", "-q", "-t", "big", "-f", recipe, context))
        self.clean("big-root")()
        self.rivals("big", recipe, context, runs=1)

    def row_recipe(self):
        """The recipe of design.md: packages, a user, a copy, a compilation, on a Debian base."""
        self.debian()
        archive = self.path("bench-debian.tar")
        self.sh(self.m("recipe-root", "import", self.path("debian.tar"), "bench-debian"), check=True)
        self.sh(self.m("recipe-root", "save", "-o", archive, "bench-debian"), check=True)
        context = self.path("hello")
        os.makedirs(context, exist_ok=True)
        with open(os.path.join(context, "hello.c"), "w") as file:
            file.write('#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n')
        recipe = self.write_recipe("recipe", "FROM bench-debian\n"
                                   "RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "
                                   "build-essential python3 git\n"
                                   "RUN useradd -m app\nWORKDIR /app\nCOPY . .\nRUN gcc -O2 -o hello hello.c && ./hello\n"
                                   "USER app\nCMD [\"/app/hello\"]\n")
        self.measure("recipe", "mica", self.m("recipe-root", "build", "-q", "--no-cache", "-t", "recipe", "-f", recipe, context))
        if self.have("docker"):
            self.sh(self.peers(["docker", "load", "-i", archive]))
        if self.have("buildah"):
            self.sh(self.peers(["buildah", "pull", f"docker-archive:{archive}"]))
        self.rivals("recipe", recipe, context)
