"""The command line: `python -m tapejit dump FILE.py:function` and `python -m tapejit bench`.

Text is coloured on a terminal and plain in a pipe. What is wrong with the input is said on stderr in a few lines and ends
with exit status 2; errors raised by the user's own code show where in it and end with 1.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import runpy
import sys
import traceback

import numpy as np

import tapejit

from .api import _Gradients
from .dispatch import Function
from .errors import TapejitError
from .show import STAGES
from .trace import signature

TRANSFORMS = ("jit", "grad", "value_and_grad", "elementwise_grad", "jacobian", "hessian", "hvp", "vmap")
HERE = os.path.dirname(os.path.abspath(__file__))
EPILOG = """examples:
  python -m tapejit dump model.py:loss --args "np.ones(3), 2.0" --transform grad
  python -m tapejit dump model.py:loss --args "np.ones(3), 2.0" --transform grad --transform grad --stage kernels
  python -m tapejit bench
"""


class UsageError(Exception):
    """What the user gave does not fit; the text says what would."""


def parser() -> argparse.ArgumentParser:
    """The arguments of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m tapejit",
        description="Look at what tapejit makes of a function, or time it on this machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"tapejit {tapejit.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    one = commands.add_parser("dump", help="print the program of a function in a file, and what it is compiled to")
    one.add_argument("target", metavar="FILE.py:function", help="the function, decorated with a transform or not")
    one.add_argument("--args", metavar="EXPR", help='its arguments as Python, e.g. "1.0, np.ones(3), flag=True"')
    one.add_argument(
        "--transform", action="append", choices=TRANSFORMS, default=[], help="apply this first; may be given several times"
    )
    one.add_argument(
        "--stage", choices=(*STAGES, "explain"), help="print this only (default: the optimized program, then explain)"
    )
    one.add_argument("--draw", metavar="IMAGE", help="also draw the graph into this png, svg or pdf file")
    two = commands.add_parser("bench", help="compiled against eager NumPy on this machine, in less than 20 seconds")
    two.add_argument("--quick", action="store_true", help="fewer repeats")
    two.add_argument("--json", metavar="FILE", help="write the figures to this file")
    return top


def load(target):
    """(function, namespace) of `FILE.py:function`; the file is run, not as __main__."""
    file, colon, name = target.rpartition(":")
    if not colon or not name:
        raise UsageError(f"{target!r} does not name a function; write FILE.py:function")
    if not os.path.isfile(file):
        raise UsageError(f"there is no file {file!r}")
    sys.path.insert(0, os.path.dirname(os.path.abspath(file)))
    namespace = runpy.run_path(os.path.abspath(file), run_name="tapejit_dump")
    found, *attributes = name.split(".")
    if found not in namespace:
        known = [k for k, v in namespace.items() if callable(v) and not k.startswith("_") and not inspect.isclass(v)]
        raise UsageError(f"{file} has no function {found!r}; it has: {', '.join(known) or 'no functions'}")
    function = namespace[found]
    for attribute in attributes:
        if not hasattr(function, attribute):
            raise UsageError(f"{file}: {found} has no attribute {attribute!r}")
        function = getattr(function, attribute)
    if not callable(function):
        raise UsageError(f"{file}: {name} is {type(function).__name__}, not a function")
    return function, namespace


def arguments(text, namespace, function, shown):
    """(args, kwargs) from the expression of --args, checked against the function's signature."""
    try:
        args, kwargs = eval(f"__take({text or ''})", {"np": np, **namespace, "__take": lambda *a, **k: (a, k)})
    except Exception as error:
        raise UsageError(f"--args {text!r} cannot be evaluated: {type(error).__name__}: {error}") from error
    try:
        takes = signature(getattr(function, "fn", function))
    except (TypeError, ValueError):
        return args, kwargs
    try:
        takes.bind(*args, **kwargs)
    except TypeError as error:
        if not text:
            raise UsageError(f'{shown}{takes} needs arguments: {error}; give --args, e.g. "1.0, np.ones(3)"') from None
        raise UsageError(f"{shown}{takes} does not take --args {text!r}: {error}") from None
    return args, kwargs


def transformed(function, names, count) -> Function:
    """The function with the transforms of the command line; compiled as it is, where there is none."""
    if isinstance(function, _Gradients):
        function = function.function(count, False)
    if not names and not isinstance(function, Function):
        names = ["jit"]
    for name in names:
        function = getattr(tapejit, name)(function)
    return function


def show(text, stage):
    """Print a program: with colours on a terminal, plain in a pipe."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        print(text)
        return
    from rich.console import Console
    from rich.syntax import Syntax
    from rich.text import Text

    lexers = {"llvm": "llvm", "asm": "nasm", "kernels": "python"}
    coloured = Syntax(text, lexers[stage], theme="ansi_dark", word_wrap=True) if stage in lexers else Text.from_ansi(text)
    Console().print(coloured, soft_wrap=True)


def dump(options):
    """The `dump` command."""
    function, namespace = load(options.target)
    shown = options.target.rpartition(":")[2]
    free_form = "hvp" in options.transform  # takes (x, v), which the function's own signature does not show
    args, kwargs = arguments(options.args, namespace, (lambda *a, **k: None) if free_form else function, shown)
    program = transformed(function, options.transform, len(args))
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    if options.stage != "explain":
        stage = options.stage or "optimized"
        show(program.ir(*args, stage=stage, color=color, **kwargs), stage)
    if options.stage is None:
        print()
    if options.stage in (None, "explain"):
        print(program.explain(*args, **kwargs))
    if options.draw:
        drawn = options.stage if options.stage in ("recorded", "gradient") else "optimized"
        print(f"wrote {program.draw(options.draw, *args, stage=drawn, **kwargs)}")


def bench(options):
    """The `bench` command."""
    from .bench import run, small_set

    with open(options.json or os.devnull, "w") as file:  # opened first: a path that cannot be written is said at once
        json.dump(run(small_set(), 0.1 if options.quick else 1.0), file, indent=1)


def describe(error) -> str:
    """An error of tapejit's, without the line where it concerns the command itself."""
    if error.where is not None and error.where[0].startswith("<frozen"):
        return error.what + (f"\n  instead: {error.instead}" if error.instead else "")
    return str(error)


def main(argv=None) -> int:
    """Run a command; returns the exit status."""
    options = parser().parse_args(argv)
    try:
        {"dump": dump, "bench": bench}[options.command](options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UsageError, OSError) as error:
        print(f"tapejit {options.command}: {error}", file=sys.stderr)
        return 2
    except TapejitError as error:
        print(f"tapejit {options.command}: {type(error).__name__}: {describe(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        print(f"tapejit {options.command}: the code that was run failed", file=sys.stderr)
        theirs = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((HERE, "<frozen"))]
        print("".join(traceback.format_list(theirs) + traceback.format_exception_only(error)), file=sys.stderr, end="")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
