"""A small assembler of LLVM text with structured control: blocks open and close with `with`.

In: calls of its methods, which take and return the names of SSA values (strings). Out: the text of one function. Used for
code that is all control flow (marshal.py); kernels are emitted by emit.py.
"""

from __future__ import annotations

from contextlib import contextmanager


class Writer:
    """One LLVM function under construction: `head` is its type, name and parameters, `signatures` those of what it calls.

    Variables are stack slots, which LLVM turns into registers.
    """

    def __init__(self, head, signatures):
        self.head, self.signatures = head, signatures
        self.slots, self.lines, self.count, self.block = [], [], 0, "entry"

    def text(self, attributes="") -> str:
        return "\n".join([f"define {self.head} nounwind {attributes} {{", "entry:", *self.slots, *self.lines, "}\n"])

    def fresh(self, stem):
        self.count += 1
        return f"{stem}{self.count}"

    def line(self, text):
        self.lines.append("  " + text)

    def let(self, expression):
        name = self.fresh("%v")
        self.line(f"{name} = {expression}")
        return name

    # ---- memory ------------------------------------------------------------------------------------------------------
    def byte(self, pointer, offset):
        return self.let(f"getelementptr i8, ptr {pointer}, i64 {offset}")

    def word(self, pointer, index):
        return self.let(f"getelementptr i64, ptr {pointer}, i64 {index}")

    def load(self, pointer, offset=0, type="ptr"):
        return self.let(f"load {type}, ptr {self.byte(pointer, offset) if offset else pointer}")

    def store(self, value, pointer, type="ptr"):
        self.line(f"store {type} {value}, ptr {pointer}")

    def variable(self, type, start=None):
        """The stack slot of a new variable, set here to `start`."""
        name = self.fresh("%var")
        self.slots.append(f"  {name} = alloca {type}")
        if start is not None:
            self.store(start, name, type)
        return name

    # ---- values ------------------------------------------------------------------------------------------------------
    def test(self, how, left, right, type="i64"):
        return self.let(f"icmp {how} {type} {left}, {right}")

    def call(self, name, *args):
        restype, _, types = self.signatures[name][:-1].partition(" (")
        joined = ", ".join([f"{t} {a}" for t, a in zip(types.split(", "), args)])
        if restype == "void":
            return self.line(f"call void @{name}({joined})")
        return self.let(f"call {restype} @{name}({joined})")

    # ---- control -----------------------------------------------------------------------------------------------------
    def label(self, name):
        self.lines.append(f"{name}:")
        self.block = name

    def go(self, label):
        self.line(f"br label %{label}")

    def branch(self, condition, yes, no):
        self.line(f"br i1 {condition}, label %{yes}, label %{no}")

    def need(self, condition, otherwise):
        """Go on if the condition holds, else to the label `otherwise`."""
        on = self.fresh("on")
        self.branch(condition, on, otherwise)
        self.label(on)

    @contextmanager
    def when(self, condition):
        inside, after = self.fresh("then"), self.fresh("after")
        self.branch(condition, inside, after)
        self.label(inside)
        yield
        self.go(after)
        self.label(after)

    @contextmanager
    def loop(self, count):
        """The body for each index below `count`."""
        head, body, after = self.fresh("head"), self.fresh("body"), self.fresh("after")
        before, i = self.block, self.fresh("%i")
        self.go(head)
        self.label(head)
        phi = len(self.lines)
        self.branch(self.test("ult", i, count), body, after)
        self.label(body)
        yield i
        following = self.let(f"add i64 {i}, 1")
        self.lines.insert(phi, f"  {i} = phi i64 [ 0, %{before} ], [ {following}, %{self.block} ]")
        self.go(head)
        self.label(after)

    @contextmanager
    def switch(self, value, count):
        """Yields a context manager for the case of each number below `count`."""
        stem, after = self.fresh("case"), self.fresh("after")
        cases = " ".join([f"i64 {i}, label %{stem}.{i}" for i in range(count)])
        self.line(f"switch i64 {value}, label %{after} [ {cases} ]")

        @contextmanager
        def case(*numbers):
            for n in numbers[1:]:
                self.label(f"{stem}.{n}")
                self.go(f"{stem}.{numbers[0]}")
            self.label(f"{stem}.{numbers[0]}")
            yield
            self.go(after)

        yield case
        self.label(after)
