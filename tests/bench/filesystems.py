# SPDX-License-Identifier: Apache-2.0
"""Rows of tests/bench/run on mounted trees: mica mount, mica union, kernel overlayfs, fuse-overlayfs and the directory itself.

A view is one way to show a tree. All views are looked at with the same programs: fuse-overlayfs of PEERS, which mounts in a
mount namespace of its own, through /proc/PID/root of its server. Requests are counted by 'counters=' for a union and by the
tracepoint of the kernel for the others; '-' where there is neither. Ratios are to kernel overlayfs.

"cold": everything was dropped from the kernel's caches, of the disk too; "warm": the same again. The requests of a metric are
those of one run, for each object or 4 KiB page that it touched; memory is the server's anonymous memory after it."""

import os
import shlex
import shutil
import statistics
import struct
import subprocess
import sys
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
PEERS = shlex.split(os.environ.get("PEERS", ""))
TRACING = "/sys/kernel/tracing/instances"
OPCODES = 62


def quiet(command, **keywords):
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **keywords)


def must(command, **keywords):
    done = quiet(command, **keywords)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip()[-400:]}")


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3\n")


def marked(mark):
    """Processes that have 'mark' in their environment: the servers that a mount command left behind."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark.encode() in file.read():
                    found.append(int(name))
        except OSError:
            pass
    return found


def field_kib(pid, field):
    try:
        with open(f"/proc/{pid}/status") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith(field + ":"))
    except OSError:
        return 0


class Requests:
    """Counts what a FUSE connection is asked for."""

    def __init__(self, counters, device):
        self.counters, self.instance = counters, None
        if counters or device is None or not os.path.isdir(TRACING):
            return
        self.instance = f"{TRACING}/mica-bench-{os.getpid()}-{device}"
        event = f"{self.instance}/events/fuse/fuse_request_send"
        try:
            os.mkdir(self.instance)
            self.write("buffer_size_kb", "16")
            self.write(os.path.relpath(event, self.instance) + "/filter", f"connection == {device}")
            self.write(os.path.relpath(event, self.instance) + "/enable", "1")
        except OSError:
            self.close()

    def write(self, name, text):
        with open(os.path.join(self.instance, name), "w") as file:
            file.write(text)

    def count(self):
        if self.counters:
            with open(self.counters, "rb") as file:
                return sum(struct.unpack(f"{OPCODES}Q", file.read(OPCODES * 8)))
        if not self.instance:
            return None
        total = 0
        for cpu in os.listdir(self.instance + "/per_cpu"):
            with open(f"{self.instance}/per_cpu/{cpu}/stats") as file:
                total += sum(int(line.split(":")[1]) for line in file if line.startswith(("entries:", "overrun:")))
        return total

    def close(self):
        if self.instance:
            try:
                self.write("events/fuse/fuse_request_send/enable", "0")
                os.rmdir(self.instance)
            except OSError:
                pass
        self.instance = None


class View:
    """A tree as one of them shows it, mounted for the duration of a with block."""

    def __init__(self, bench, who, lowers=(), image=None, work=None, below="", options=""):
        self.bench, self.who, self.lowers, self.image, self.below, self.options = bench, who, list(lowers), image, below, options
        # upper and work directories of one view: on the disk, or where the row says
        self.work = os.path.join(work or bench.path("views"), who.replace(" ", "-"))
        self.mounted, self.servers, self.requests, self.root = None, [], None, ""

    def part(self, name):
        return os.path.join(self.work, name)

    def layers(self):
        lowers = ":".join(self.lowers)
        return f"lowerdir={lowers},upperdir={self.part('upper')},workdir={self.part('work')}{self.options}"

    def command(self, where):
        if self.who == "overlayfs":
            return ["mount", "-t", "overlay", "-o", self.layers() + ",redirect_dir=on,metacopy=on,index=on", "overlay", where]
        if self.who == "fuse-overlayfs":
            return ["fuse-overlayfs", "-o", self.layers(), where]
        if self.who == "mica union":
            with open(self.part("counters"), "wb") as file:
                file.truncate(512)
            return [self.bench.mica, "union", "--root", self.bench.path("fs-root"), "-o",
                    f"{self.layers()},allow_other,default_permissions,suid,dev,counters={self.part('counters')}", where]
        driver = self.who.split()[-1]
        return [self.bench.mica, "mount", "--root", self.bench.path("fs-root"), "--driver", driver, self.image, where]

    def __enter__(self):
        if self.who == "directory":
            self.path = self.lowers[0]
            return self
        shutil.rmtree(self.work, ignore_errors=True)
        for name in ("upper", "work", "mnt"):
            os.makedirs(self.part(name))
        where, mark = self.part("mnt"), f"MICA_BENCH_MARK={uuid.uuid4()}"
        elsewhere = PEERS if self.who == "fuse-overlayfs" else []
        must(elsewhere + ["env", mark] + self.command(where))
        self.mounted = elsewhere + ["umount", where]
        self.servers = marked(mark)
        if elsewhere and self.servers:
            self.root = f"/proc/{self.servers[0]}/root"
        self.path = self.root + where + self.below
        counters = self.part("counters") if self.who == "mica union" else None
        self.requests = Requests(counters, os.stat(self.path).st_dev if self.servers else None)
        return self

    def __exit__(self, *_):
        if self.requests:
            self.requests.close()
        if self.mounted:
            must(self.mounted)
            deadline = time.monotonic() + 20     # the server may still be closing files: nothing of it in the next numbers
            while any(os.path.exists(f"/proc/{pid}") and field_kib(pid, "VmSize") for pid in self.servers):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the server of {self.who} does not end")
                time.sleep(0.01)
        if self.who != "directory":
            shutil.rmtree(self.work, ignore_errors=True)

    def asked(self):
        return self.requests.count() if self.requests and self.servers else None

    def anonymous_kib(self):
        return sum(field_kib(pid, "RssAnon") for pid in self.servers)


class Table:
    """Numbers of one row: metric by who, in the order of their coming."""

    def __init__(self, bench, row):
        self.bench, self.row, self.cells = bench, row, {}

    def add(self, metric, who, seconds, view=None, requests=None, objects=0, note=""):
        cell = self.cells.setdefault((metric, who), {"times": [], "anon": 0, "per": None, "note": note})
        cell["times"].append(seconds)
        cell["note"] = note or cell["note"]
        if view:
            cell["anon"] = max(cell["anon"], view.anonymous_kib())
        if requests is not None and objects:
            cell["per"] = requests / objects

    def missing(self, who, why):
        print(f"{self.row:8} {'':18} {who:16} {why}", flush=True)
        self.bench.rows.append({"row": self.row, "who": who, "missing": str(why)})

    def show(self):
        for metric in dict.fromkeys(m for m, _ in self.cells):
            base = self.cells.get((metric, "overlayfs"))
            for (other, who), cell in self.cells.items():
                if other != metric:
                    continue
                median = statistics.median(cell["times"])
                ratio = median / max(statistics.median(base["times"]), 1e-9) if base else None
                per = "-" if cell["per"] is None else f"{cell['per']:.3f}"
                print(f"{self.row:8} {metric:18} {who:16} {median:9.4f} s   min {min(cell['times']):.4f} max {max(cell['times']):.4f}"
                      f"   x overlayfs {f'{ratio:6.2f}' if ratio else '     -'}   requests {per:>7}   {cell['anon'] / 1024:6.1f} MiB"
                      f"   {cell['note']}", flush=True)
                self.bench.rows.append({"row": f"{self.row} {metric}", "who": who, "median_s": median, "min_s": min(cell["times"]),
                                        "max_s": max(cell["times"]), "x_overlayfs": ratio, "requests_per_object": cell["per"],
                                        "peak_anon_mib": round(cell["anon"] / 1024, 1), "note": cell["note"]})


class FilesystemRows:
    """Mixed into the Bench of tests/bench/run."""

    def reader(self):
        program = self.path("reader")
        source = os.path.join(HERE, "reader.c")
        if not os.path.exists(program) or os.path.getmtime(program) < os.path.getmtime(source):
            must(["cc", "-O2", "-pthread", "-o", program, source])
        return program

    def reads(self, table, metric, view, *words, note=""):
        before = view.asked()
        done = subprocess.run([self.reader(), *words], check=True, capture_output=True, text=True).stdout.split()
        seconds, objects, size = float(done[0]), int(done[1]), int(done[2])
        asked = None if before is None else view.asked() - before
        if words[0] in ("seq", "random"):
            objects = size // 4096
            note = f"{size / 1e6 / seconds:.0f} MB/s {note}"
        table.add(metric, view.who, seconds, view, asked, objects, note)

    def times(self, table, metric, view, command, objects=0, note="", **keywords):
        before, begun = view.asked(), time.monotonic()
        must(command, **keywords)
        seconds = time.monotonic() - begun
        table.add(metric, view.who, seconds, view, None if before is None else view.asked() - before, objects, note)

    def each(self, table, views, body):
        """Runs 'body' on every view --runs times, view after view, so that what drifts drifts for all."""
        broken = set()
        for _ in range(self.runs):
            for make in views:
                view = make()
                if view.who in broken:
                    continue
                try:
                    with view:
                        body(view)
                except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                    broken.add(view.who)
                    table.missing(view.who, f"not measured: {error}")
        table.show()

    def unions(self, table, lowers, work=None, directory=None):
        """Overlayfs, mica union and fuse-overlayfs over 'lowers', and the directory itself."""
        views = [lambda: View(self, "overlayfs", lowers, work=work), lambda: View(self, "mica union", lowers, work=work)]
        if self.has_fuse_overlayfs():
            views.append(lambda: View(self, "fuse-overlayfs", lowers, work=work))
        else:
            table.missing("fuse-overlayfs", "not measured: neither here nor in PEERS")
        if directory:
            views.append(lambda: View(self, "directory", [directory]))
        return views

    def has_fuse_overlayfs(self):
        try:
            return quiet(PEERS + ["fuse-overlayfs", "--version"]).returncode == 0
        except OSError:
            return False

    def image_of(self, directory, name):
        """An image of one layer with the directory in it, in the store of these rows."""
        tag = self.path(f"fs-{name}.done")
        if not os.path.exists(tag):
            must([self.mica, "import", "--root", self.path("fs-root"), directory, name])
            open(tag, "w").close()
        return name

    def memory_directory(self):
        """On tmpfs, the same here and in PEERS."""
        where = f"/dev/shm/mica-bench-{os.getpid()}"
        os.makedirs(where, exist_ok=True)
        return where

    def big_file(self):
        where = self.path("seq-lower")
        big = os.path.join(where, "big")
        if not os.path.exists(big):
            os.makedirs(where, exist_ok=True)
            block = os.urandom(1 << 20)
            with open(big + ".new", "wb") as file:
                for i in range(1024):
                    file.write(i.to_bytes(8, "little") + block[8:])
            os.rename(big + ".new", big)
        return where

    def filesystem_table(self):
        rows = [r for r in self.rows if "x_overlayfs" in r or "missing" in r]
        if rows:
            print("\n| row | who | median s | spread | x overlayfs | requests an object | server MiB | |\n|---|---|---|---|---|---|---|---|")
        for r in rows:
            if "missing" in r:
                print(f"| {r['row']} | {r['who']} | - | - | - | - | - | {r['missing']} |")
                continue
            ratio = f"{r['x_overlayfs']:.2f}" if r["x_overlayfs"] else "-"
            per = "-" if r["requests_per_object"] is None else f"{r['requests_per_object']:.3f}"
            print(f"| {r['row']} | {r['who']} | {r['median_s']:.4f} | {r['max_s'] / max(r['min_s'], 1e-9):.2f} | {ratio} | {per} |"
                  f" {r['peak_anon_mib']} | {r['note']} |")

    # --- rows ---

    def row_fuse_ro(self):
        """find and full read of the context."""
        context, _ = self.context()
        table = Table(self, "fuse-ro")
        image = self.image_of(context, "context")

        def body(view):
            for what in ("find", "read"):
                drop_caches()
                self.reads(table, f"{what}-cold", view, what, view.path)
                self.reads(table, f"{what}-warm", view, what, view.path)

        mounts = [lambda: View(self, "mica mount fuse", image=image), lambda: View(self, "mica mount kernel", image=image)]
        self.each(table, self.unions(table, [context], directory=context) + mounts, body)

    def row_fuse_seq(self):
        """A file of 1 GiB, below and in the upper."""
        lower = self.big_file()
        image = self.image_of(lower, "seq")
        table = Table(self, "fuse-seq")

        def body(view):
            big = os.path.join(view.path, "big")
            for where in ("lower", "upper"):
                if where == "upper":
                    if view.who.startswith("mica mount") or view.who == "directory":
                        return
                    big += ".upper"
                    self.times(table, "write-upper", view, ["dd", f"if={lower}/big", f"of={big}", "bs=1M"], objects=1 << 18)
                drop_caches()
                self.reads(table, f"seq-cold-{where}", view, "seq", big, "1")
                self.reads(table, f"seq-warm-{where}", view, "seq", big, "1")
                self.reads(table, f"random-warm-{where}", view, "random", big, "262144")
                self.reads(table, f"8readers-warm-{where}", view, "seq", big, "8")
                drop_caches()
                self.reads(table, f"random-cold-{where}", view, "random", big, "4096")
                drop_caches()
                self.reads(table, f"8readers-cold-{where}", view, "seq", big, "8")

        mounts = [lambda: View(self, "mica mount fuse", image=image), lambda: View(self, "mica mount kernel", image=image)]
        self.each(table, self.unions(table, [lower], directory=lower) + mounts, body)

    def some_files(self, count=9700):
        """A tar of the first files of the context."""
        context, _ = self.context()
        archive = self.path(f"files-{count}.tar")
        if not os.path.exists(archive):
            names = subprocess.run(["find", ".", "-mindepth", "1"], cwd=context, check=True, capture_output=True).stdout.split(b"\n")
            subprocess.run(["tar", "--no-recursion", "-cf", archive, "-T", "-"], cwd=context, check=True,
                           input=b"\n".join(sorted(n for n in names if n)[:count]))
        return archive, count

    def row_union(self):
        """Writes: an archive unpacked and removed; metadata of what lies below. Uppers on tmpfs."""
        archive, count = self.some_files()
        context, _ = self.context()
        total = sum(len(files) + len(names) for _, names, files in os.walk(context))
        big, memory = self.big_file(), self.memory_directory()
        empty = os.path.join(memory, "empty")
        os.makedirs(empty, exist_ok=True)
        table = Table(self, "union")

        def untar(view):
            new = os.path.join(view.path, "new")
            os.mkdir(new)
            self.times(table, "untar", view, ["tar", "-C", new, "-xf", archive], count)
            self.times(table, "rm", view, ["rm", "-rf", new], count)

        def upper_bytes(view):
            return int(subprocess.run(["du", "-s", "-B1", view.part("upper")], capture_output=True, text=True).stdout.split()[0])

        def metadata(view):
            self.times(table, "chmod -R", view, ["chmod", "-R", "g-w,o-w,u+w,g+s", view.path], total)
            table.cells["chmod -R", view.who]["note"] = f"{upper_bytes(view)} bytes in the upper"
            self.times(table, "chown -R", view, ["chown", "-Rh", "7:7", view.path], total)
            table.cells["chown -R", view.who]["note"] = f"{upper_bytes(view)} bytes in the upper"

        def large(view):
            for what in ("chmod", "unlink"):
                self.reads(table, f"{what} 1 GiB", view, what, os.path.join(view.path, "big"))
                table.cells[f"{what} 1 GiB", view.who]["note"] = f"{upper_bytes(view)} bytes in the upper"

        try:
            self.each(table, self.unions(table, [empty], work=memory, directory=os.path.join(memory, "empty")), untar)
            for lower, body in ((context, metadata), (big, large)):
                table = Table(self, "union")
                self.each(table, self.unions(table, [lower], work=memory), body)
        finally:
            shutil.rmtree(memory, ignore_errors=True)

    def source(self, package="lua5.4"):
        """The upstream source of a Debian package, from the mirror that apt is set up for."""
        where = self.path("source")
        if os.path.exists(where + ".done"):
            return where
        apt, got = self.path("apt"), None
        shutil.rmtree(apt, ignore_errors=True)
        os.makedirs(apt + "/lists/partial")
        site = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages", "Origin: Debian",
                               "Component: main"], check=True, capture_output=True, text=True).stdout.split("\n")[0]
        with open(apt + "/sources.list", "w") as file:
            file.write(f"deb-src {site} main\n")
        options = [word for o in (f"Dir::Etc::SourceList={apt}/sources.list", "Dir::Etc::SourceParts=-", "APT::Sandbox::User=root",
                                  f"Dir::State::Lists={apt}/lists", "Acquire::Check-Valid-Until=false") for word in ("-o", o)]
        must(["apt-get", *options, "update"])
        must(["apt-get", *options, "source", "--download-only", package], cwd=apt)
        got = next(os.path.join(apt, name) for name in os.listdir(apt) if ".orig.tar" in name and not name.endswith(".asc"))
        shutil.rmtree(where, ignore_errors=True)
        os.makedirs(where)
        must(["tar", "-C", where, "--strip-components=1", "-xf", got])
        open(where + ".done", "w").close()
        return where

    def row_compile(self):
        """make -j2 of a C program whose source lies below."""
        table = Table(self, "compile")
        try:
            source = self.source()
        except (RuntimeError, subprocess.CalledProcessError, StopIteration) as error:
            table.missing("all", f"no source: {error}")
            return
        copy = self.path("source-copy")

        def body(view):
            where = view.path
            if view.who == "directory":
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(source, copy, symlinks=True)
                where = copy
            self.times(table, "make -j2", view, ["make", "-j2", "-C", os.path.join(where, "src"), "generic"])

        self.each(table, self.unions(table, [source], directory=source), body)

    APT_PACKAGES = ["gcc", "libc6-dev", "make", "git", "python3-minimal"]

    def debian(self):
        """A Debian root file system that has the archives of some packages and their lists, but not the packages."""
        where, archive = self.path("debian"), self.path("debian.tar")
        if os.path.exists(where + ".done"):
            return where
        shutil.rmtree(where, ignore_errors=True)
        os.makedirs(where)
        must([os.path.join(HERE, "../tools/make-debian-base"), archive])
        must(["tar", "-C", where, "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", archive])
        shutil.copy("/etc/resolv.conf", where + "/etc/resolv.conf")
        shutil.copy("/etc/hosts", where + "/etc/hosts")
        for command in (["update"], ["install", "-y", "--no-install-recommends", "--download-only", *self.APT_PACKAGES]):
            must(["chroot", where, "apt-get", *command], env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"))
        open(where + ".done", "w").close()
        return where

    def row_apt(self):
        """apt-get install of a compiler, git and python from archives that lie below, in a chroot."""
        table = Table(self, "apt")
        try:
            lower = self.debian()
        except (RuntimeError, OSError) as error:
            table.missing("all", f"no root file system: {error}")
            return
        copy = self.path("debian-copy")
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", LC_ALL="C")

        def body(view):
            where = view.path
            if view.who == "directory":
                shutil.rmtree(copy, ignore_errors=True)
                must(["cp", "-a", lower, copy])
                where = copy
            self.times(table, "apt-get install", view,
                       ["chroot", where, "apt-get", "install", "-y", "--no-install-recommends", "--no-download", *self.APT_PACKAGES],
                       env=environment)
            shutil.rmtree(copy, ignore_errors=True)

        self.each(table, self.unions(table, [lower], directory=lower), body)

    def row_gitdu(self):
        """git status and du of the context, whose repository lies in a lower of its own; warm after one run of each."""
        context, _ = self.context()
        table, lower = Table(self, "gitdu"), self.path("git-lower")
        git = ["git", "--git-dir", f"{lower}/.git"]
        environment = dict(os.environ, GIT_OPTIONAL_LOCKS="0", GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="safe.directory",
                           GIT_CONFIG_VALUE_0="*")
        if not os.path.exists(lower + ".done"):
            shutil.rmtree(lower, ignore_errors=True)
            os.makedirs(lower)
            must(["git", "init", "-q", lower])
            # numbers of inodes and times of change are not those of the index in an image: the comparison is by size and mtime
            must(git + ["config", "core.checkStat", "minimal"])
            must(git + ["config", "core.trustctime", "false"])
            must(git + ["--work-tree", context, "add", "-A"], env=environment)
            must(git + ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-q", "-m", "tree"], env=environment)
            open(lower + ".done", "w").close()

        def body(view):
            here = ["git", "--git-dir", f"{view.path}/.git"] if os.path.exists(f"{view.path}/.git") else git
            status = here + ["--work-tree", view.path, "status", "--porcelain"]
            for metric, command in (("git status", status), ("du -s", ["du", "-s", view.path])):
                drop_caches()
                self.times(table, metric + " cold", view, command, 83731, env=environment)
                self.times(table, metric + " warm", view, command, 83731, env=environment)

        image = self.image_of(context, "context")
        mounts = [lambda: View(self, "mica mount fuse", image=image), lambda: View(self, "mica mount kernel", image=image)]
        self.each(table, self.unions(table, [lower, context], directory=context) + mounts, body)
