"""The same archives read by our reader, Python's tarfile and GNU tar: where two accept, their lists must agree.

Called by `cargo xtask fuzz tar-differential` with our lister and directories of archives.
"""

import json
import pathlib
import re
import subprocess
import sys
import tarfile

KINDS = {
    tarfile.REGTYPE: "-",
    tarfile.AREGTYPE: "-",
    tarfile.CONTTYPE: "-",
    tarfile.GNUTYPE_SPARSE: "-",
    tarfile.LNKTYPE: "h",
    tarfile.SYMTYPE: "l",
    tarfile.CHRTYPE: "c",
    tarfile.BLKTYPE: "b",
    tarfile.DIRTYPE: "d",
    tarfile.FIFOTYPE: "p",
}
LETTERS = {**dict.fromkeys("-C", "-"), "h": "h", "l": "l", "c": "c", "b": "b", "d": "d", "p": "p"}
LINE = re.compile(
    r'(?P<kind>.)(?P<mode>\S{9}) (?P<uid>\d+)/(?P<gid>\d+) +(?P<size>[\d,]+) \S+ \S+ "(?P<path>(?:[^"\\]|\\.)*)"'
    r'(?: (?:->|link to) "(?P<link>(?:[^"\\]|\\.)*)")?'
)
ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
BATCH = 200


class Refused(Exception):
    """The archive is not read."""


def unquoted(text):
    """C's escapes taken back, each byte as the character of its number."""

    def one(match):
        word = match.group(1)
        return chr(int(word, 8)) if word[0].isdigit() else chr(ESCAPES.get(word, ord(word)))

    return re.sub(r"\\([0-7]{3}|.)", one, text)


def bits(text):
    """Permission bits from the nine letters of ls(1)."""
    mode = 0
    for place, letter in enumerate(text):
        if letter in "rwxst":
            mode |= 1 << (8 - place)
        if letter in "sStT":
            mode |= {2: 0o4000, 5: 0o2000, 8: 0o1000}[place]
    return mode


def entry(kind, path, link, mode, size, uid, gid):
    """What is compared. A directory's slash at the end is no part of its name, and only files have a size."""
    return {
        "kind": kind,
        "path": path.rstrip("/"),
        "link": link if kind in "hl" else "",
        "mode": mode & 0o7777,
        "size": size if kind == "-" else 0,
        "uid": uid,
        "gid": gid,
    }


def ours(lister, paths):
    """Our lists, or None for what is refused."""
    for start in range(0, len(paths), BATCH):
        run = subprocess.run([lister, *paths[start : start + BATCH]], capture_output=True, check=True)
        for line in run.stdout.splitlines():
            said = json.loads(line)
            if isinstance(said, str):
                yield None
            else:
                fields = ("kind", "path", "link", "mode", "size", "uid", "gid")
                yield [entry(*(one[field] for field in fields)) for one in said]


def pythons(path):
    """tarfile's list."""
    text = lambda name: name.encode("utf-8", "surrogateescape").decode("latin-1")
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
            members = archive.getmembers()
    except Exception as error:
        raise Refused(str(error)) from error
    if any(member.type not in KINDS for member in members):
        raise Refused("an unknown type")
    return [
        entry(KINDS[m.type], text(m.name), text(m.linkname), m.mode, m.size, m.uid, m.gid)
        for m in members
    ]


def gnus(path):
    """GNU tar's list."""
    command = ["tar", "--numeric-owner", "--quoting-style=c", "--full-time", "-tvf", path]
    run = subprocess.run(command, capture_output=True, env={"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"})
    if run.returncode or run.stderr:
        raise Refused(run.stderr.decode("latin-1"))
    entries = []
    for line in run.stdout.decode("latin-1").splitlines():
        found = LINE.fullmatch(line)
        if not found or found["kind"] not in LETTERS:
            raise Refused(f"a line of another form: {line}")
        size = 0 if "," in found["size"] else int(found["size"])
        link = unquoted(found["link"] or "")
        path, mode = unquoted(found["path"]), bits(found["mode"])
        entries.append(
            entry(LETTERS[found["kind"]], path, link, mode, size, int(found["uid"]), int(found["gid"]))
        )
    return entries


def main():
    """Compares; the exit code says whether all agreed."""
    lister, *directories = sys.argv[1:]
    paths = sorted(str(path) for directory in directories for path in pathlib.Path(directory).iterdir())
    compared, accepted, differences = {"tarfile": 0, "GNU tar": 0}, 0, 0
    for path, mine in zip(paths, ours(lister, paths), strict=True):
        if mine is None:
            continue
        accepted += 1
        for name, reader in (("tarfile", pythons), ("GNU tar", gnus)):
            try:
                theirs = reader(path)
            except Refused:
                continue
            compared[name] += 1
            if mine != theirs:
                differences += 1
                print(f"{path}: {name} differs\n  ours:   {mine}\n  theirs: {theirs}")
    print(f"{len(paths)} archives, {accepted} accepted by us, compared: {compared}, differences: {differences}")
    if not accepted or not all(compared.values()):
        print("nothing was compared")
        return 1
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
