# SPDX-License-Identifier: Apache-2.0
"""Rows about builds: long recipes, stages side by side, one change in a large context, one large file, packages.

A rival's peak memory is that of the command; BuildKit works in a daemon, whose memory is not seen."""

import os
import shlex


class BuildRows:
    def builders(self, root, recipe, context, cached=False):
        """(who, command) of mica and of the rivals at hand, with or without their caches."""
        flag = [] if cached else ["--no-cache"]
        yield "mica", self.m(root, "build", "-q", *flag, "-t", "bench", "-f", recipe, context)
        if self.have("docker"):
            yield "buildkit", self.peers() + ["docker", "buildx", "build", "--network=host", "-q", *flag, "-t", "bench", "-f", recipe, context]
        if self.have("buildah"):
            yield "buildah", self.peers() + ["buildah", "bud", "--network=host", "--layers", "-q", *flag, "-t", "bench", "-f", recipe, context]

    def recipe_of(self, name, text):
        path = self.path(name + ".Dockerfile")
        with open(path, "w") as file:
            file.write(text)
        return path

    def measure_builders(self, row, builders, before=None, runs=None, warm=False):
        for who, command in builders:
            if warm:
                self.warm(command)
            self.measure(row, who, command, before=before, runs=1 if who == "buildah" else runs)

    def row_steps(self):
        """Two hundred steps, half of which make layers (BuildKit ends at 125), executed and then all from the cache."""
        context = self.path("steps")
        os.makedirs(context, exist_ok=True)
        lines = ["FROM bench-base"]
        for n in range(50):
            with open(f"{context}/f{n}", "w") as file:
                file.write(f"{n}\n")
            lines += [f"COPY f{n} /c/", f"ENV V{n}={n}", f"RUN cat /c/f{n} >/r{n}", f"LABEL l{n}=$V{n}"]
        recipe = self.recipe_of("steps", "\n".join(lines) + "\n")
        rootfs = self.base("steps-root")
        self.base_for_rivals()
        self.measure("steps", "floor", f"for i in $(seq 50); do unshare -mpiuf chroot {rootfs} /bin/sh -c 'echo x' >/dev/null; done")
        self.measure_builders("steps", self.builders("steps-root", recipe, context))
        self.measure("steps-c", "floor", ["find", context])
        self.measure_builders("steps-c", self.builders("steps-root", recipe, context, cached=True), warm=True)

    def row_stages(self):
        """Eight stages that need nothing of each other, each with work for one core; a last one takes from all."""
        work = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done"
        lines = [f"FROM bench-base AS s{n}\nRUN {work}; echo {n} >/out{n}" for n in range(8)] + ["FROM bench-base"]
        lines += [f"COPY --from=s{n} /out{n} /" for n in range(8)]
        recipe, empty = self.recipe_of("stages", "\n".join(lines) + "\n"), self.path("empty")
        os.makedirs(empty, exist_ok=True)
        rootfs = self.base("stages-root")
        self.base_for_rivals()
        self.measure("stages", "floor", f"seq 8 | xargs -P $(nproc) -I{{}} chroot {rootfs} /bin/sh -c {shlex.quote(work)}")
        self.measure_builders("stages", self.builders("stages-root", recipe, empty))

    def row_change(self):
        """A hundred thousand files are copied; one of them changes before each build."""
        tree = self.many_files()
        recipe, counter = self.recipe_of("change", "FROM scratch\nCOPY . /src/\n"), [0]

        def change():
            counter[0] += 1
            with open(f"{tree}/3/43/file-7", "w") as file:
                file.write(f"change {counter[0]} of {os.getpid()}\n")

        self.measure("change", "floor", ["find", tree, "-size", "+1G"], before=change)
        self.measure_builders("change", self.builders("change-root", recipe, tree, cached=True), before=change, warm=True)

    def row_large(self):
        """One file of 5 GB, half of which compresses. Watch the memory."""
        context = self.path("large")
        data = os.path.join(context, "data")
        os.makedirs(context, exist_ok=True)
        if not os.path.exists(data):
            self.warm(f"(openssl enc -aes-128-ctr -pass pass:mica -nosalt -pbkdf2 </dev/zero 2>/dev/null | head -c 2500000000;"
                      f" yes 'a line that compresses' | head -c 2500000000) >{data}.part; mv {data}.part {data}")
        recipe = self.recipe_of("large", "FROM scratch\nCOPY data /\n")
        self.measure("large", "floor", f"tee >(openssl dgst -sha256 >/dev/null) <{data} | zstd -3 -T2 -q >/dev/null", runs=1)
        self.measure_builders("large", self.builders("large-root", recipe, context), runs=1)

    def row_recipe(self):
        """Packages, a user, a copy and a compilation on a Debian base."""
        self.debian()
        archive, context = self.path("bench-debian.tar"), self.path("hello")
        self.sh(self.m("recipe-root", "import", self.path("debian.tar"), "bench-debian"), check=True)
        self.sh(self.m("recipe-root", "save", "-o", archive, "bench-debian"), check=True)
        if self.have("docker"):
            self.sh(self.peers() + ["docker", "load", "-i", archive])
        if self.have("buildah"):
            self.sh(self.peers() + ["buildah", "pull", f"docker-archive:{archive}"])
        os.makedirs(context, exist_ok=True)
        with open(os.path.join(context, "hello.c"), "w") as file:
            file.write('#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n')
        recipe = self.recipe_of("recipe", "FROM bench-debian\n"
                                "RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "
                                "build-essential python3 git\n"
                                "RUN useradd -m app\nWORKDIR /app\nCOPY . .\nRUN gcc -O2 -o hello hello.c && ./hello\n"
                                "USER app\nCMD [\"/app/hello\"]\n")
        self.measure_builders("recipe", self.builders("recipe-root", recipe, context))
