"""Trees by name: the published ones, their beginnings, chains, and files of a user's own."""

import difflib
import functools
import importlib.resources
import json
import os
import re
import reprlib

from medusa_jax.errors import UserError
from medusa_jax.paths import user_path
from medusa_jax.tree.build import Tree, build_tree
from medusa_jax.tree.dynamic import AnyTree, DynamicTree

_MOST_DYNAMIC = 512  # nodes; their pairs are compared at every step


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
      UserError: unknown name, unreadable or malformed file, invalid or too deep tree; or a tree
        whose nodes are chosen only while decoding (see `load_any_tree`).
    """
    if _is_dynamic(spec):
        raise UserError(f"tree {spec} is chosen at every step of decoding: name a fixed one here")
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


def load_any_tree(spec: str | os.PathLike[str], num_heads: int | None = None) -> AnyTree:
    """Loads what decoding may propose: a tree of `load_tree`, or one chosen anew at every step.

    Args:
      spec: see `load_tree`; also `dynamic:N`, at every step the N nodes (root included) that the
        heads believe in most. `dynamic:1` is the root alone.
      num_heads: see `load_tree`.

    Raises:
      UserError: see `load_tree`.
    """
    if not isinstance(spec, str | os.PathLike):
        raise UserError(
            f"a tree is {reprlib.repr(spec)}: give its name, a JSON file, or what "
            "medusa_jax.tree.build.build_tree makes of a list of paths"
        )
    spec = os.fspath(spec)
    if not _is_dynamic(spec):
        return load_tree(spec, num_heads)
    num_nodes = _count(spec, spec.partition(":")[2], "N", 1, _MOST_DYNAMIC)
    return DynamicTree(num_nodes) if num_nodes > 1 else build_tree([])


def load_fitting_tree(spec: str, num_heads: int, num_tokens: int = 2**31) -> Tree:
    """The part of a tree that some heads can fill.

    Args:
      spec: see `load_tree`.
      num_heads: heads of the model; deeper nodes are left out.
      num_tokens: how many each head can propose; nodes of higher ranks are left out.
    """
    paths = load_tree(spec).paths()
    fits = [path for path in paths if len(path) <= num_heads and max(path) < num_tokens]
    return build_tree(fits)


def _is_dynamic(spec: str) -> bool:
    return spec.partition(":")[0] == "dynamic"


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
    guess = difflib.get_close_matches(name, [*preset_names(), "chain", "dynamic"], n=1)
    hint = f", did you mean {guess[0]}?" if guess else ";"
    raise UserError(
        f"unknown tree {spec!r}{hint} choose {', '.join(preset_names())}, one of them with :N "
        "for its first N nodes, chain:K, dynamic:N, or a JSON file"
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
        content = json.loads(user_path(spec).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"tree {spec}: cannot read the file ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"tree {spec}: not valid JSON, line {error.lineno} column {error.colno}: {error.msg}"
        ) from None
    except (ValueError, RecursionError) as error:  # not UTF-8, an endless number or nesting
        raise UserError(f"tree {spec}: not a JSON list of paths ({error})") from None
    paths = content.get("paths") if isinstance(content, dict) else content
    if not isinstance(paths, list):
        raise UserError(
            f'tree {spec}: write a list of paths such as [[0], [0, 0]], or {{"paths": [...]}}'
        )
    return paths
