# SPDX-License-Identifier: Apache-2.0
"""An independent reader of images: OCI layout -> configuration and the tree that its layers make (RCP-752).

It shares no code with mica and does not use the tarfile module, which loses nanoseconds and puts names through a text
encoding. A layer is read strictly: what no writer of layers should produce (a name twice, a bad checksum, an entry behind the
end, a parent that is no directory) raises Strange.
"""

import hashlib
import io
import json
import os
import subprocess

BLOCK = 512
KEPT_DATA = 1 << 16  # longest content whose bytes are kept, to be shown when they differ


class Strange(Exception):
    """A layer or layout that a careful writer would not have made."""


class Node:
    """One inode: hard links are several names of one Node."""

    __slots__ = ("kind", "mode", "uid", "gid", "size", "mtime", "target", "xattrs", "device", "sha256", "data", "children")

    def __init__(self, kind, mode=0o755, uid=0, gid=0):
        self.kind, self.mode, self.uid, self.gid = kind, mode, uid, gid
        self.size, self.mtime, self.target, self.xattrs, self.device = 0, None, None, {}, None
        self.sha256, self.data = None, None
        self.children = {} if kind == "d" else None


KINDS = {b"0": "f", b"\0": "f", b"1": "h", b"2": "l", b"3": "c", b"4": "b", b"5": "d", b"6": "p", b"7": "f"}


def number(field):
    if field[0] & 0x80:  # base 256
        value = int.from_bytes(field, "big") & ~(0x80 << (8 * (len(field) - 1)))
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    text = field.split(b"\0")[0].strip()
    return int(text, 8) if text else 0


def nanoseconds(text):
    whole, _, part = text.partition(b".")
    sign = -1 if whole.startswith(b"-") else 1
    return int(whole or b"0") * 10**9 + sign * int((part + b"0" * 9)[:9] or b"0")


def pax_records(data):
    records = {}
    while data:
        length, _, _ = data.partition(b" ")
        size = int(length)
        record = data[len(length) + 1:size]
        if not record.endswith(b"\n"):
            raise Strange(f"pax record {record[:60]!r} does not end its line")
        key, _, value = record[:-1].partition(b"=")
        records[key] = value
        data = data[size:]
    return records


def exactly(stream, count):
    data = stream.read(count)
    if len(data) != count:
        raise Strange("layer is cut short")
    return data


def entries(stream):
    """(name without slashes around it, Node, link target of a hard link) for each entry of a tar."""
    extended, long_name, long_link = {}, None, None
    while True:
        header = stream.read(BLOCK)
        if not header or not header.strip(b"\0"):
            return
        if len(header) != BLOCK:
            raise Strange("layer ends within a header")
        if sum(header[:148]) + sum(header[156:]) + 8 * 32 != number(header[148:156]):
            raise Strange("bad checksum of a header")
        kind, size = header[156:157], number(header[124:136])
        if kind in b"xgLK" and kind != b"":
            data = exactly(stream, size)
            exactly(stream, -size % BLOCK)
            if kind == b"x":
                extended = pax_records(data)
            elif kind == b"L":
                long_name = data.rstrip(b"\0")
            elif kind == b"K":
                long_link = data.rstrip(b"\0")
            continue
        if kind not in KINDS:
            raise Strange(f"entry of type {kind!r}")
        name = header[:100].split(b"\0")[0]
        if header[257:263] == b"ustar\0" and header[345:500].strip(b"\0"):
            name = header[345:500].split(b"\0")[0] + b"/" + name
        name = extended.get(b"path", long_name or name)
        target = extended.get(b"linkpath", long_link or header[157:257].split(b"\0")[0])
        size = int(extended.get(b"size", size))
        node = Node(KINDS[kind], number(header[100:108]) & 0o7777, int(extended.get(b"uid", number(header[108:116]))),
                    int(extended.get(b"gid", number(header[116:124]))))
        node.mtime = nanoseconds(extended[b"mtime"]) if b"mtime" in extended else number(header[136:148]) * 10**9
        node.xattrs = {key[len(b"SCHILY.xattr."):]: value for key, value in extended.items() if key.startswith(b"SCHILY.xattr.")}
        if node.kind == "f":
            node.size, left, digest, kept = size, size, hashlib.sha256(), []
            while left:
                piece = exactly(stream, min(left, 1 << 20))
                digest.update(piece)
                left -= len(piece)
                if size <= KEPT_DATA:
                    kept.append(piece)
            node.sha256, node.data = digest.hexdigest(), b"".join(kept) if size <= KEPT_DATA else None
            exactly(stream, -size % BLOCK)
        elif node.kind == "l":
            node.target = target
        elif node.kind in "cb":
            node.device = (number(header[329:337]), number(header[337:345]))
        yield name, node, target if node.kind == "h" else None
        extended, long_name, long_link = {}, None, None


def parts_of(name):
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise Strange(f"name {name!r} leaves the root")
    return parts


class Tree:
    def __init__(self):
        self.root = Node("d")

    def find(self, parts):
        node = self.root
        for part in parts:
            node = node.children.get(part) if node.children is not None else None
            if node is None:
                return None
        return node

    def parent(self, parts, make):
        node = self.root
        for part in parts[:-1]:
            below = node.children.get(part)
            if below is None or below.children is None:
                if not make:
                    return None
                if below is not None:
                    raise Strange(f"a parent of {b'/'.join(parts)!r} is no directory")
                below = node.children[part] = Node("d")
            node = below
        return node

    def apply(self, stream):
        """Puts one layer on top: its whiteouts hide what lies below, whatever the order of entries."""
        seen, found = set(), []
        for name, node, link in entries(stream):
            parts = parts_of(name)
            if tuple(parts) in seen:
                raise Strange(f"{name!r} stands twice in one layer")
            seen.add(tuple(parts))
            found.append((parts, node, link))
        for parts, _, _ in found:
            if not parts or not parts[-1].startswith(b".wh."):
                continue
            parent = self.parent(parts, make=False)
            if parts[-1] == b".wh..wh..opq" and parent is not None:
                parent.children.clear()
            elif parent is not None:
                parent.children.pop(parts[-1][4:], None)
        for parts, node, link in found:
            if parts and parts[-1].startswith(b".wh."):
                continue
            if not parts:
                node.children = self.root.children
                self.root = node
                continue
            parent = self.parent(parts, make=True)
            if link is not None:
                node = self.find(parts_of(link))
                if node is None or node.kind == "d":
                    raise Strange(f"{b'/'.join(parts)!r} is a link to {link!r}, which is not there")
            old = parent.children.get(parts[-1])
            if node.kind == "d" and old is not None and old.kind == "d":
                node.children = old.children
            parent.children[parts[-1]] = node

    def walk(self):
        """(path, node), parents first, in byte order of the components."""
        stack = [(b"", self.root)]
        while stack:
            path, node = stack.pop()
            yield path, node
            if node.children is not None:
                stack += [(path + b"/" + name if path else name, node.children[name]) for name in sorted(node.children, reverse=True)]


class Image:
    def __init__(self, layout):
        """The only image of an OCI layout directory."""
        self.layout = layout
        with open(os.path.join(layout, "index.json"), "rb") as file:
            manifests = json.load(file)["manifests"]
        if len(manifests) != 1:
            raise Strange(f"{layout} holds {len(manifests)} images")
        self.manifest = json.loads(self.blob(manifests[0]["digest"]))
        self.config = json.loads(self.blob(self.manifest["config"]["digest"]))
        self.diff_ids = self.config["rootfs"].get("diff_ids") or []
        if len(self.diff_ids) != len(self.manifest.get("layers") or []):
            raise Strange("not as many layers as diff ids")

    def path(self, digest):
        return os.path.join(self.layout, "blobs", *digest.split(":"))

    def blob(self, digest):
        with open(self.path(digest), "rb") as file:
            data = file.read()
        if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
            raise Strange(f"blob {digest} is damaged")
        return data

    def layer(self, number):
        """The tar of a layer as a stream; its diff id is checked by whoever reads it to the end."""
        path = self.path(self.manifest["layers"][number]["digest"])
        with open(path, "rb") as file:
            magic = file.read(4)
        tool = {b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b\x08\x00": "gzip"}.get(magic) or ("gzip" if magic[:2] == b"\x1f\x8b" else None)
        if tool is None:
            return open(path, "rb")
        return Process([tool, "-dc", path])

    def tree(self):
        result = Tree()
        for number, diff_id in enumerate(self.diff_ids):
            with Digested(self.layer(number)) as stream:
                result.apply(stream)
                if stream.rest() != diff_id:
                    raise Strange(f"layer {number} is not what its diff id says")
        return result


class Process(io.RawIOBase):
    def __init__(self, command):
        super().__init__()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)

    def readable(self):
        return True

    def read(self, size=-1):
        return self.process.stdout.read(size)

    def close(self):
        if not self.closed:
            self.process.stdout.close()
            self.process.wait()
        super().close()


class Digested:
    """A stream whose digest is taken while it is read."""

    def __init__(self, stream):
        self.stream, self.digest = stream, hashlib.sha256()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()

    def read(self, size):
        data = self.stream.read(size)
        self.digest.update(data)
        return data

    def rest(self):
        while self.read(1 << 20):
            pass
        return "sha256:" + self.digest.hexdigest()
