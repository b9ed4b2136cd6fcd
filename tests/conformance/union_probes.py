#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""union_probes.py MICA: what a writable union has to do like one file system, asked of a mount by 'mica union'.

Each question starts with a fresh lower tree and an empty upper and names its requirement. Afterwards the lower tree must be
what it was, byte for byte (FS-1310). Prints TAP."""
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import threading

MICA = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
QUESTIONS = []
CAPABILITY = struct.pack("<IIIII", 0x2000001, 1, 0, 0, 0)


def question(text):
    return lambda function: QUESTIONS.append((text, function)) or function


def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def put(path, data=b"old"):
    with open(path, "wb") as file:
        file.write(data)


def get(path):
    with open(path, "rb") as file:
        return file.read()


def refused(code, function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        assert error.errno == code, os.strerror(error.errno)
        return
    raise AssertionError("was allowed")


def rename2(old, new, flags):
    call(libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags))


def held(*tops):
    """Bytes of file data that are allocated below."""
    return sum(os.lstat(os.path.join(d, f)).st_blocks * 512 for top in tops for d, _, files in os.walk(top) for f in files)


class Union:
    def __init__(self, top):
        self.lower, self.upper, self.work, self.mnt = (os.path.join(top, n) for n in ("lower", "upper", "work", "mnt"))
        for path in (self.lower, self.upper, self.work, self.mnt):
            os.mkdir(path)

    def mount(self):
        words = f"lowerdir={self.lower},upperdir={self.upper},workdir={self.work}"
        subprocess.run([MICA, "union", "-o", words, self.mnt], check=True)
        return self.mnt + "/"

    def unmount(self):
        subprocess.run(["umount", self.mnt], check=True)

    def remount(self):
        self.unmount()
        return self.mount()

    def digest(self):
        sums = hashlib.sha256()
        for top, names, files in os.walk(self.lower):
            names.sort()
            for name in sorted(files + names):
                path = os.path.join(top, name)
                st = os.lstat(path)
                sums.update(repr((path, st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_size, st.st_mtime_ns,
                                  st.st_ctime_ns)).encode())
                if stat.S_ISREG(st.st_mode) and st.st_size < 1 << 30:  # times tell of larger ones
                    sums.update(get(path))
        return sums.hexdigest()


@question("a directory from below is renamed, and stays so (FS-212)")
def _(u):
    os.makedirs(u.lower + "/a/b")
    put(u.lower + "/a/b/f")
    m = u.mount()
    os.mkdir(m + "to")
    os.rename(m + "a", m + "to/c")
    m = u.remount()
    assert get(m + "to/c/b/f") == b"old" and not os.path.exists(m + "a")
    os.mkdir(m + "a")
    assert os.listdir(m + "a") == []


@question("two things change places (FS-213)")
def _(u):
    os.mkdir(u.lower + "/d")
    put(u.lower + "/d/f")
    put(u.lower + "/g")
    m = u.mount()
    rename2(m + "d", m + "g", 2)
    assert get(m + "g/f") == b"old" and get(m + "d") == b"old"
    refused(errno.EEXIST, rename2, m + "d", m + "g", 1)
    refused(errno.EINVAL, rename2, m + "d", m + "x", 4)


@question("names of one inode stay one inode over copy-up and remount (FS-211)")
def _(u):
    put(u.lower + "/a")
    os.link(u.lower + "/a", u.lower + "/b")
    m = u.mount()
    assert os.stat(m + "b").st_nlink == 2
    with open(m + "a", "ab") as file:
        file.write(b"new")
    assert get(m + "b") == b"oldnew" and os.stat(m + "a").st_nlink == 2
    m = u.remount()
    assert get(m + "b") == b"oldnew" and os.stat(m + "a").st_ino == os.stat(m + "b").st_ino
    os.unlink(m + "a")
    assert os.stat(m + "b").st_nlink == 1 and get(m + "b") == b"oldnew"


@question("content is found by each name of an inode, whatever was renamed (FS-702)")
def _(u):
    os.makedirs(u.lower + "/d/e")
    put(u.lower + "/a", b"z" * 100000)
    os.link(u.lower + "/a", u.lower + "/d/e/b")
    m = u.mount()
    os.rename(m + "a", m + "c")
    m = u.remount()
    os.link(m + "d/e/b", m + "d/l")
    m = u.remount()
    for name in ("c", "d/e/b", "d/l"):
        assert get(m + name) == b"z" * 100000
        assert os.stat(m + name).st_nlink == 3


@question("a file whose name went gets another one with its content (FS-702)")
def _(u):
    put(u.lower + "/x", b"y" * 100000)
    os.link(u.lower + "/x", u.lower + "/y")
    m = u.mount()
    os.chmod(m + "x", 0o600)
    fd = os.open(m + "x", os.O_RDONLY)
    os.unlink(m + "x")
    call(libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, os.fsencode(m + "z"), 0x400))
    os.close(fd)
    m = u.remount()
    assert get(m + "z") == get(m + "y") == b"y" * 100000


@question("numbers stay: over copy-up, rename and remount, in listings too (FS-214)")
def _(u):
    put(u.lower + "/f")
    m = u.mount()
    number = os.stat(m + "f").st_ino
    os.chmod(m + "f", 0o600)
    with open(m + "f", "ab") as file:
        file.write(b"x")
    os.rename(m + "f", m + "g")
    assert os.stat(m + "g").st_ino == number
    m = u.remount()
    assert os.stat(m + "g").st_ino == number
    assert [entry.inode() for entry in os.scandir(m)] == [number]


@question("a number that is kept from a lower long gone, and that another object has now, makes no two objects one (FS-229)")
def _(u):
    prefix = b"trusted.overlay." if os.stat("/proc/self/ns/user").st_ino == 0xEFFFFFFD else b"user.overlay."
    os.setxattr(u.upper, prefix + b"impure", b"y")
    for kept, name in (("kept", "file"), ("old", "same"), ("first", "dir")):
        put(f"{u.upper}/{kept}", kept.encode())
        put(f"{u.upper}/{name}") if name != "dir" else os.mkdir(f"{u.upper}/{name}")
        os.setxattr(f"{u.upper}/{kept}", prefix + b"mica", b"d1:%d" % os.stat(f"{u.upper}/{name}").st_ino)
    os.setxattr(u.upper + "/same", prefix + b"mica", os.getxattr(u.upper + "/old", prefix + b"mica"))
    m = u.mount()
    for name in ("kept", "file", "same", "old", "dir", "first"):
        os.stat(m + name)
    put(m + "file", b"new")
    assert [get(m + name) for name in ("kept", "old", "first", "same")] == [b"kept", b"old", b"first", b"old"]
    with os.scandir(m) as entries:
        numbers = {entry.name: entry.inode() for entry in entries}
    assert all(os.stat(m + name).st_ino == number for name, number in numbers.items()), numbers
    assert len(set(numbers.values())) == 6
    os.rename(m + "file", m + "kept")
    assert get(m + "kept") == b"new" and not os.path.exists(m + "file")


@question("the mark of copied-up objects goes with the last of them, and comes again (FS-702)")
def _(u):
    for name in "abc":
        put(u.lower + "/" + name)
    m = u.mount()
    os.mkdir(m + "d")
    put(m + "d/new")

    def is_impure():
        return any(name.endswith("overlay.impure") for name in os.listxattr(u.upper + "/d"))
    for name in "abc":
        assert not is_impure()
        number = os.stat(m + name).st_ino
        os.rename(m + name, m + "d/" + name)
        assert is_impure() and number in [entry.inode() for entry in os.scandir(m + "d")]
        os.unlink(m + "d/" + name)
        assert os.listdir(m + "d") == ["new"]


@question("attributes change without data, at any size (FS-210)")
def _(u):
    put(u.lower + "/big", bytes(range(256)) * 65536)
    m = u.mount()
    os.chmod(m + "big", 0o640)
    os.chown(m + "big", 3, 4)
    os.utime(m + "big", (5, 5))
    os.rename(m + "big", m + "large")
    os.link(m + "large", m + "again")
    assert held(u.upper, u.work) < 1 << 20
    assert hashlib.sha256(get(m + "again")).digest() == hashlib.sha256(bytes(range(256)) * 65536).digest()
    os.unlink(m + "large")
    os.unlink(m + "again")
    assert held(u.upper, u.work) < 1 << 20


@question("holes stay holes (FS-209, FS-221)")
def _(u):
    with open(u.lower + "/s", "wb") as file:
        file.truncate(64 << 20)
        os.pwrite(file.fileno(), b"x" * 4096, 32 << 20)
    m = u.mount()
    fd = os.open(m + "s", os.O_RDWR)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 32 << 20
    os.pwrite(fd, b"y", 0)
    assert held(u.upper) < 1 << 20 and os.pread(fd, 1, 32 << 20) == b"x"


@question("a hole costs nothing, whatever its size (FS-209)")
def _(u):
    with open(u.lower + "/s", "wb") as file:
        file.truncate(1 << 40)
        os.pwrite(file.fileno(), b"end", 1 << 39)
    m = u.mount()
    fd = os.open(m + "s", os.O_RDWR)
    os.pwrite(fd, b"start", 0)
    assert os.pread(fd, 5, 0) == b"start" and os.pread(fd, 3, 1 << 39) == b"end"
    assert held(u.upper) < 1 << 20


@question("what is copied up keeps times, xattrs and capability; a write takes the capability (FS-209, FS-219)")
def _(u):
    put(u.lower + "/f")
    os.symlink("t", u.lower + "/l")
    os.mkfifo(u.lower + "/p")
    os.setxattr(u.lower + "/f", "user.x", b"\0\xff")
    os.setxattr(u.lower + "/f", "security.capability", CAPABILITY)
    for name in "flp":
        os.utime(f"{u.lower}/{name}", ns=(1, 123456789), follow_symlinks=False)
    m = u.mount()
    os.chown(m + "l", 1, 1, follow_symlinks=False)
    os.chmod(m + "p", 0o600)
    os.setxattr(m + "f", "user.y", b"1")
    assert all(os.lstat(m + name).st_mtime_ns == 123456789 for name in "flp")
    assert os.getxattr(m + "f", "user.x") == b"\0\xff" and "security.capability" in os.listxattr(m + "f")
    with open(m + "f", "ab") as file:
        file.write(b"x")
    assert "security.capability" not in os.listxattr(m + "f")


@question("set-id bits go with chown, also with one that changes nothing; root's writes keep them (FS-219)")
def _(u):
    put(u.lower + "/f")
    os.chmod(u.lower + "/f", 0o6755)
    m = u.mount()
    with open(m + "f", "ab") as file:
        file.write(b"x")
    # A user namespace does not give the right to keep them.
    assert stat.S_IMODE(os.stat(m + "f").st_mode) == 0o6755 or os.stat("/proc/self/ns/user").st_ino != 0xEFFFFFFD
    os.chown(m + "f", -1, -1)
    assert stat.S_IMODE(os.stat(m + "f").st_mode) == 0o755
    os.chmod(m + "f", 0o6755)
    os.setxattr(m + "f", "security.capability", CAPABILITY)
    os.pwrite(os.open(m + "f", os.O_WRONLY), b"y", 0)
    assert os.listxattr(m + "f") == []
    assert stat.S_IMODE(os.stat(m + "f").st_mode) == 0o6755 or os.stat("/proc/self/ns/user").st_ino != 0xEFFFFFFD


@question("a group that an object has from its directory, and set-group-id, are not the user's to keep (FS-219)")
def _(u):
    if os.stat("/proc/self/ns/user").st_ino != 0xEFFFFFFD:
        return
    put(u.upper + "/f")
    os.chown(u.upper + "/f", 4000, 7)
    os.mkdir(u.upper + "/d")
    for path, mode in (("/f", 0o2766), ("/d", 0o2777), ("", 0o777)):
        os.chmod(u.upper + path, mode)
    m = u.mount()
    os.chdir(m)
    os.setgroups([])
    os.setresgid(4000, 4000, 0)
    os.setresuid(4000, 4000, 0)
    temp = os.open("d", os.O_TMPFILE | os.O_RDWR)
    assert (os.fstat(temp).st_uid, os.fstat(temp).st_gid) == (4000, 0)
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, 6, 0xFFFFFFFF) for tag in (1, 4, 0x20))
    fd = os.open("f", os.O_RDWR)
    os.setresuid(0, 0, 0)
    os.fchmod(fd, 0o2766)
    os.setresuid(4000, 4000, 0)
    call(libc.fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(4096)))
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o766
    os.setresuid(0, 0, 0)
    os.fchmod(fd, 0o2766)
    os.setresuid(4000, 4000, 0)
    os.setxattr(fd, "system.posix_acl_access", acl)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o666
    os.setresuid(0, 0, 0)
    os.setresgid(0, 0, 0)
    os.chdir("/")


@question("a store to a shared mapping sets the time of modification (FS-218)")
def _(u):
    put(u.lower + "/f", b"A" * 4096)
    m = u.mount()
    for name in ("f", "new"):
        fd = os.open(m + name, os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, b"B" * 4096, 0)
        os.utime(m + name, (5, 5))
        with mmap.mmap(fd, 4096) as view:
            os.close(fd)
            assert os.stat(m + name).st_mtime == 5
            view[0:1] = b"x"
            view.flush()
            assert os.stat(m + name).st_mtime > 5
    fd = os.open(m + "f", os.O_RDWR)
    with mmap.mmap(fd, 4096) as view:
        os.utime(m + "f", (5, 5))
        view[0:1] = b"y"
        view.flush()
    assert os.stat(m + "f").st_mtime > 5


@question("opens of one file at the same time all succeed (FS-403)")
def _(u):
    put(u.upper + "/f", b"A" * 4096)
    m = u.mount()
    together, refusals = threading.Barrier(4), []

    def open_often():
        try:
            for _ in range(4000):
                together.wait()
                os.close(os.open(m + "f", os.O_RDWR))
                together.wait()
        except OSError as error:
            refusals.append(error)
            together.abort()
        except threading.BrokenBarrierError:
            pass
    threads = [threading.Thread(target=open_often) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4000):
            fd = os.open(m + "f", os.O_RDWR)  # goes past the server, so the others have to
            together.wait()
            together.wait()
            os.close(fd)
    except threading.BrokenBarrierError:
        pass
    for thread in threads:
        thread.join()
    assert not refusals, refusals


@question("no mark is seen, none can be made (FS-201, FS-205)")
def _(u):
    os.mkdir(u.lower + "/d")
    put(u.lower + "/d/f")
    m = u.mount()
    os.unlink(m + "d/f")
    os.rename(m + "d", m + "e")
    assert os.listdir(m + "e") == [] and os.listxattr(m + "e") == []
    refused(errno.EPERM, os.mknod, m + "w", stat.S_IFCHR, os.makedev(0, 0))
    initial = os.stat("/proc/self/ns/user").st_ino == 0xEFFFFFFD
    name = "trusted.overlay.opaque" if initial else "user.overlay.opaque"
    os.setxattr(m + "e", name, b"y")
    assert os.getxattr(m + "e", name) == b"y"
    put(m + ".wh.x")
    assert sorted(os.listdir(u.remount())) == [".wh.x", "e"]


@question("an open file lives on without a name (FS-216, FS-217)")
def _(u):
    put(u.lower + "/f", b"abc")
    m = u.mount()
    fd = os.open(m + "f", os.O_RDWR)
    os.unlink(m + "f")
    assert os.pread(fd, 9, 0) == b"abc"
    os.pwrite(fd, b"defgh", 0)
    os.fchmod(fd, 0o640)
    st = os.fstat(fd)
    assert (st.st_size, st.st_nlink, stat.S_IMODE(st.st_mode)) == (5, 0, 0o640)
    temp = os.open(m, os.O_TMPFILE | os.O_RDWR)
    os.write(temp, b"t")
    call(libc.linkat(-100, b"/proc/self/fd/%d" % temp, -100, os.fsencode(m + "t"), 0x400))
    assert get(m + "t") == b"t" and os.stat(m + "t").st_nlink == 1


@question("who reads sees who writes: descriptor, mapping, lock, running program (FS-218, FS-222)")
def _(u):
    put(u.lower + "/f", b"A" * 4096)
    shutil.copy(shutil.which("sleep"), u.lower + "/program")
    m = u.mount()
    reader = os.open(m + "f", os.O_RDONLY)
    view = mmap.mmap(reader, 4096, prot=mmap.PROT_READ)
    fcntl.flock(reader, fcntl.LOCK_EX)
    assert view[0:1] == b"A"
    writer = os.open(m + "f", os.O_RDWR)
    refused(errno.EAGAIN, fcntl.flock, writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.pwrite(writer, b"BBB", 0)
    assert os.pread(reader, 4, 0) == b"BBBA" and view[0:4] == b"BBBA"
    with subprocess.Popen([m + "program", "60"]) as running:
        refused(errno.ETXTBSY, os.open, m + "program", os.O_WRONLY)
        running.kill()


@question("opening for writing alone changes nothing; truncating reads nothing (FS-207)")
def _(u):
    put(u.lower + "/f", b"z" * (8 << 20))
    m = u.mount()
    os.close(os.open(m + "f", os.O_RDWR))
    assert os.listdir(u.upper) == []
    os.close(os.open(m + "f", os.O_WRONLY | os.O_TRUNC))
    assert os.stat(m + "f").st_size == 0 and held(u.upper) < 1 << 16  # xattrs may take a block


@question("ranges are copied and punched, also of files from below (FS-221)")
def _(u):
    put(u.lower + "/f", b"A" * 65536)
    m = u.mount()
    source, target = os.open(m + "f", os.O_RDWR), os.open(m + "g", os.O_RDWR | os.O_CREAT)
    assert os.copy_file_range(source, target, 65536) == 65536 and get(m + "g") == b"A" * 65536
    call(libc.fallocate(source, 3, ctypes.c_long(0), ctypes.c_long(4096)))
    assert os.pread(source, 2, 4095) == b"\0A"


@question("inode flags, file handles, birth, space and names (FS-223 to FS-226, FS-232)")
def _(u):
    put(u.lower + "/f")
    m = u.mount()
    fd = os.open(m + "f", os.O_RDONLY)
    fcntl.ioctl(fd, 0x80086601, bytearray(8))
    fcntl.ioctl(fd, 0x801C581F, bytearray(28))
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    call(libc.name_to_handle_at(-100, os.fsencode(m + "f"), handle, ctypes.byref(ctypes.c_int()), 0))
    about = ctypes.create_string_buffer(256)
    call(libc.statx(-100, os.fsencode(m + "f"), 0, 0x800, about))
    assert struct.unpack_from("I", about)[0] & 0x800
    here, upper = os.statvfs(m), os.statvfs(u.upper)
    assert here.f_blocks == upper.f_blocks and here.f_namemax == 255
    put(m + "n" * 255)
    assert "n" * 255 in os.listdir(m)
    os.chdir(m)
    for _ in range(40):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    put("deep")
    assert get("deep") == b"old"
    os.chdir("/")


def flags(path, wanted=None):
    fd = os.open(path, os.O_RDONLY)
    found = struct.unpack("I", fcntl.ioctl(fd, 0x80086601, bytes(4)))[0]
    if wanted is not None:
        fcntl.ioctl(fd, 0x40086602, struct.pack("I", found & ~0xF8 | wanted))
    os.close(fd)
    return found & 0xF8


APPEND, IMMUTABLE, NODUMP, NOATIME = 0x20, 0x10, 0x40, 0x80


@question("append-only and immutable hold: below, copied up, set here, in a prepared upper (FS-209, FS-224)")
def _(u):
    if os.stat("/proc/self/ns/user").st_ino != 0xEFFFFFFD:
        return  # nobody may set them
    for top, name, value in ((u.lower, "a", APPEND | NOATIME | NODUMP), (u.lower, "i", IMMUTABLE), (u.upper, "p", APPEND)):
        put(top + "/" + name)
        flags(top + "/" + name, value)
    os.mkdir(u.lower + "/d")
    put(u.lower + "/d/f")
    flags(u.lower + "/d", APPEND)
    try:
        m, below = u.mount(), u.digest()
        assert [flags(m + name) for name in "aip"] == [APPEND | NOATIME | NODUMP, IMMUTABLE, APPEND]
        for _ in range(2):
            for name in "aip":
                refused(errno.EPERM, os.open, m + name, os.O_WRONLY)
                refused(errno.EPERM, os.truncate, m + name, 0)
                refused(errno.EPERM, os.chmod, m + name, 0o600)
                refused(errno.EPERM, os.setxattr, m + name, "user.x", b"1")
                refused(errno.EPERM, os.unlink, m + name)
                refused(errno.EPERM, os.rename, m + name, m + "other")
                refused(errno.EPERM, os.link, m + name, m + "other")
            refused(errno.EPERM, os.utime, m + "i")
            for name in "ap":
                with open(m + name, "ab") as file:
                    file.write(b"+")
                os.utime(m + name)
            refused(errno.EPERM, os.unlink, m + "d/f")
            refused(errno.EPERM, os.rmdir, m + "d")
            put(m + "d/g")
            refused(errno.EPERM, os.rename, m + "d/g", m + "d/h")
            assert flags(m + "a") == APPEND | NOATIME | NODUMP and get(m + "a").startswith(b"old+")
            m = u.remount()
        before = os.stat(m + "d").st_ctime_ns
        flags(m + "d", 0)
        assert os.stat(m + "d").st_ctime_ns > before
        for name in "aip":
            flags(m + name, 0)
            os.unlink(m + name)
        shutil.rmtree(m + "d")
        put(m + "new")
        put(m + "source")
        before, source = os.open(m + "new", os.O_RDWR), os.open(m + "source", os.O_RDONLY)
        flags(m + "new", IMMUTABLE)
        refused(errno.EPERM, os.copy_file_range, source, before, 3)
        refused(errno.EPERM, lambda: call(libc.fallocate(before, 0, ctypes.c_long(0), ctypes.c_long(9999))))
        os.close(before)
        os.close(source)
        refused(errno.EPERM, os.open, u.remount() + "new", os.O_RDWR)
        os.unlink(u.upper + "/new")  # the mark alone says so: who removes a snapshot can
        assert u.digest() == below
    finally:
        u.digest = lambda: None
        for path in (u.lower + "/a", u.lower + "/i", u.upper + "/p", u.lower + "/d"):
            if os.path.exists(path):
                flags(path, 0)


@question("a file handle opens what it was made of, also when all forgot it, and after a remount (FS-225)")
def _(u):
    os.makedirs(u.lower + "/a/b")
    put(u.lower + "/a/b/f", b"below")
    m = u.mount()
    put(m + "a/new", b"above")
    os.rename(m + "a/b", m + "a/c")
    handles = []
    for name in ("a/new", "a/c/f", "a/c"):
        handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
        call(libc.name_to_handle_at(-100, os.fsencode(m + name), handle, ctypes.byref(ctypes.c_int()), 0))
        handles.append((handle, os.stat(m + name).st_ino))

    def see(handle):
        top = os.open(u.mnt, os.O_RDONLY)
        try:
            fd = call(libc.open_by_handle_at(top, handle, os.O_RDONLY))
        finally:
            os.close(top)
        number = os.fstat(fd).st_ino
        os.close(fd)
        return number
    if os.stat("/proc/self/ns/user").st_ino != 0xEFFFFFFD:
        return  # not for users
    u.remount()
    assert [see(handle) for handle, _ in handles] == [number for _, number in handles]
    os.unlink(m + "a/new")
    refused(errno.ESTALE, see, handles[0][0])
    u.remount()
    refused(errno.ESTALE, see, handles[0][0])


@question("a listing is stable while names go and come (FS-215)")
def _(u):
    for number in range(500):
        put(f"{u.lower}/f{number}")
    m = u.mount()
    seen = 0
    with os.scandir(m) as entries:
        for entry in entries:
            os.unlink(entry.path)
            seen += 1
    assert seen == 500 and os.listdir(m) == []
    put(m + "new")
    assert os.listdir(m) == ["new"]


@question("a file from below cannot be written in any way (FS-404, FS-1310)")
def _(u):
    for name in "abcdefg":
        put(u.lower + "/" + name, b"A" * 8192)
    os.link(u.lower + "/a", u.lower + "/a2")
    m = u.mount()
    readers = [os.open(m + name, os.O_RDONLY) for name in "abcdefg"]
    os.pwrite(os.open(m + "a2", os.O_RDWR), b"x", 0)
    os.write(os.open(m + "b", os.O_WRONLY | os.O_APPEND), b"x")
    with mmap.mmap(os.open(m + "c", os.O_RDWR), 8192) as view:
        view[0:1] = b"x"
    os.close(os.open(m + "d", os.O_WRONLY | os.O_TRUNC))
    os.pwrite(os.open(f"/proc/self/fd/{readers[4]}", os.O_RDWR), b"x", 0)
    os.rename(m + "f", m + "moved")
    os.pwrite(os.open(m + "moved", os.O_RDWR), b"x", 0)
    call(libc.fallocate(os.open(m + "g", os.O_RDWR), 0x10, ctypes.c_long(0), ctypes.c_long(4096)))
    assert [os.pread(reader, 1, 0) for reader in readers] == [b"x", b"A", b"x", b"", b"x", b"x", b"\0"]


def ask(function):
    top = tempfile.mkdtemp(prefix="mica-union.")
    union = Union(top)
    pid = os.fork()
    if pid == 0:
        try:
            before = None
            mount = union.mount

            def first_mount():
                nonlocal before
                before = before or union.digest()
                return mount()
            union.mount = first_mount
            function(union)
            assert before is None or union.digest() in (None, before), "the lower tree has changed"
            os._exit(0)
        except BaseException as error:  # pylint: disable=broad-except
            line = error.__traceback__.tb_next or error.__traceback__
            print(f"# line {line.tb_lineno}: {error!r}", flush=True)
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    subprocess.run(["umount", "-l", union.mnt], stderr=subprocess.DEVNULL, check=False)
    subprocess.run(["rm", "-rf", top], check=True)
    return status == 0


os.umask(0o022)
print(f"1..{len(QUESTIONS)}")
answers = []
for count, (text, function) in enumerate(QUESTIONS, 1):
    answers.append(ask(function))
    print(f"{'ok' if answers[-1] else 'not ok'} {count} {text}", flush=True)
sys.exit(not all(answers))
