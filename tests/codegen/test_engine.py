"""Executables: guards, caching, the life of machine code, threads, what is imported when."""

import gc
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
from support import in_threads

from tapejit.codegen import GuardExit, compile, compile_graph, engine
from tapejit.ir import ops  # noqa: F401  fills the table
from tapejit.ir.build import Builder
from tapejit.ir.types import F64, I32, I64, tensor


def line(slope, n=5):
    b = Builder("f")
    x = b.param(tensor(F64, (n,)))
    return b.finish([b.add(b.mul(x, slope), 1.0)])


def guarded():
    b = Builder("f")
    x, n = b.param(tensor(F64)), b.param(tensor(I32))
    b.guard(b.gt(x, 0.0), seen=True)
    b.guard(n, seen=3)
    b.guard(b.convert(b.floor(x), dtype=I64), seen=1)
    return b.finish([b.mul(x, 2.0)])


def test_guards():
    e = compile_graph(guarded())
    assert e.run([np.array(1.5), np.array(3, np.int32)])[0] == 3.0
    assert e.run([np.array(-1.5), np.array(4, np.int32)]) == GuardExit(0, False)
    assert e.run([np.array(-1.5), np.array(4, np.int32)]).observed is False
    assert e.run([np.array(1.5), np.array(-4, np.int32)]) == GuardExit(1, -4)
    assert e.run([np.array(2.0**40), np.array(3, np.int32)]) == GuardExit(2, 2**40)
    assert e.run([np.array(np.nan), np.array(3, np.int32)]) == GuardExit(0, False)


def test_guard_on_a_constant():
    b = Builder("f", simplify=False)
    b.guard(b.constant(True, bool), seen=False)
    assert compile_graph(b.finish([])).run([]) == GuardExit(0, True)


def test_equal_graphs_share_code_and_code_is_freed():
    first, second = compile_graph(line(2.5)), compile_graph(line(2.5))
    assert first is second and first.stats.cached
    compile.clear()
    ghost, code = weakref.ref(first), weakref.ref(first._code)
    assert compile_graph(line(2.5)) is first
    compile.clear()
    tracker = first._code._tracker
    del first, second
    gc.collect()
    assert ghost() is None and code() is None
    assert not tracker.closed
    tracker.close()


def test_memory_of_freed_code_comes_back():
    def mapped():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[0])

    def cycle(count, start):
        for i in range(count):
            compile_graph(line(1000.0 + start + i))
            compile.clear()

    cycle(20, 0)
    before = mapped()
    cycle(60, 100)
    assert mapped() - before < 60 * 6, "pages leaked"


def test_a_failed_compilation_leaves_nothing(monkeypatch):
    graph = line(7.75)

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "Code", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compile_graph(graph)
    monkeypatch.undo()
    assert compile_graph(graph).run([np.ones(5)])[0][0] == 8.75


def test_threads():
    """Many threads compile and run the same and different programs at once."""
    b = Builder("f")
    x = b.param(tensor(F64, (200, 200)))
    y = b.tanh(b.dot(b.sin(x), x, contract=((1,), (0,)), batch=((), ())))
    graph = b.finish([b.reduce_sum(y, axes=(0,)), y])
    shared = compile_graph(graph)
    wrong = []

    def work(k):
        own = compile_graph(line(100.0 + k % 3))
        x = np.full((200, 200), 0.001 * (k + 1))
        wanted = np.tanh(np.sin(x) @ x)
        for _ in range(20):
            found = shared.run([x])[1]
            if not np.allclose(found, wanted) or own.run([np.ones(5)])[0][0] != 101.0 + k % 3:
                wrong.append(k)

    in_threads(work, range(6))
    assert not wrong and len(shared._arenas) <= 6


def test_texts():
    e = compile_graph(line(3.25, 1000))
    assert "for i in 1000" in e.kernels_text
    assert "define i64 @tapejit." in e.llvm_text
    assert "x double> @llvm" in e.optimized_llvm_text() or "fadd contract <" in e.optimized_llvm_text()
    assert "ret" in e.asm_text()
    assert set(e.stats.compile_ms) == {"fuse", "emit", "optimize", "select", "link"}
    assert e.stats.kernels[0]["bytes"] == 16000 and e.stats.kernels[0]["fused"] == ["mul", "add"]


def test_inputs_may_be_read_only_and_tuples():
    e = compile_graph(line(3.25, 7))
    x = np.arange(7.0)
    x.flags.writeable = False
    np.testing.assert_array_equal(e.run((x,))[0], x * 3.25 + 1)


def test_nothing_heavy_is_imported_early():
    code = (
        "import sys, tapejit.codegen; "
        "heavy = [m for m in ('llvmlite', 'scipy', 'networkx') if m in sys.modules]; assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_written_to_the_terminal():
    """LLVM prints what passes skip, among other things."""
    program = "import numpy as np, tapejit; [tapejit.grad(lambda x: np.sum(np.sin(x) ** 2))(np.ones(9)) for _ in range(3)]"
    environment = {**os.environ, "TAPEJIT_CACHE": "0"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
