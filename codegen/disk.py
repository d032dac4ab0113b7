"""Object code on disk: what one process compiled the next one links.

In: a key (a digest of all that decides the machine code: the module's text, the target, LLVM's version, how engine.py runs
it) and the object code. Out: the same bytes in another process, or None. Anything wrong with the cache, its directory or a
file in it means None, or that nothing is kept; it never means an error, and no byte is executed that was not checked.

    TAPEJIT_CACHE=0            no cache
    TAPEJIT_CACHE_DIR=<path>   where; else the user's cache directory (XDG_CACHE_HOME, ~/.cache), folder `tapejit`
    TAPEJIT_CACHE_BYTES=<n>    how much at most (default 256 MB); what was used least recently goes first

A file is named by its key and holds a magic, the key, and a digest of the payload. It is written under another name and
renamed, so that readers see all of it or nothing; several processes may write the same key, the last one wins with
equal content. Whoever can write to the directory can have us run their code, as with Python's own bytecode caches: so the
directory and the files must belong to the user and be writable by nobody else, or they are left alone. The checksum
guards against accidents, not against the user's own programs.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import threading
import time
from contextlib import suppress
from functools import lru_cache

from tapejit.ir.hashing import blake2b

MAGIC = b"tapejit1"
DIGEST = 32
HEAD = len(MAGIC) + 2 * DIGEST
DEFAULT_BYTES = 256 << 20
LARGEST = 64 << 20  # of one file that is read
SWEEP_EVERY = 64  # files written by this process between two looks at the size of the whole
SUFFIX, PARTIAL = ".o", ".part"
STALE = 3600  # seconds after which a partial file has no writer any more

_lock = threading.Lock()
_written = 0


def digest(*parts: bytes) -> bytes:
    h = blake2b(digest_size=DIGEST)
    for part in parts:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.digest()


def location() -> str | None:
    """The directory that the environment names, or None if there is to be no cache."""
    if os.environ.get("TAPEJIT_CACHE") == "0":
        return None
    named = os.environ.get("TAPEJIT_CACHE_DIR")
    if named:
        return os.path.abspath(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "tapejit") if base and os.path.isabs(base) else None


@lru_cache(maxsize=8)
def trusted(directory: str) -> bool:
    """Whether the directory, made if need be, is the user's own and nobody else may write to it."""
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        return _ours(os.stat(directory))
    except OSError:
        return False


def _ours(status) -> bool:
    if sys.platform == "win32":
        return True  # a user's LOCALAPPDATA is the user's
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def load(key: bytes) -> bytes | None:
    """The object code that was kept under this key."""
    directory = location()
    if directory is None or not trusted(directory):
        return None
    path = os.path.join(directory, key.hex() + SUFFIX)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or not _ours(status) or status.st_size > LARGEST:
                return None
            content = file.read()
    except OSError:
        return None
    payload = content[HEAD:]
    if content[:HEAD] != MAGIC + key + digest(payload):
        return None  # `save` will write it anew
    with suppress(OSError):
        os.utime(path)
    return payload


def save(key: bytes, payload: bytes) -> None:
    """Keep object code under this key."""
    global _written
    directory = location()
    if directory is None or not trusted(directory):
        return
    try:
        handle, partial = tempfile.mkstemp(PARTIAL, dir=directory)
    except OSError:
        return
    try:
        with open(handle, "wb") as file:
            file.write(MAGIC + key + digest(payload))
            file.write(payload)
        os.replace(partial, os.path.join(directory, key.hex() + SUFFIX))
    except OSError:
        with suppress(OSError):
            os.unlink(partial)
        return
    with _lock:
        _written += 1
        due = _written % SWEEP_EVERY == 1
    if due:
        sweep(directory)


def limit() -> int:
    try:
        return int(os.environ["TAPEJIT_CACHE_BYTES"])
    except (KeyError, ValueError):
        return DEFAULT_BYTES


def sweep(directory: str) -> None:
    """Drop the least recently used files while there is too much, and partial files whose writer died."""
    files, total = [], 0
    with suppress(OSError):
        for entry in os.scandir(directory):
            with suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if entry.name.endswith(SUFFIX):
                    files.append((status.st_mtime, status.st_size, entry.path))
                    total += status.st_size
                elif entry.name.endswith(PARTIAL) and time.time() - status.st_mtime > STALE:
                    os.unlink(entry.path)
    most = limit()
    if total <= most:
        return
    for _, size, path in sorted(files):
        with suppress(OSError):
            os.unlink(path)
            total -= size
        if total <= most * 4 // 5:
            return
