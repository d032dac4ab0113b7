"""The object code cache on disk: found by the next process, and whatever is wrong with it only costs a compilation."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from tapejit.codegen import disk

KEY = disk.digest(b"some text")
PAYLOAD = os.urandom(5000)

PROGRAM = """
import gc, sys
import numpy as np, tapejit
f = tapejit.value_and_grad(lambda w, x: np.sum(np.tanh(x @ w) ** 2))
rng = np.random.default_rng(0)
value, slope = f(rng.normal(size=(40, 30)), rng.normal(size=(50, 40)))
from tapejit.codegen.entry import Executable
(made,) = [o for o in gc.get_objects() if isinstance(o, Executable)]
print(repr(float(value)), repr(float(slope.sum())), "optimize" in made.stats.compile_ms)
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    directory = tmp_path / "cache"
    monkeypatch.setenv("TAPEJIT_CACHE_DIR", str(directory))
    monkeypatch.delenv("TAPEJIT_CACHE", raising=False)
    monkeypatch.delenv("TAPEJIT_CACHE_BYTES", raising=False)
    disk.trusted.cache_clear()
    yield directory
    disk.trusted.cache_clear()


def run(**environment):
    """(value, sum of the slope, whether LLVM ran) in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    assert not done.stderr
    value, total, compiled = done.stdout.split()
    return float(value), float(total), compiled == "True"


def wanted():
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(40, 30)), rng.normal(size=(50, 40))
    t = np.tanh(x @ w)
    return np.sum(t**2), np.sum(x.T @ (2 * t * (1 - t * t)))


def test_a_second_process_does_not_compile(cache):
    first, second = run(), run()
    np.testing.assert_allclose(first[:2], wanted(), rtol=1e-12)
    assert first[2] and not second[2] and first[:2] == second[:2]
    assert {f.stat().st_mode & 0o777 for f in cache.iterdir()} == {0o600}
    assert cache.stat().st_mode & 0o777 == 0o700


def test_switched_off(cache):
    assert run(TAPEJIT_CACHE="0")[2] and run(TAPEJIT_CACHE="0")[2]
    assert not cache.exists()


def test_another_processor_or_version_does_not_share(cache, monkeypatch):
    from tapejit.codegen import engine

    before = set(cache.iterdir()) if cache.exists() else set()
    text = "define i64 @f() { ret i64 7 }\n"
    engine.Image(text)
    (only,) = set(cache.iterdir()) - before
    monkeypatch.setattr(engine.session(), "identity", disk.digest(b"another machine"))
    assert "optimize" in engine.Image(text).times
    assert len(set(cache.iterdir())) == len(before) + 2 and only.exists()
    assert "read" in engine.Image(text).times


@pytest.mark.parametrize("at", [0, 4, 8, 20, 39, 40, 60, 71, 72, 1000, -1])
def test_a_changed_byte_is_noticed(cache, at):
    disk.save(KEY, PAYLOAD)
    (file,) = cache.iterdir()
    assert disk.load(KEY) == PAYLOAD
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    assert disk.load(KEY) is None
    disk.save(KEY, PAYLOAD)
    assert disk.load(KEY) == PAYLOAD


@pytest.mark.parametrize("length", [0, 1, 8, 71, 72, 3000])
def test_a_truncated_or_foreign_file_is_ignored_and_rewritten(cache, length):
    disk.save(KEY, PAYLOAD)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:length])
    assert disk.load(KEY) is None
    file.write_bytes(os.urandom(length))
    assert disk.load(KEY) is None
    disk.save(KEY, PAYLOAD)
    assert disk.load(KEY) == PAYLOAD


def test_a_file_under_the_name_of_another_is_ignored(cache):
    disk.save(KEY, PAYLOAD)
    (file,) = cache.iterdir()
    other = disk.digest(b"other")
    file.rename(cache / (other.hex() + disk.SUFFIX))
    assert disk.load(other) is None and disk.load(KEY) is None


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_what_others_may_write_is_not_read(cache):
    disk.save(KEY, PAYLOAD)
    (file,) = cache.iterdir()
    file.chmod(0o666)
    assert disk.load(KEY) is None
    file.chmod(0o600)
    assert disk.load(KEY) == PAYLOAD
    cache.chmod(0o777)
    disk.trusted.cache_clear()
    assert disk.load(KEY) is None
    disk.save(disk.digest(b"more"), PAYLOAD)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
def test_links_and_directories_are_not_followed(cache, tmp_path):
    disk.save(KEY, PAYLOAD)
    (file,) = cache.iterdir()
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert disk.load(KEY) is None
    file.unlink()
    file.mkdir()
    assert disk.load(KEY) is None
    disk.save(KEY, PAYLOAD)  # cannot replace a directory: nothing is kept, nothing left behind
    assert disk.load(KEY) is None and [p.name for p in cache.iterdir()] == [file.name]


def test_no_directory_no_space_no_permission(cache, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("TAPEJIT_CACHE_DIR", str(blocked / "below"))
    disk.save(KEY, PAYLOAD)
    assert disk.load(KEY) is None
    monkeypatch.setenv("TAPEJIT_CACHE_DIR", str(cache))

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        disk.save(KEY, PAYLOAD)
    assert disk.load(KEY) is None and list(cache.iterdir()) == []
    assert run(TAPEJIT_CACHE_DIR="/proc/nowhere")[2]


def test_the_least_recently_used_goes_first(cache, monkeypatch):
    keys = [disk.digest(bytes([i])) for i in range(10)]
    for age, key in enumerate(keys):
        disk.save(key, PAYLOAD)
        os.utime(cache / (key.hex() + disk.SUFFIX), (time.time() - 100 + age,) * 2)
    disk.load(keys[0])  # used: the youngest now
    monkeypatch.setenv("TAPEJIT_CACHE_BYTES", str(5 * (len(PAYLOAD) + disk.HEAD)))
    disk.sweep(str(cache))
    left = [k for k in keys if disk.load(k) is not None]
    assert left == [keys[0], *keys[7:]]  # down to four fifths of the limit
    old = cache / f"dead{disk.PARTIAL}"
    old.write_bytes(b"x")
    os.utime(old, (time.time() - 2 * disk.STALE,) * 2)
    (cache / f"young{disk.PARTIAL}").write_bytes(b"x")
    disk.sweep(str(cache))
    assert not old.exists() and (cache / f"young{disk.PARTIAL}").exists()


def test_processes_at_the_same_time(cache):
    running = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outputs = [p.communicate() for p in running]
    assert all(error == "" for _, error in outputs), outputs
    assert len({out.rsplit(" ", 1)[0] for out, _ in outputs}) == 1
    assert {p.suffix for p in cache.iterdir()} == {disk.SUFFIX}
    assert not run()[2]
