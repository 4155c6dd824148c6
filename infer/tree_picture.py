"""A tree as a picture: which guesses a step verifies, and how often each of them is right."""

import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medusa_jax.tree.build import Tree
from medusa_jax.tree.rates import Rates

# Middle tones, to be read on white and on black alike.
_TEXT, _EDGE, _NODE = "#767676", "#3b82c4", "#b0671e"
_ROW, _COLUMN, _MARGIN, _MIN_WIDTH = 22, 150, 16, 380
_THICKEST, _THINNEST = 7.0, 0.8

Paths = list[list[int]]
_Numbers = Sequence[float] | None  # one per node


def tree_picture(
    tree: Tree, rates: Rates | None = None, accepted: Sequence[int] | None = None
) -> str:
    """Draws a tree from left to right, a column for each head.

    An edge is labelled with the rank of the node that it leads to. The more often that node is
    accepted, the thicker it is: by `accepted` where given, else by `rates`; evenly without either.

    Args:
      tree: without padding.
      rates: of acceptance; adds to every node the share of steps that are expected to accept it.
      accepted: for each node of the tree, the steps that accepted it; the root's are all steps.

    Returns:
      The text of an SVG file with a transparent background.
    """
    expected = None if rates is None else rates.of_nodes(tree).tolist()
    counts = None if accepted is None else list(accepted)
    rows, captions = _rows(tree), _captions(tree, expected, counts)
    thickness = _thickness(tree, expected, counts)
    width = max(2 * _MARGIN + tree.max_depth * _COLUMN, _MIN_WIDTH)
    height = 2 * _MARGIN + (max(rows) + 1 + len(captions)) * _ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        *(_edge(tree, node, rows, thickness[node]) for node in range(1, tree.R)),
        _node("root", *_place(tree, 0, rows), ""),
    ]
    for node, path in enumerate(tree.paths(), 1):
        label = _label(path[-1], node, expected, counts)
        parts.append(_node(str(path), *_place(tree, node, rows), label))
    for line, caption in enumerate(reversed(captions)):
        y = height - _MARGIN - line * _ROW
        parts.append(f'<text x="{_MARGIN}" y="{y}" fill="{_TEXT}">{caption}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def most_used_tree(rows: Iterable[Mapping[str, Any]]) -> tuple[Paths, list[int]]:
    """What some answers say about the tree that most of their steps used.

    Args:
      rows: with the fields `tree` and `accepted` of `Generation`, for fixed trees; those that ended
        before their first step do not count.

    Returns:
      Its paths, and how many steps accepted the root and each of them.
    """
    sums: dict[str, list[int]] = {}
    for row in rows:
        if not row["accepted"]:
            continue
        name = json.dumps(row["tree"])
        before = sums.get(name, [0] * len(row["accepted"]))
        sums[name] = [*map(operator.add, before, row["accepted"])]
    sums = sums or {"[]": [0]}
    name = max(sums, key=lambda name: sum(sums[name][:1]))
    return json.loads(name), sums[name]


def _rows(tree: Tree) -> list[int]:
    """The line of each node: its first child's; a leaf has one of its own."""
    children: list[list[int]] = [[] for _ in range(tree.R)]
    for node in range(1, tree.R):
        children[int(tree.parent_R[node])].append(node)  # in the order of ranks
    rows, free = [0] * tree.R, 0
    waiting = [0]
    while waiting:
        node = waiting.pop()
        waiting += reversed(children[node])
        rows[node] = free
        free += not children[node]
    return rows


def _thickness(tree: Tree, expected: _Numbers, counts: _Numbers) -> list[float]:
    """How thick each node's edge is, by the share of steps that accept the node."""
    if counts is not None:
        shares = [count / max(counts[0], 1) for count in counts]
    else:
        shares = [0.1] * tree.R if expected is None else expected
    # A square root lets rare ones differ visibly too.
    return [_THINNEST + (_THICKEST - _THINNEST) * share**0.5 for share in shares]


def _label(rank: int, node: int, expected: _Numbers, counts: _Numbers) -> str:
    words = [str(rank)]
    if expected is not None:
        words.append(f"{100 * expected[node]:.1f}%")
    if counts is not None:
        words.append(f"{counts[node]}x")
    return " · ".join(words)


def _captions(tree: Tree, expected: _Numbers, counts: _Numbers) -> list[str]:
    lines = [f"{tree.R} nodes; on each edge the rank of the guess that it leads to"]
    if expected is not None:
        lines.append(f"%: expected acceptance, {sum(expected):.2f} tokens per step")
    if counts is not None:
        lines.append(f"x: steps that accepted it, of {counts[0]}")
    return lines


def _place(tree: Tree, node: int, rows: Sequence[int]) -> tuple[float, float]:
    return _MARGIN + _COLUMN * int(tree.depth_R[node]), _MARGIN + _ROW * (rows[node] + 0.5)


def _edge(tree: Tree, node: int, rows: Sequence[int], thickness: float) -> str:
    x, y = _place(tree, node, rows)
    parent_x, parent_y = _place(tree, int(tree.parent_R[node]), rows)
    bend = f"C {parent_x + 22} {parent_y} {parent_x + 6} {y} {parent_x + 28} {y}"
    return (
        f'<path class="edge" d="M {parent_x} {parent_y} {bend} H {x}" fill="none" '
        f'stroke="{_EDGE}" stroke-width="{thickness:.2f}"/>'
    )


def _node(path: str, x: float, y: float, label: str) -> str:
    """A dot, its label over the edge that leads to it, and its path for whoever points at it."""
    return (
        f'<g class="node"><title>{path}</title><circle cx="{x}" cy="{y}" r="4" fill="{_NODE}"/>'
        f'<text x="{x - 7}" y="{y - 4.5}" text-anchor="end" fill="{_TEXT}">{label}</text></g>'
    )
