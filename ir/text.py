"""The text form of a Graph: `show` prints it, `parse` reads it back to an equal Graph (same digest).

    func @slope(%x: f64[100]) -> f64 {
      %0 = sin %x : f64[100]                     # model.py:5  return np.sum(np.sin(x) ** 2)
      %1 = mul %0, 2.0 : f64[100]                # model.py:5 vjp
      %2 = reduce_sum %1 {axes=(0,)} : f64
      guard %4 {seen=True}                       # model.py:9  if y > 0:
      return %2
    }

A line is: results, operation, operands, attributes in braces, result types, and for region operations ` {`, the nested
funcs, `}`. Values are numbered in order within their func; parameters keep their names, made unique.
A constant is written inline. Its form tells its kind (`2.0`, `2`, `true`), its width is that of the first operand on
the line that is a value of the same kind, else 64 bits; a constant that differs says so: `2.0:f32`. NaN with an unusual
bit pattern is `nan(0x7ff8000000000001)`.
Trailing comments hold the location and the transforms that made the node (its tag); they are parsed back too, as
`(file name, line)`. Both directions are a single loop over the lines: time linear in the nodes.
"""

from __future__ import annotations

import ast
import difflib
import math
import os
import re
import struct
from functools import lru_cache

import numpy as np

from . import op as _op
from .graph import EMPTY, Constant, Graph, Node, Value
from .location import resolve, source_line
from .pause import pause_gc
from .types import DTYPES, F32, NAMES, parse_type

COLUMN = 44  # comments start here, or further right if most lines are longer
WIDEST = 88
_KINDS = {"f": "f64", "i": "i64", "b": "bool"}
_PLAIN_NAN = {False: float("nan"), True: -float("nan")}


# ---- printing ----------------------------------------------------------------------------------------------------
@pause_gc
def show(graph: Graph, locations=True, color=False) -> str:
    """The text of a graph. `locations`: source lines as trailing comments; `color`: ANSI colours for a terminal."""
    lines = Printer(locations).func(graph)
    codes = [code for code, _ in lines]
    if any([note for _, note in lines]):
        width = max([len(code) for code, note in lines if note and len(code) <= WIDEST], default=0)
        column = max(COLUMN, width + 2)
        codes = [code.ljust(column) + "# " + note if note else code for code, note in lines]
    text = "\n".join(codes)
    return _paint(text) if color else text


class Printer:
    """Turns graphs into (line, comment) pairs. Values it does not know (a broken graph) print as `%?`.

    `regions=False` leaves out nested programs, so that node i of a graph is line i + 1.
    """

    def __init__(self, locations=True, regions=True):
        self.locations, self.regions = locations, regions
        self._resolved, self._source = {}, None

    def func(self, graph, indent="") -> list[tuple[str, str]]:
        names = _name_params(graph)
        params = ", ".join([f"{names[p]}: {p.type}" for p in graph.params])
        lines = [(f"{indent}func @{_symbol(graph.name)}({params}) -> {_types(graph.results)} {{", "")]
        self._source = None
        inner, count = indent + "  ", 0
        for node in graph.nodes:
            operands = _operands(node.operands, names)
            for result in node.results:
                names[result] = f"%{count}"
                count += 1
            code = _line(node, operands, names)
            lines.append((inner + code, self._note(node)))
            if node.regions and self.regions:
                for region in node.regions:
                    lines += self.func(region, inner + "  ")
                lines.append((inner + "}", ""))
        returned = _operands(graph.results, names)
        lines += [(f"{inner}return{returned}", ""), (indent + "}", "")]
        return lines

    def _note(self, node):
        """`model.py:5 vjp  source text`, the text only where the line changes."""
        if not self.locations or (node.loc is None and not node.tag):
            return ""
        found = self._resolve(node.loc)
        if found is None:
            return node.tag
        short, text = found
        note = f"{short} {node.tag}" if node.tag else short
        if short != self._source:
            self._source = short
            note = f"{note}  {text}" if text else note
        return note

    def _resolve(self, loc):
        if loc is None:
            return None
        key = (id(loc[0]), loc[1])
        if key not in self._resolved:
            found = resolve(loc)
            self._resolved[key] = (f"{os.path.basename(found[0])}:{found[1]}", source_line(*found))
        return self._resolved[key]


def _name_params(graph):
    names, taken = {}, set()
    for i, p in enumerate(graph.params):
        name = re.sub(r"\W+", "_", p.name).strip("_") if p.name else ""
        if not name or name[0].isdigit():
            name = f"arg{i}" if not name else f"_{name}"
        base, k = name, 1
        while name in taken:
            name, k = f"{base}_{k}", k + 1
        taken.add(name)
        names[p] = "%" + name
    return names


def _symbol(name):
    return name if re.fullmatch(r"[A-Za-z_][\w.]*", name) else repr(name)


def _types(values):
    return str(values[0].type) if len(values) == 1 else f"({', '.join([str(v.type) for v in values])})"


def _line(node, operands, names):
    code = node.op.name + operands
    if node.results:
        if len(node.results) == 1:
            code = f"{names[node.results[0]]} = {code}"
        else:
            code = f"{', '.join([names[r] for r in node.results])} = {code}"
    if node.attrs:
        code += " {" + ", ".join([f"{key}={_attribute(value)}" for key, value in node.attrs.items()]) + "}"
    if node.results:
        code += " : " + ", ".join([r.type.text for r in node.results])
    return code + " {" if node.regions else code


def _operands(operands, names):
    """` %x, 2.0`: the operands of a line, constants spelled against the widths of the values beside them."""
    if not operands:
        return ""
    written = []
    widths = None
    for operand in operands:
        name = names.get(operand)
        if name is None:
            if type(operand) is Constant:
                widths = widths or _widths([o.dtype for o in operands if type(o) is not Constant])
                name = _constant(operand, widths)
            else:
                name = "%?"
        written.append(name)
    return " " + ", ".join(written)


def _widths(dtypes):
    """Per kind of number, the element type that an unmarked constant has beside values of these dtypes."""
    widths = dict(_KINDS)
    for dtype in reversed(dtypes):
        widths[dtype.kind] = NAMES[dtype]
    return widths


def _constant(constant, widths):
    dtype = constant.dtype
    text = _number(constant.data, dtype)
    return text if widths[dtype.kind] == NAMES[dtype] else f"{text}:{NAMES[dtype]}"


def _bits(data):
    return struct.unpack("<Q", struct.pack("<d", data))[0]


def _number(data, dtype=None):
    """The shortest text that reads back to the same bits."""
    if isinstance(data, bool):
        return "true" if data else "false"
    if not isinstance(data, float):
        return str(data)
    if math.isnan(data):
        sign = math.copysign(1, data) < 0
        if _bits(data) != _bits(_PLAIN_NAN[sign]):
            return f"nan({_bits(data):#x})"
        return "-nan" if sign else "nan"
    return str(np.float32(data)) if dtype == F32 else repr(data)


def _attribute(value):
    if isinstance(value, np.dtype):
        return NAMES[value]
    if isinstance(value, tuple):
        items = [_attribute(item) for item in value]
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, float):
        return _number(value)
    return repr(value)


_PAINT = re.compile(
    r"(?P<comment>#[^\n]*)|(?P<string>'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\")|(?P<value>%[\w.]+)"
    r"|(?P<type>\b(?:f64|f32|i64|i32|bool)\b(?:\[[\d,]*\])?)|(?P<word>(?:(?<== )|(?<=\n)\s+)[a-z_]\w*)"
)
_COLORS = {"comment": "2", "string": "32", "value": "36", "type": "33", "word": "1"}


def _paint(text):
    def colored(match):
        return f"\x1b[{_COLORS[match.lastgroup]}m{match.group()}\x1b[0m"

    return _PAINT.sub(colored, text)


# ---- reading -----------------------------------------------------------------------------------------------------
class ParseError(ValueError):
    """The text is not a graph. Names the line and what was expected there."""


_STRING = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
_SYMBOL = rf"[A-Za-z_][\w.]*|{_STRING}"
_TYPE = r"[a-z]+\d*(?:\[[\d,]*\])?"
_OPERAND = r"%[\w.?]+|[-+\w][-+\w.]*(?:\([\w]*\))?(?::\w+)?"
_COMMENT = r"\s*(?:# ?(?P<note>.*))?"
_PIECES = (  # one operation, piece by piece: what is expected, and its pattern
    (
        "an operation (`%0 = sin %x : f64`), `return` or `}`",
        r"\s*(?:(?P<results>%[\w.]+(?:,\s*%[\w.]+)*)\s*=\s*)?(?P<op>[A-Za-z_]\w*)",
    ),
    ("operands such as `%x, 2.0`", rf"(?:\ +(?P<operands>(?:{_OPERAND})(?:,\s*(?:{_OPERAND}))*))?(?=\s|$)"),
    ("attributes such as `{axes=(0,)}`", rf"(?:\s*\{{(?P<attrs>(?:{_STRING}|[^'\"{{}}])+)\}})?"),
    ("result types such as `: f64[10]`", rf"(?:\s*:\s*(?P<types>{_TYPE}(?:,\s+{_TYPE})*))?"),
    ("the end of the line, a comment, or `{` of a region", rf"(?P<open>\s*\{{)?{_COMMENT}$"),
)  # fmt: skip
_LINE = re.compile("".join(piece for _, piece in _PIECES))
_FUNC = re.compile(
    rf"\s*func\s+@(?P<name>{_SYMBOL})\s*\((?P<params>[^()]*)\)\s*->\s*(?P<returns>\([^()]*\)|{_TYPE})\s*\{{\s*(?:#.*)?$"
)
_PARAM = re.compile(rf"\s*%([\w.]+)\s*:\s*({_TYPE})\s*(?:,\s+|$)")
_NOTE = re.compile(r"(?:(?P<file>.+?):(?P<line>\d+)(?: (?P<tag>[\w.]+))?|(?P<only>[\w.]+))?(?:  .*)?$")
_CONSTANT = re.compile(r"(?P<number>[-+\w][-+\w.]*(?:\(\w*\))?)(?::(?P<type>\w+))?$")


@pause_gc
def parse(text: str) -> Graph:
    """Read one func; equal in content to the graph that was shown."""
    return _Parser(text).graph()


class _Parser:
    """A cursor over the lines. Nested funcs are read with an explicit stack: their nesting is the regions' depth."""

    def __init__(self, text):
        self.lines = text.splitlines()
        self.at = 0
        self._types = {}

    def graph(self) -> Graph:
        stack = [self._open_func()]
        while True:
            scope = stack[-1]
            line = self._next(f"an operation, `return` or `}}` in func @{scope.name}")
            match = _LINE.match(line)
            if match is None:
                if scope.pending is not None:
                    if line.split("#")[0].strip() == "}":
                        self._close_regions(scope)
                    else:
                        self.at -= 1
                        stack.append(self._open_func())
                    continue
                self._diagnose(line)
            if scope.pending is not None:
                if match["op"] != "func":
                    self._fail(line, "a nested `func` or `}`")
                self.at -= 1
                stack.append(self._open_func())
            elif match["op"] == "return":
                graph = self._close_func(scope, match, line)
                stack.pop()
                if not stack:
                    self._end()
                    return graph
                stack[-1].pending[1].append(graph)
            else:
                self._node(scope, match, line)

    # -- funcs
    def _open_func(self):
        line = self._next("`func @name(%x: f64) -> f64 {`")
        match = _FUNC.match(line)
        if match is None:
            self._fail(line, "`func @name(%x: f64) -> f64 {`")
        name = match["name"]
        scope = _Scope(ast.literal_eval(name) if name[0] in "'\"" else name)
        scope.returns = self._type_list(match["returns"].strip("()"), line)
        rest = match["params"].strip()
        while rest:
            param = _PARAM.match(rest)
            if param is None:
                self._fail(line, f"a parameter such as `%x: f64[3]` at {rest!r}")
            value = Value(self._type(param[2], line), None, len(scope.params), param[1])
            scope.params.append(value)
            self._define(scope, "%" + param[1], value, line)
            rest = rest[param.end() :]
        return scope

    def _close_func(self, scope, match, line):
        if match["results"] or match["attrs"] or match["types"] or match["open"]:
            self._fail(line, "`return` with operands only")
        results = self._operands(scope, match["operands"], line)
        types = [r.type for r in results]
        if types != scope.returns:
            self._fail(line, f"results of types {scope.returns} as the func says, got {types}")
        closing = self._next("`}` after return")
        if closing.split("#")[0].strip() != "}":
            self._fail(closing, "`}` after return")
        return Graph(scope.name, scope.params, scope.nodes, results)

    def _close_regions(self, scope):
        (op, operands, attrs, types, loc, tag, results, line), regions = scope.pending
        scope.pending = None
        self._add(scope, Node(op, operands, attrs, types, tuple(regions), loc, tag), results, line)

    # -- nodes
    def _node(self, scope, match, line):
        name = match["op"]
        op = _op.TABLE.get(name)
        if op is None:
            close = difflib.get_close_matches(name, _op.TABLE, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            self._fail(line, f"an operation of the table, not {name!r}{hint}")
        operands = self._operands(scope, match["operands"], line)
        attrs = self._attributes(match["attrs"], line)
        types = self._type_list(match["types"], line) if match["types"] else ()
        results = match["results"].replace(" ", "").split(",") if match["results"] else ()
        if len(results) != len(types):
            self._fail(line, f"one type per result: {len(results)} results, {len(types)} types")
        loc, tag = _location(match["note"])
        if match["open"]:
            scope.pending = (op, operands, attrs, types, loc, tag, results, line), []
            return
        self._add(scope, Node(op, operands, attrs, types, (), loc, tag), results, line)

    def _add(self, scope, node, results, line):
        scope.nodes.append(node)
        for name, value in zip(results, node.results):
            self._define(scope, name, value, line)

    def _define(self, scope, name, value, line):
        if name in scope.values:
            self._fail(line, f"a new name: {name} is defined above already")
        scope.values[name] = value

    def _operands(self, scope, text, line):
        if not text:
            return ()
        out, constants = [], False
        for word in text.split(","):
            word = word.strip()
            if word[0] == "%":
                value = scope.values.get(word)
                if value is None:
                    self._fail(line, f"a value defined above, not {word}")
                out.append(value)
            else:
                out.append(word)
                constants = True
        if constants:
            widths = _widths([o.dtype for o in out if type(o) is not str])
            out = [self._constant(o, widths, line) if type(o) is str else o for o in out]
        return tuple(out)

    def _constant(self, word, widths, line):
        match = _CONSTANT.match(word)
        data = _read_number(match["number"])
        if data is None:
            self._fail(line, f"a value or a number, not {word!r}")
        kind = "b" if isinstance(data, bool) else "f" if isinstance(data, float) else "i"
        type = self._type(match["type"] or widths[kind], line)
        if type.dtype.kind != kind:
            self._fail(line, f"a number that is {match['type']}, not {word!r}")
        if type.dtype == F32 and not math.isnan(data):
            data = np.float32(data).item()
        return Constant(type, data)

    def _attributes(self, text, line):
        if not text:
            return EMPTY
        try:
            return _read_attributes(text)
        except (SyntaxError, ValueError):
            self._fail(line, f"attributes such as `{{axes=(0,)}}`, not {{{text}}}")

    def _type(self, text, line):
        found = self._types.get(text)
        if found is None:
            try:
                found = self._types[text] = parse_type(text)
            except ValueError as error:
                self._fail(line, f"a type such as `f64[3,4]`: {error}")
        return found

    def _type_list(self, text, line):
        return [self._type(word, line) for word in re.split(r",\s+", text.strip())] if text.strip() else []

    # -- lines and errors
    def _next(self, expected):
        while self.at < len(self.lines):
            line = self.lines[self.at]
            self.at += 1
            stripped = line.lstrip()
            if stripped and stripped[0] != "#":
                return line
        raise ParseError(f"line {max(self.at, 1)}: the text ends here; expected {expected}")

    def _end(self):
        for line in self.lines[self.at :]:
            if line.strip() and line.lstrip()[0] != "#":
                self._fail(line, "nothing after the func's closing `}`", self.lines.index(line, self.at) + 1)

    def _fail(self, line, expected, number=None):
        raise ParseError(f"line {number or self.at}: expected {expected}\n    {line.strip()}")

    def _diagnose(self, line):
        """Which piece of an operation's line does not match, and where."""
        pattern, end = "", 0
        for expected, piece in _PIECES:
            pattern += piece
            match = re.match(pattern, line)
            if match is None:
                self._fail(line, f"{expected} at {line[end:].strip()!r}")
            end = match.end()
        raise AssertionError(line)


class _Scope:
    """One func being read. `pending`: the region operation whose nested funcs are being read."""

    __slots__ = ("name", "params", "nodes", "values", "returns", "pending")

    def __init__(self, name):
        self.name, self.params, self.nodes, self.values, self.returns, self.pending = name, [], [], {}, [], None


def _location(note):
    match = _NOTE.match(note) if note else None
    if match is None:
        return None, ""
    loc = (match["file"], int(match["line"])) if match["file"] else None
    return loc, match["tag"] or match["only"] or ""


def _read_number(text):
    if text in ("true", "false"):
        return text == "true"
    try:
        if text.startswith("nan("):
            return struct.unpack("<d", struct.pack("<Q", int(text[4:-1], 16)))[0]
        if text.endswith("nan"):
            return _PLAIN_NAN[text[0] == "-"]
        digits = text.lstrip("+-")
        return int(text) if digits.isdigit() else float(text)
    except (ValueError, struct.error):
        return None


@lru_cache(maxsize=4096)
def _read_attributes(text):
    call = ast.parse(f"f({text})", mode="eval").body
    return {keyword.arg: _read_attribute(keyword.value) for keyword in call.keywords}


def _read_attribute(tree):
    if isinstance(tree, ast.Tuple):
        return tuple([_read_attribute(item) for item in tree.elts])
    if isinstance(tree, ast.Name) and tree.id in DTYPES:
        return DTYPES[tree.id]
    if isinstance(tree, ast.Constant):
        return tree.value
    number = _read_number(ast.unparse(tree).replace(" ", ""))
    if number is None:
        raise ValueError(ast.unparse(tree))
    return number
