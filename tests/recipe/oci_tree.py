# SPDX-License-Identifier: Apache-2.0
"""Reads an image out of an OCI layout with nothing of mica and no tar library, written from the formats alone (RCP-752).

Every blob is checked against its digest, every layer against its diff id; tar headers against their checksums. A layer must be
sorted so that parents come before what they hold, name nothing twice, and end with two blocks of zeros.
"""
import hashlib
import json
import pathlib
import subprocess

BLOCK = 512
TYPES = {b"0": "f", b"\0": "f", b"1": "h", b"2": "l", b"3": "c", b"4": "b", b"5": "d", b"6": "p"}
SHOWN_BYTES = 80


class Bad(Exception):
    """What a reader of images must refuse."""


def demand(condition, text):
    if not condition:
        raise Bad(text)


# --- tar ---

def octal(field):
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    text = field.rstrip(b"\0 ").lstrip(b" ")
    return int(text, 8) if text else 0


def text_of(field):
    return field.split(b"\0", 1)[0]


def pax_records(data):
    records = {}
    while data:
        length, _, rest = data.partition(b" ")
        record = data[:int(length)]
        demand(record.endswith(b"\n") and len(record) == int(length), "a PAX record without its end")
        key, _, value = record[len(length) + 1:-1].partition(b"=")
        records[key] = value
        data = data[int(length):]
    return records


def check_header(header):
    total = sum(header) - sum(header[148:156]) + 8 * 32
    demand(octal(header[148:156]) == total, "checksum of a tar header")


def entries(data):
    """(path, entry) in order. Paths have no slash at either end; the root is b''."""
    at, pax, long_name, long_link = 0, {}, None, None
    while True:
        header = data[at:at + BLOCK]
        if header == bytes(BLOCK):
            demand(not any(data[at:]) and len(data) - at >= 2 * BLOCK, "the end of a tar is two blocks of zeros")
            return
        demand(len(header) == BLOCK, "a tar that ends early")
        check_header(header)
        kind, size = header[156:157], octal(header[124:136])
        size = int(pax.get(b"size", size))
        body = data[at + BLOCK:at + BLOCK + size]
        demand(len(body) == size, "an entry that ends early")
        at += BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK
        if kind == b"x":
            pax = pax_records(body)
            continue
        if kind in (b"L", b"K"):
            if kind == b"L":
                long_name = body.rstrip(b"\0")
            else:
                long_link = body.rstrip(b"\0")
            continue
        demand(kind in TYPES, f"tar type {kind!r}")
        name = text_of(header[:100])
        if header[257:262] == b"ustar" and header[262:263] == b"\0" and text_of(header[345:500]):
            name = text_of(header[345:500]) + b"/" + name
        name = pax.get(b"path", long_name or name)
        entry = {
            "type": TYPES[kind], "mode": octal(header[100:108]) & 0o7777,
            "uid": int(pax.get(b"uid", octal(header[108:116]))), "gid": int(pax.get(b"gid", octal(header[116:124]))),
            "mtime": pax.get(b"mtime", str(octal(header[136:148])).encode()).decode(),
            "link": pax.get(b"linkpath", long_link or text_of(header[157:257])),
            "device": (octal(header[329:337]), octal(header[337:345])) if kind in (b"3", b"4") else None,
            "xattrs": {key[len(b"SCHILY.xattr."):]: value for key, value in pax.items()
                       if key.startswith(b"SCHILY.xattr.")},
            "data": body if kind in (b"0", b"\0") else b"",
        }
        demand(text_of(header[265:297]) == b"" and text_of(header[297:329]) == b"", "names of owners in a tar")
        pax, long_name, long_link = {}, None, None
        path = name.strip(b"/")
        demand(b".." not in path.split(b"/") and b"//" not in name and b"." not in path.split(b"/"),
               f"the name {name!r}")
        yield path, entry


# --- layers ---

def parents(path):
    parts = path.split(b"/")
    return [b"/".join(parts[:n]) for n in range(1, len(parts))]


def remove_below(tree, path):
    for other in [other for other in tree if other.startswith(path + b"/" if path else b"") and other != path]:
        del tree[other]


def apply(tree, layer):
    """The rules of the OCI layer format: whiteouts and opaque marks concern what lies below, not the layer itself."""
    below, seen = set(tree), set()
    for path, entry in layer:
        folder, _, name = path.rpartition(b"/")
        demand(path not in seen, f"{path!r} is twice in a layer")
        seen.add(path)
        for parent in parents(path):
            demand(parent in tree and (parent in seen or parent in below), f"{path!r} comes before its parent")
        if name == b".wh..wh..opq":
            for other in [other for other in below if other.startswith(folder + b"/")]:
                if other not in seen:
                    tree.pop(other, None)
            continue
        if name.startswith(b".wh."):
            gone = (folder + b"/" if folder else b"") + name[4:]
            demand(gone in tree, f"whiteout of {gone!r}, which is not there")
            tree.pop(gone, None)
            remove_below(tree, gone)
            continue
        if entry["type"] == "h":
            target = entry["link"].strip(b"/")
            demand(target in tree, f"hard link {path!r} to {target!r}, which is not there")
            entry = tree[target]
        if not (entry["type"] == "d" and path in tree and tree[path]["type"] == "d"):
            remove_below(tree, path) if path else None
        tree[path] = entry
    return tree


# --- images ---

class Image:
    def __init__(self, layout):
        self.blobs = pathlib.Path(layout) / "blobs"
        index = json.loads((pathlib.Path(layout) / "index.json").read_text())
        demand(json.loads((pathlib.Path(layout) / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"},
               "oci-layout")
        demand(len(index["manifests"]) == 1, "one image is expected in the layout")
        self.descriptor = index["manifests"][0]
        self.manifest = json.loads(self.blob(self.descriptor))
        self.config = json.loads(self.blob(self.manifest["config"]))
        diff_ids = self.config["rootfs"]["diff_ids"]
        layers = self.manifest["layers"]
        full = [entry for entry in self.config["history"] if not entry.get("empty_layer")]
        demand(len(diff_ids) == len(layers) == len(full), "layers, diff ids and history differ in number (RCP-442)")
        self.layers = [self.layer(descriptor, diff_id) for descriptor, diff_id in zip(layers, diff_ids)]

    def blob(self, descriptor):
        algorithm, _, name = descriptor["digest"].partition(":")
        data = (self.blobs / algorithm / name).read_bytes()
        demand(hashlib.new(algorithm, data).hexdigest() == name and len(data) == descriptor["size"],
               f"blob {name}")
        return data

    def layer(self, descriptor, diff_id):
        data = self.blob(descriptor)
        program = {"gzip": ["gzip", "-dc"], "zstd": ["zstd", "-dcq"]}.get(descriptor["mediaType"].rpartition("+")[2])
        if program:
            data = subprocess.run(program, input=data, stdout=subprocess.PIPE, check=True).stdout
        demand("sha256:" + hashlib.sha256(data).hexdigest() == diff_id, f"diff id {diff_id}")
        return list(entries(data))

    def tree(self, first=0):
        """All layers on top of each other."""
        tree = {}
        for layer in self.layers:
            apply(tree, layer)
        return tree


# --- lines ---

def quote(data):
    return "".join(chr(byte) if 32 < byte < 127 and byte not in b'\\"' else f"\\x{byte:02x}" for byte in data)


def content(entry):
    if entry["type"] != "f":
        return "-"
    if len(entry["data"]) <= SHOWN_BYTES:
        return '"' + quote(entry["data"]) + '"'
    return hashlib.sha256(entry["data"]).hexdigest()


def lines(tree):
    """{path: 'TYPE MODE UID GID SIZE MTIME LINK XATTRS CONTENT PATH'}. LINK is the target of a symbolic link, MAJOR:MINOR, or
    =NAME for the first other name of a file that has several. CONTENT is the text of a small file, else its SHA-256."""
    names, result = {}, {}
    for path in sorted(tree):
        names.setdefault(id(tree[path]), []).append(path)
    for path, entry in tree.items():
        group = names[id(entry)]
        link = quote(entry["link"]) if entry["type"] == "l" else "-"
        if entry["device"]:
            link = "%d:%d" % entry["device"]
        if len(group) > 1:
            link = "=/" + quote(group[1] if path == group[0] else group[0])
        xattrs = ",".join(f"{quote(key)}={value.hex()}" for key, value in sorted(entry["xattrs"].items())) or "-"
        size = len(entry["data"]) if entry["type"] == "f" else "-"
        result[path] = (f"{entry['type']} {entry['mode']:04o} {entry['uid']} {entry['gid']} {size} {entry['mtime']} "
                        f"{link} {xattrs} {content(entry)} /{quote(path)}")
    return result
