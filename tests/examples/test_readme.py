"""The README's Python runs, in order, and prints what its comments say; its commands are the ones that .ci/run takes."""

import contextlib
import io
import linecache
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)


def test_snippets_print_what_their_comments_say():
    assert len(BLOCKS) >= 5
    space = {"__name__": "readme"}
    for number, block in enumerate(BLOCKS):
        file = f"<README {number}>"
        linecache.cache[file] = (len(block), None, block.splitlines(True), file)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, file, "exec"), space)
        expected = re.findall(r"^print\(.*\)  # (.*)$", block, re.M)
        lines = printed.getvalue().splitlines()
        for line in expected:
            assert line in lines, f"block {number} printed {lines}, its comment says {line!r}"


def test_commands():
    commands = re.findall(r"^python3 -m venv .*$", README, re.M)
    assert [c.split()[3] for c in commands] == [".venv", ".venv-test"]
    assert ".venv/bin/python examples/quickstart.py" in commands[0]
    assert commands[1].endswith(".venv-test/bin/python -m pytest")


def test_links_exist():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links and all((ROOT / link).exists() for link in links)
