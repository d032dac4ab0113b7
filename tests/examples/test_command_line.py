"""`python -m tapejit`: dumps of functions in files, the built-in benchmark, and what it says about bad input."""

import json
import subprocess
import sys

import pytest

import tapejit
from tapejit.__main__ import main

MODEL = """\
import numpy as np
import tapejit


def loss(w, x, scale=1.0):
    return np.sum(np.tanh(x @ w) ** 2) * scale


@tapejit.grad
def slope(x):
    return np.sin(x) ** 2


@tapejit.gradients_function
def both(x, y):
    return x * y


class Model:
    @staticmethod
    def energy(x):
        return x * x


def broken(x):
    return x / None


def unsupported(x):
    return np.fft.fft(x)


NUMBER = 3
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return str(path)


def dump(capsys, *arguments):
    """(exit status, stdout, stderr) of the dump command."""
    status = main(["dump", *arguments])
    return status, *capsys.readouterr()


def test_dump_of_a_decorated_function(model, capsys):
    status, out, _ = dump(capsys, f"{model}:slope", "--args", "1.0")
    assert status == 0
    assert "func @grad_slope(%x: f64) -> f64 {" in out
    assert "model.py:11  return np.sin(x) ** 2" in out
    assert "<tapejit grad(slope)>" in out and "kernel." in out
    assert "\x1b" not in out


def test_dump_with_transforms_and_keywords(model, capsys):
    arguments = ("--args", "np.ones(3), np.ones((4, 3)), scale=2.0", "--transform", "grad", "--stage", "gradient")
    status, out, _ = dump(capsys, f"{model}:loss", *arguments)
    assert status == 0 and "func @grad_loss(%w: f64[3], %x: f64[4,3], %scale: f64) -> f64[3] {" in out
    status, out, _ = dump(capsys, f"{model}:slope", "--args", "1.0", "--transform", "grad", "--stage", "explain")
    assert status == 0 and "<tapejit grad(grad(slope))>" in out and "func" not in out


def test_dump_of_other_callables(model, capsys):
    assert "func @energy" in dump(capsys, f"{model}:Model.energy", "--args", "1.0")[1]
    assert "return %y, %x" in dump(capsys, f"{model}:both", "--args", "1.0, 2.0", "--stage", "optimized")[1]
    assert dump(capsys, f"{model}:Model.energy", "--args", "1.0, 2.0", "--transform", "hvp")[0] == 0


@pytest.mark.parametrize(
    "stage, expected", [("recorded", "sin %x"), ("kernels", "kernel "), ("llvm", "define "), ("asm", ".text")]
)
def test_dump_stages(model, capsys, stage, expected):
    status, out, _ = dump(capsys, f"{model}:slope", "--args", "np.ones(8)", "--stage", stage)
    assert status == 0 and expected in out


def test_dump_draws(model, capsys, tmp_path):
    status, out, _ = dump(capsys, f"{model}:slope", "--args", "1.0", "--draw", str(tmp_path / "graph.png"))
    assert status == 0 and "wrote" in out
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")


BAD = [
    ("nowhere.py:f", None, "there is no file 'nowhere.py'"),
    ("{model}", None, "does not name a function; write FILE.py:function"),
    ("{model}:nope", None, "has no function 'nope'; it has: loss, slope, both, broken, unsupported"),
    ("{model}:slope.nope", None, "slope has no attribute 'nope'"),
    ("{model}:NUMBER", None, "NUMBER is int, not a function"),
    ("{model}:loss", None, "loss(w, x, scale=1.0) needs arguments: missing a required argument: 'w'; give --args"),
    ("{model}:slope", "1.0, 2.0", "slope(x) does not take --args '1.0, 2.0': too many positional arguments"),
    ("{model}:slope", "foo", "--args 'foo' cannot be evaluated: NameError: name 'foo' is not defined"),
    ("{model}:slope", "1.0 +", "cannot be evaluated: SyntaxError"),
    ("{model}:slope", "np.arange(3)", "DTypeError: grad with respect to x of slope: i64[3] is not differentiable"),
    ("{model}:unsupported", "np.ones(3)", "model.py:30: return np.fft.fft(x)"),
]


@pytest.mark.parametrize("target, args, message", BAD, ids=[message[:30] for _, _, message in BAD])
def test_bad_input(model, capsys, target, args, message):
    status, out, err = dump(capsys, target.format(model=model), *(["--args", args] if args else []))
    assert status == 2 and out == ""
    assert message in err and "Traceback" not in err


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated with the definition")
def test_annotations_may_name_nothing(tmp_path, capsys):
    path = tmp_path / "model.py"
    path.write_text("def area(x: Nowhere, y: float):\n    return x * y\n")
    assert dump(capsys, f"{path}:area", "--args", "2.0, 3.0")[0] == 0
    assert "y: float) needs arguments" in dump(capsys, f"{path}:area")[2]


def test_error_of_the_users_code(model, capsys):
    status, _, err = dump(capsys, f"{model}:broken", "--args", "1.0")
    assert status == 1
    assert 'model.py", line 26, in broken' in err and "TypeError" in err and "tapejit/trace.py" not in err


def test_bench(capsys, tmp_path):
    report = tmp_path / "report.json"
    assert main(["bench", "--quick", "--json", str(report)]) == 0
    results = json.loads(report.read_text())["results"]
    out = capsys.readouterr().out
    assert len(results) == 6 and all(r["name"] in out for r in results)
    assert main(["bench", "--json", str(tmp_path / "missing" / "report.json")]) == 2
    assert "No such file" in capsys.readouterr().err


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "tapejit", *arguments], capture_output=True, text=True, timeout=60)


def test_as_a_module():
    assert command("--version").stdout.strip() == f"tapejit {tapejit.__version__}"
    shown = command("--help").stdout
    assert "dump" in shown and "bench" in shown and "python -m tapejit dump model.py:loss" in shown
    assert command().returncode == 2
