"""Collect like terms in what differentiation made, so that higher derivatives stay small.

In: a Graph. Out: an equal Graph in which sums and products of float nodes with a tag (made by a transform) are rebuilt
from a normal form; the user's own arithmetic (tag "") is never touched, and neither are integers.

Each such node is kept as a form over atoms, where an atom is any value that is not itself collected:
    product   coefficient * atom_1**e_1 * ... * atom_n**e_n     mul and neg; x / y is x * (1 / y), its inverse an atom
    sum       coefficient * product + ...                       add, sub and neg merge terms of equal products
A form becomes nodes when something else needs its value. A sum that is used once disappears into the sum it is added
to; one that is used again, or multiplied, is built and is an atom from then on: products are never distributed over
sums, which would let the size grow and cancel digits. Equal products and equal sums are built once, whatever the order
of their parts. Terms keep the order in which they were added, so no new cancellation is made.

How long products may get depends on what comes next. If the graph will be differentiated again, a product has two atoms
and longer ones are chains of such: then u^(i) * v^(j) of Leibniz' rule stay values that the next order shares (merged
by `equal.py`), their binomials are collected here, and the k-th derivative grows like k**2, as Taylor arithmetic does.
If no derivative is due (`factor`), products are flattened, and common factors taken out, u*v + u*w -> u*(v+w), greedily,
the most frequent first.

Time is linear in the nodes: forms are bounded (`FACTORS`, `SCALED`, `FACTORED`) except sums, which are merged the smaller
into the larger.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from ..build import Builder
from ..graph import Constant, Graph

COLLECTED = frozenset(("add", "sub", "neg", "mul", "div"))
FACTORS = 16  # sum of the exponents in a product, when no derivative is due
SCALED = 32  # terms of a sum over which a coefficient is distributed
FACTORED = 96  # terms of a sum in which common factors are looked for


class _Product:
    """coef * product of atoms[i]**e over `key`, a tuple of (i, e) in ascending i."""

    __slots__ = ("coef", "key", "node")

    def __init__(self, coef, key, node):
        self.coef, self.key, self.node = coef, key, node


class _Sum:
    """sign * sum of coef * product over `terms`, a dict from key to coef."""

    __slots__ = ("sign", "terms", "node")

    def __init__(self, sign, terms, node):
        self.sign, self.terms, self.node = sign, terms, node


def collect(graph: Graph, factor: bool = False) -> Graph:
    """The graph with its derived sums and products collected; `factor`: for execution, never more nodes than before."""
    if not any([_is_collected(node) for node in graph.nodes]):
        return graph
    collected = _Collector(graph, factor).run()
    return graph if factor and len(collected) > len(graph) else collected


def _is_collected(node):
    return bool(node.tag) and node.op.name in COLLECTED and node.results[0].type.is_float


class _Collector:
    def __init__(self, graph, factor):
        self.graph, self.factor = graph, factor
        self.degree = FACTORS if factor else 2
        self.b = Builder(graph.name)
        self.env = self.b.params_of(graph.params)  # old value -> new value or form
        self.uses = Counter([o for node in graph.nodes for o in node.operands])
        self.uses.update(graph.results)
        self.atoms, self.index = [], {}
        self.products, self.sums = {}, {}

    def run(self) -> Graph:
        b, env = self.b, self.env
        for node in self.graph.nodes:
            if _is_collected(node):
                env[node.results[0]] = self.form(node)
            else:
                env.update(zip(node.results, b.keep(node, [self.value(o) for o in node.operands])))
        return b.finish([self.value(r) for r in self.graph.results])

    # ---- forms --------------------------------------------------------------------------------------------------
    def form(self, node):
        """The form of a collected node, from those of its operands."""
        name, operands = node.op.name, node.operands
        if name == "neg":
            found = self.env.get(operands[0])
            if type(found) is _Sum and self.uses[operands[0]] == 1:
                return _Sum(-found.sign, found.terms, node)
            product = self.product(operands[0])
            return _Product(-product.coef, product.key, node)
        x, y = operands
        if name == "mul":
            return self.scaled(x, y, node) or self.scaled(y, x, node) or self.multiplied(x, y, node)
        if name == "div":
            return self.divided(x, y, node)
        return self.added(self.terms(x, node), self.terms(y, node), 1 if name == "add" else -1, node)

    def product(self, old) -> _Product:
        """The operand as a product; a sum is built and becomes an atom, times its common coefficient."""
        if type(old) is Constant:
            return self.atom(old)
        found = self.env[old]
        if type(found) is _Product:
            return found
        if type(found) is _Sum:
            found = self.env[old] = self.built_sum(found, old.dtype)
            return found
        return self.atom(found)

    def atom(self, value) -> _Product:
        """A value of the new graph as a product: a finite number is a coefficient, a broadcast is seen through."""
        node = value.node
        if node is not None and node.op.name == "broadcast":
            value = node.operands[0]
        if type(value) is Constant and math.isfinite(value.data):
            return _Product(value.data, (), None)
        i = self.index.get(value)
        if i is None:
            i = self.index[value] = len(self.atoms)
            self.atoms.append(value)
        return _Product(1.0, ((i, 1),), None)

    def multiplied(self, x, y, node):
        """x * y as a product; operands that would make it too long are built and become atoms."""
        p, q = self.factor_of(x), self.factor_of(y)
        if _degree(p.key) + _degree(q.key) > self.degree:
            p, q = self.shortened(x, p), self.shortened(y, q)
        return self.times(p, q.coef, q.key, node)

    def factor_of(self, old):
        """The operand of a product as a product; one that is used again stays a value, which is built once."""
        product = self.product(old)
        return self.shortened(old, product) if self.factor and self.uses[old] > 1 else product

    def divided(self, x, y, node):
        """x / y as x * (1/y): products of one reciprocal and its powers are what like terms are found among."""
        p, q = self.product(x), self.shortened(y, self.product(y))
        if q.coef == 0:
            return self.unchanged(node)
        inverse = ()
        if q.key:
            self.b.at(node)
            inverse = self.atom(self.b.div(1.0, self.atoms[q.key[0][0]])).key
            if _degree(p.key) + 1 > self.degree:
                p = self.shortened(x, p)
        return self.times(p, 1 / q.coef, inverse, node)

    def scaled(self, x, y, node):
        """(a + b) * c with a number c -> c*a + c*b, if the sum is small and not used again; else None."""
        found = self.env.get(x)
        if type(found) is not _Sum or self.uses[x] != 1 or len(found.terms) > SCALED:
            return None
        number = self.product(y)
        if number.key:
            return None
        terms = {key: coef * number.coef for key, coef in found.terms.items()}
        if not all([_is_ordinary(coef, node) for coef in terms.values()]):
            return None
        return _Sum(found.sign, terms, node)

    def times(self, p, coef, key, node):
        """p * coef * key; the node itself where the coefficients' product overflows or underflows."""
        coef *= p.coef
        if not _is_ordinary(coef, node):
            return self.unchanged(node)
        exponents = dict(p.key)
        for i, e in key:
            exponents[i] = exponents.get(i, 0) + e
        return _Product(coef, tuple(sorted(exponents.items())), node)

    def shortened(self, old, product):
        """The product as coefficient times one atom."""
        if _degree(product.key) < 2:
            return product
        self.b.at(product.node)
        atom = self.atom(self.built_product(1.0, product.key, old.dtype))
        return _Product(product.coef, atom.key, product.node)

    def unchanged(self, node):
        operands = [self.value(o) for o in node.operands]
        self.b.at(node)
        return self.b.apply(node.op, operands, node.attrs)[0]

    def terms(self, old, node) -> _Sum:
        """The operand as a sum that may be changed."""
        found = self.env.get(old)
        if type(found) is _Sum and self.uses[old] == 1:
            return found
        product = self.product(old)
        return _Sum(1, {product.key: product.coef}, node)

    def added(self, p, q, sign, node) -> _Sum:
        """p + sign * q, the smaller merged into the larger."""
        q = _Sum(q.sign * sign, q.terms, node)
        if len(q.terms) > len(p.terms):
            p, q = q, p
        total, relative = p.terms, p.sign * q.sign
        for key, coef in q.terms.items():
            both = total.get(key, 0.0) + relative * coef
            if both or key not in total:
                total[key] = both
            else:
                del total[key]
        return _Sum(p.sign, total, node)

    # ---- building -----------------------------------------------------------------------------------------------
    def value(self, old):
        """The value in the new graph, built now if it is still a form."""
        if type(old) is Constant:
            return self.b.constant(old.data, old.dtype)
        found = self.env[old]
        if type(found) is _Sum:
            found = self.built_sum(found, old.dtype)
        if type(found) is _Product:
            self.b.at(found.node)
            found = self.b.broadcast_to(self.built_product(found.coef, found.key, old.dtype), old.shape)
        self.env[old] = found
        return found

    def built_sum(self, form, dtype) -> _Product:
        """A sum's nodes: an atom times the coefficient that its terms have in common."""
        self.b.at(form.node)
        terms = [(key, form.sign * coef) for key, coef in form.terms.items() if coef]
        if not terms:
            return _Product(0.0, (), form.node)
        if len(terms) == 1:
            return _Product(terms[0][1], terms[0][0], form.node)
        common = _common([coef for _, coef in terms])
        terms = [(key, coef / common) for key, coef in terms]
        identity = frozenset(terms)
        total = self.sums.get(identity)
        if total is None:
            total = self.factored(terms, dtype) if self.factor else self.plain_sum(terms, dtype)
            self.sums[identity] = total
        atom = self.atom(total)
        return _Product(common * atom.coef, atom.key, form.node)

    def plain_sum(self, terms, dtype):
        """The terms added up in their order, those of small shape first."""
        return self.signed_sum([(coef < 0, self.built_product(abs(coef), key, dtype)) for key, coef in terms])

    def signed_sum(self, parts):
        """The sum of (is negative, value) pairs, those of small shape first, starting from a positive one if any."""
        b = self.b
        parts = sorted(parts, key=lambda part: part[1].type.size)
        first = next((i for i, (negative, _) in enumerate(parts) if not negative), 0)
        if parts[first][1].type.size == parts[0][1].type.size:
            parts.insert(0, parts.pop(first))
        negative, total = parts[0]
        if negative:
            total = b.neg(total)
        for negative, value in parts[1:]:
            total = b.sub(total, value) if negative else b.add(total, value)
        return total

    def built_product(self, coef, key, dtype):
        """coef * product, atoms of small shape multiplied first."""
        b = self.b
        if not key:
            return b.constant(coef, dtype)
        sizes = sorted({self.atoms[i].type.size for i, _ in key})
        total = None
        for size in sizes:
            group = key if len(sizes) == 1 else [item for item in key if self.atoms[item[0]].type.size == size]
            part = self.power_product(tuple(group))
            total = b.scale(coef, part) if total is None else b.mul(total, part)
        return total

    def power_product(self, key):
        """Product of atoms to positive powers; from one that exists and lacks one factor, else from its halves."""
        if not key:
            return None
        found = self.products.get(key)
        if found is not None:
            return found
        b, atoms = self.b, self.atoms
        if len(key) == 1 and key[0][1] == 1:
            return atoms[key[0][0]]
        for i, _ in key:
            smaller = self.products.get(_divided(key, i, 1))
            if smaller is not None:
                break
        else:
            if all([e % 2 == 0 for _, e in key]):
                half = self.power_product(tuple([(i, e // 2) for i, e in key]))
                found = self.products[key] = b.mul(half, half)
                return found
            i = next((i for i, e in reversed(key) if e % 2), key[-1][0])
            smaller = self.power_product(_divided(key, i, 1))
        found = self.products[key] = b.mul(smaller, atoms[i])
        return found

    # ---- common factors -------------------------------------------------------------------------------------------
    def factored(self, terms, dtype):
        """The sum with common factors taken out; recursion is as deep as the highest degree of a term."""
        if len(terms) > FACTORED:
            return self.plain_sum(terms, dtype)
        b, parts = self.b, []
        while len(terms) > 1:
            counts = Counter([i for key, _ in terms for i, _ in key])
            if not counts:
                break
            i, count = max(counts.items(), key=lambda item: (item[1], self.atoms[item[0]].type.size))
            if count < 2:
                break
            chosen, rest = [], []
            for key, coef in terms:
                (chosen if any([k == i for k, _ in key]) else rest).append((key, coef))
            power = min([dict(key)[i] for key, _ in chosen])
            inner = [(_divided(key, i, power), coef) for key, coef in chosen]
            common = _common([coef for _, coef in inner])
            value = self.factored([(key, coef / common) for key, coef in inner], dtype)
            value = b.mul(self.power_product(((i, power),)), value)
            parts.append((common < 0, b.scale(abs(common), value)))
            terms = rest
        parts += [(coef < 0, self.built_product(abs(coef), key, dtype)) for key, coef in terms]
        return self.signed_sum(parts)


def _degree(key):
    return sum([e for _, e in key])


def _divided(key, i, power):
    """The key without `power` factors of atom i."""
    return tuple([(k, e - power if k == i else e) for k, e in key if k != i or e != power])


def _is_ordinary(coef, node):
    """Whether a coefficient is 1 or a normal number of the node's dtype: it loses nothing when it is rounded to it."""
    if 1e-30 < abs(coef) < 1e30:
        return True
    limits = np.finfo(node.results[0].dtype)
    return float(limits.tiny) <= abs(coef) <= float(limits.max)


def _common(coefs):
    """A number to take out of all: their common divisor if it makes one of them 1, negative if all are."""
    sizes = [abs(c) for c in coefs]
    least = min(sizes)
    if any([size % least for size in sizes]):
        least = 1.0
    return -least if max(coefs) < 0 else least
