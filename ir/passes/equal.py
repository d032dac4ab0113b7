"""Merge values that differentiation made and that are equal as algebra, however they are written.

In: a Graph. Out: an equal Graph where a node made by a transform is replaced by an earlier value that equals it by the
laws of fields; a derived value that is zero becomes 0. The user's own arithmetic (tag "") is never replaced.

Value numbering alone finds equal values only if they are written alike. Here each value gets a fingerprint: its value in
the field of integers modulo the prime 2**127 - 1, when every value that is not a sum, product, quotient or small power is
taken as a pseudo-random number. Equal algebra gives equal fingerprints, and two different rational functions of degree d
share one with probability d / 2**127 (Schwartz and Zippel): for all practical purposes never.
So u'*v' + u*v'' finds v''*u + v'*u', and when a k-th derivative is differentiated again, the tangents of the lower
orders are found to be values which the graph already has. What is left to grow is the last order: this is what keeps
repeated differentiation polynomial. One loop over the nodes.
"""

from __future__ import annotations

import math
from functools import lru_cache

from ..build import Builder
from ..graph import Constant, Graph
from ..hashing import blake2b

PRIME = (1 << 127) - 1
POWER = 64  # exponents up to this are powers in the field; larger ones are opaque


def merge_equal(graph: Graph) -> Graph:
    """The graph with algebraically equal derived values merged."""
    if not any([node.tag for node in graph.nodes]):
        return graph
    prints = {p: _opaque(b"param%d" % i) for i, p in enumerate(graph.params)}
    known = {(prints[p], p.type): p for p in graph.params}
    same = {}  # derived value -> the earlier value that it equals, None for zero
    for node in graph.nodes:
        found = _fingerprints(node, prints)
        for result, fingerprint in zip(node.results, found):
            prints[result] = fingerprint
            if not result.type.is_float:
                continue
            earlier = known.setdefault((fingerprint, result.type), result)
            if node.tag and (earlier is not result or fingerprint == 0):
                same[result] = earlier if fingerprint else None
    return _substituted(graph, same) if same else graph


def _substituted(graph, same):
    """Copy the graph, with the values in `same` replaced."""
    b = Builder(graph.name)
    env = b.params_of(graph.params)

    def lookup(value):
        return value if type(value) is Constant else env[value]

    for node in graph.nodes:
        if any([r not in same for r in node.results]) or not node.results:
            env.update(zip(node.results, b.keep(node, [lookup(o) for o in node.operands])))
        for r in node.results:
            if r in same:
                env[r] = b.zeros(r.type) if same[r] is None else env[same[r]]
    return b.finish([lookup(r) for r in graph.results])


def _fingerprints(node, prints) -> list[int]:
    """The fingerprints of a node's results."""
    found = [_constant(o) if type(o) is Constant else prints[o] for o in node.operands]
    if len(node.results) == 1 and node.results[0].type.is_float:
        name = node.op.name
        rule = _FIELD.get(name)
        if rule is not None:
            return [rule(*found)]
        if name == "div" and found[1]:
            return [found[0] * pow(found[1], -1, PRIME) % PRIME]
        if name == "pow" and found[0] and type(node.operands[1]) is Constant:
            exponent = node.operands[1].data
            if exponent == int(exponent if math.isfinite(exponent) else 0) and abs(exponent) <= POWER:
                return [pow(found[0], int(exponent), PRIME)]
    what = [node.op.name.encode(), *[f.to_bytes(16, "little") for f in found]]
    if node.attrs or node.regions:
        what.append(repr((list(node.attrs.items()), [region.digest for region in node.regions])).encode())
    what = b"|".join(what)
    if len(node.results) == 1:
        return [_opaque(what)]
    return [_opaque(b"%d|" % i + what) for i in range(len(node.results))]


_FIELD = {
    "add": lambda x, y: (x + y) % PRIME,
    "sub": lambda x, y: (x - y) % PRIME,
    "neg": lambda x: -x % PRIME,
    "mul": lambda x, y: x * y % PRIME,
    "broadcast": lambda x: x,
}


def _opaque(what):
    return int.from_bytes(blake2b(what, digest_size=16).digest(), "little") % PRIME


@lru_cache(maxsize=4096)
def _number(data):
    """A float is n / 2**k exactly, and 2**127 is 1 in this field."""
    over, under = data.as_integer_ratio()
    return (over << (-(under.bit_length() - 1) % 127)) % PRIME


def _constant(constant):
    data = constant.data
    if type(data) is float and math.isfinite(data):
        return _number(data)
    return _opaque(repr(constant.key).encode())
