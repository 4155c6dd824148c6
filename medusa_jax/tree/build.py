"""Token trees: a list of paths becomes the static buffers of tree attention and verification.

A path `[i1, ..., id]` is the node reached by the i1-th ranked token of head 1, then the i2-th of
head 2, and so on (ranks from 0). The root, the base model's own next token, is implicit.
Source: Medusa (arXiv 2401.10774), sections 2.1.2 and 2.3.3.
"""

import dataclasses
import difflib
import functools
import importlib.resources
import json
import os
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from medusa_jax.errors import UserError

_MAX_RANK = 2**31 - 2  # rank + 1 must fit in int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Tree:
    """Buffers of one token tree of R nodes and P root-to-leaf paths.

    Node 0 is the root, node n the n-th path in order of (length, ranks). The arrays are numpy on
    the host and are passed to jitted functions as arguments.

    Attributes:
      mask_RR: bool; row r attends to column c: c is r itself or one of its ancestors.
      depth_R: int32; distance from the root. Head `depth` proposes the node's token.
      rank_R: int32; which of that head's ranked tokens the node holds (root: 0).
      parent_R: int32; (root: 0).
      paths_PD: int32 [P, max_depth + 1]; nodes from root to leaf, padded with -1.
      max_depth: number of heads that the tree needs.
      top_k: number of ranked tokens that it needs from each head, at least 1.
    """

    mask_RR: np.ndarray
    depth_R: np.ndarray
    rank_R: np.ndarray
    parent_R: np.ndarray
    paths_PD: np.ndarray
    max_depth: int = dataclasses.field(metadata={"static": True})
    top_k: int = dataclasses.field(metadata={"static": True})

    @property
    def R(self) -> int:
        """Number of nodes, root included."""
        return self.mask_RR.shape[0]

    @property
    def P(self) -> int:
        """Number of root-to-leaf paths."""
        return self.paths_PD.shape[0]


def build_tree(paths: Sequence[Sequence[int]]) -> Tree:
    """Turns a list of paths, in any order, into the buffers of a tree.

    Args:
      paths: prefix-closed list of paths; empty for the root alone (autoregressive decoding).

    Returns:
      The tree, R = len(paths) + 1.

    Raises:
      UserError: a path is empty, repeated, not made of ranks >= 0, or its parent is missing.
    """
    nodes = [(), *_checked(paths)]
    index = {path: n for n, path in enumerate(nodes)}
    parent_R = np.array([index[path[:-1]] for path in nodes], np.int32)
    depth_R = np.array([len(path) for path in nodes], np.int32)
    rank_R = np.array([path[-1] if path else 0 for path in nodes], np.int32)
    mask_RR = np.eye(len(nodes), dtype=bool)
    for n in range(1, len(nodes)):  # parents come first, so their rows are complete
        mask_RR[n] |= mask_RR[parent_R[n]]
    return Tree(
        mask_RR=mask_RR,
        depth_R=depth_R,
        rank_R=rank_R,
        parent_R=parent_R,
        paths_PD=_leaf_paths(mask_RR, parent_R, int(depth_R.max())),
        max_depth=int(depth_R.max()),
        top_k=int(rank_R.max()) + 1,
    )


def preset_names() -> tuple[str, ...]:
    """Names of the trees in the package: the published ones, and that of the shipped heads."""
    return tuple(_presets())


def load_tree(spec: str, num_heads: int | None = None) -> Tree:
    """Loads a tree from what a user wrote.

    Args:
      spec: one of
        a preset's name, see `preset_names`;
        `NAME:N`, the N nodes (root included) of a preset that its greedy search added first;
        `chain:K`, the best token of each of K heads (`chain:0` is the root alone);
        a JSON file, either a list of paths or an object with that list under "paths".
      num_heads: heads of the model, to refuse a deeper tree; None: no limit.

    Returns:
      The tree.

    Raises:
      UserError: unknown name, unreadable or malformed file, invalid or too deep tree.
    """
    paths = _read_spec(spec)
    try:
        tree = build_tree(paths)
    except UserError as error:
        raise UserError(f"tree {spec}: {error}") from None
    if num_heads is not None and tree.max_depth > num_heads:
        raise UserError(
            f"tree {spec} needs {tree.max_depth} heads, the model has {num_heads}: "
            f"choose a tree of depth {num_heads} or less, for example chain:{num_heads}"
        )
    return tree


def _checked(paths: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """The valid paths in node order."""
    seen: set[tuple[int, ...]] = set()
    for number, path in enumerate(paths, start=1):
        ranks = _checked_path(number, path)
        if ranks in seen:
            raise UserError(f"path {number}, {list(ranks)}, is listed twice: remove one")
        seen.add(ranks)
    ordered = sorted(seen, key=lambda ranks: (len(ranks), ranks))
    for ranks in ordered:
        if len(ranks) > 1 and ranks[:-1] not in seen:
            raise UserError(f"path {list(ranks)} has no parent: add {list(ranks[:-1])} to the list")
    return ordered


def _checked_path(number: int, path: Sequence[int]) -> tuple[int, ...]:
    is_list = isinstance(path, Sequence) and not isinstance(path, str | bytes)
    if not is_list or not path or not all(_is_rank(rank) for rank in path):
        raise UserError(
            f"path {number} is {reprlib.repr(path)}: "
            "write a list of one or more ranks (whole numbers from 0), such as [0, 2]"
        )
    return tuple(int(rank) for rank in path)


def _is_rank(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    return 0 <= int(value) <= _MAX_RANK


def _leaf_paths(mask_RR: np.ndarray, parent_R: np.ndarray, max_depth: int) -> np.ndarray:
    """Rows of `Tree.paths_PD`, last leaf first.

    Ancestors precede their descendants in node order, so the ancestors of a leaf in ascending
    order are its path.
    """
    inner = set(parent_R[1:].tolist())
    leaves = [n for n in reversed(range(len(parent_R))) if n not in inner]
    paths_PD = np.full((len(leaves), max_depth + 1), -1, np.int32)
    for row_D, leaf in zip(paths_PD, leaves, strict=True):
        path = np.flatnonzero(mask_RR[leaf])
        row_D[: len(path)] = path
    return paths_PD


@functools.cache
def _presets() -> dict[str, list[list[int]]]:
    source = importlib.resources.files("medusa_jax").joinpath("data/trees.json")
    return json.loads(source.read_text(encoding="utf-8"))


def _read_spec(spec: str) -> list[list[int]]:
    name, colon, number = spec.partition(":")
    if spec in _presets():
        return _presets()[spec]
    if name == "chain":
        depth = _count(spec, number, "K", 0, 999)
        return [[0] * length for length in range(1, depth + 1)]
    if colon and name in _presets():
        paths = _presets()[name]
        return paths[: _count(spec, number, "N", 1, len(paths) + 1) - 1]
    if spec.endswith(".json") or os.path.isfile(spec):
        return _read_file(spec)
    guess = difflib.get_close_matches(name, [*preset_names(), "chain"], n=1)
    hint = f", did you mean {guess[0]}?" if guess else ";"
    raise UserError(
        f"unknown tree {spec!r}{hint} choose {', '.join(preset_names())}, one of them with :N "
        "for its first N nodes, chain:K, or a JSON file"
    )


def _count(spec: str, text: str, letter: str, low: int, high: int) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or not low <= int(text) <= high:
        name = spec.partition(":")[0]
        raise UserError(
            f"tree {spec}: {letter} in {name}:{letter} is a whole number from {low} to {high}"
        )
    return int(text)


def _read_file(spec: str) -> list[list[int]]:
    try:
        content = json.loads(Path(spec).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"tree {spec}: cannot read the file ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"tree {spec}: not valid JSON, line {error.lineno} column {error.colno}: {error.msg}"
        ) from None
    except (ValueError, RecursionError) as error:  # not UTF-8, a number or a nesting without end
        raise UserError(f"tree {spec}: not a JSON list of paths ({error})") from None
    paths = content.get("paths") if isinstance(content, dict) else content
    if not isinstance(paths, list):
        raise UserError(
            f'tree {spec}: write a list of paths such as [[0], [0, 0]], or {{"paths": [...]}}'
        )
    return paths
