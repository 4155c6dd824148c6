"""The published formats of Medusa heads: which software writes them, and how they name tensors.

With h the head, l one of its L residual blocks, and all matrices (out, in):

  A     "{h}.{l}.linear.weight|bias" and the head's own projection "{h}.{L}.weight" (the original
        code, TGI, TensorRT-LLM).
  B     A's names after "medusa_head." (or "medusa_heads.") among those of a full model.
  C     A without projections; the heads share the LM head (TGI: one block). Extension: "token_map"
        beside them, int32 [Vd], restricts the heads to those Vd rows of the LM head.
  vllm  "blocks.{h}.layers.{l}.weight|bias" and "lm_heads.{h}.weight", optionally after
        "medusa_heads."; optionally "token_map", int [Vd].

Our extension of A and C: heads that see more than the hidden state (`MedusaConfig.conditioning`)
add "{h}.root.weight" (root, markov, gated_markov), "markov.in.weight", "markov.out.weight" and, if
gated, "markov.gate.weight"; and, of C alone, "{h}.branch.{j}.weight" (branch: of the j-th token,
j <= h), "cell.token.weight|bias", "cell.state.weight" and "cell.out.weight" (recurrent, whose
blocks' matrices are those of head 0 alone).

The names themselves are in the records of `medusa_jax.nn.params.heads_params`.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from medusa_jax.config import MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.nn.params import Param, all_heads_params, by_path, heads_params

HeadsFormat = Literal["A", "C", "vllm"]
# Format B is no file of heads: its tensors lie among those of a model (see `model_export`).
ExportFormat = Literal["A", "B", "C", "vllm"]

# Full models name their heads medusa_head (the original) or medusa_heads (Model-Optimizer);
# vLLM drops the latter from its own files as well.
MODEL_PREFIXES = ("medusa_head.", "medusa_heads.")
_PREFIX = re.compile(r"medusa_heads?\.")
_CANDIDATE = re.compile(r"\d+\.|blocks\.|lm_heads\.|cell\.|markov\.|token_map$")

ParamPath = tuple[str, ...]
BLOCK, BIAS = ("blocks", "weight"), ("blocks", "bias")
ROOT, PROJECTION = ("root", "weight"), ("projection", "weight")
BRANCH, MARKOV_OUT = ("branch", "weight"), ("markov_out", "weight")
# Each is there once, with all the others of its line or not at all.
_ONCE = (
    (
        ("cell_token", "weight"),
        ("cell_token", "bias"),
        ("cell_state", "weight"),
        ("cell_out", "weight"),
    ),
    (("markov_in", "weight"), MARKOV_OUT),
)


def head_records(config: MedusaConfig) -> dict[ParamPath, Param]:
    """Records of the heads' parameters by path, e.g. ("blocks", "weight")."""
    return by_path(heads_params(config))


def tensor_name(record: Param, index: tuple[int, ...], config: MedusaConfig, format: str) -> str:
    """What a format calls one slice of a stacked parameter.

    Args:
      record: of the parameter.
      index: of the slice: head and, for blocks, layer; the number of the pair of head and token;
        nothing where all heads share it.
      config: of the heads.
      format: an `ExportFormat`; the prefix of B is left out.
    """
    if record.axes[0] == "pair":
        index = _pairs(config.num_heads)[index[0]]
    head, layer = (*index, *(0, config.num_layers)[len(index) :])
    template = record.names["vllm" if format == "vllm" else "medusa"]
    return template.format(head=head, layer=layer)


def _pairs(num_heads: int) -> list[tuple[int, int]]:
    """Head and token of all matrices of "branch" heads, in the order of `heads_params`."""
    return [(head, token) for head in range(num_heads) for token in range(head + 1)]


def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for field in ("head", "layer"):
        pattern = pattern.replace(re.escape(f"{{{field}}}"), rf"(?P<{field}>\d+)")
    return re.compile(pattern)


_PATTERNS = [
    (path, _pattern(template))
    for records in all_heads_params()
    for path, record in by_path(records).items()
    for template in record.names.values()
]


@dataclass(frozen=True)
class HeadKeys:
    """Names of the tensors of complete heads.

    Attributes:
      num_heads: M.
      num_layers: L.
      names: by the path of the stacked parameter and the index of its slice, as in `tensor_name`.
        Biases may be absent, in some layers or in all; projections are absent if the heads share
        the LM head, and what conditioning needs is absent without it.
      token_map: name of the draft vocabulary, if any.
    """

    num_heads: int
    num_layers: int
    names: dict[ParamPath, dict[tuple[int, ...], str]]
    token_map: str | None


def is_head_key(key: str) -> bool:
    """Whether a tensor is meant to belong to heads, whether or not `parse_keys` knows its name.

    Args:
      key: name of the tensor in its file.
    """
    return key.startswith(MODEL_PREFIXES) or _CANDIDATE.match(key) is not None


def parse_keys(tensors: Collection[str], *, one_projection: bool) -> HeadKeys:
    """Counts heads and layers from tensor names and checks that none is missing.

    Args:
      tensors: names of those that `open_heads` found.
      one_projection: all heads share the projection of head 0 (vLLM's `original_lm_head`).

    Raises:
      UserError: a name that belongs to no known format, or incomplete heads.
    """
    names: dict[ParamPath, dict[tuple[int, ...], str]] = {path: {} for path, _ in _PATTERNS}
    token_map, depths = None, [0]
    for name in tensors:
        local = _PREFIX.sub("", name, count=1)
        if local == "token_map":
            token_map = name
            continue
        path, found = _parse(name, local)
        head, layer = int(found.get("head", 0)), int(found.get("layer", 0))
        is_block = path in (BLOCK, BIAS)
        index = (head, layer) if is_block else (head,) if "head" in found else ()
        names[path][(head * (head + 1) // 2 + layer,) if path == BRANCH else index] = name
        if is_block or path == PROJECTION:  # A's projections count as layer L
            depths.append(layer + is_block)
    heads = {head for path in (BLOCK, BIAS, PROJECTION) for head, *_ in names[path]}
    if not heads:
        raise UserError("there is a token_map and nothing else")
    num_heads, num_layers = max(heads) + 1, max(depths)
    if one_projection and (0,) in names[PROJECTION]:
        shared = names[PROJECTION][0,]
        names[PROJECTION] = {(head,): shared for head in range(num_heads)}
    keys = HeadKeys(num_heads, num_layers, names, token_map)
    if gap := _first_gap(keys, heads):
        raise UserError(f"{gap} is missing: the file is incomplete, download it again")
    return keys


def _parse(name: str, local: str) -> tuple[ParamPath, dict[str, str]]:
    """Path of a tensor, and the numbers in its name: "head", "layer"."""
    for path, pattern in _PATTERNS:
        if match := pattern.fullmatch(local):
            return path, match.groupdict()
    raise UserError(f"tensor {name} fits none of the formats A, B, C and vLLM")


def _first_gap(keys: HeadKeys, heads: set[int]) -> str | None:
    """What is missing: files cut short and heads of unequal depth end here."""
    for paths in _ONCE:
        there = [path for path in paths if keys.names[path]]
        if there and len(there) < len(paths):
            return " ".join(next(path for path in paths if path not in there))
    one_block = bool(keys.names[_ONCE[0][0]])
    for head in range(keys.num_heads):
        if head not in heads:
            return f"head {head} of heads 0 to {keys.num_heads - 1}"
        for layer in range(keys.num_layers):
            if (0 if one_block else head, layer) not in keys.names[BLOCK]:
                return f"the weight of block {layer} of head {head}"
        if keys.names[PROJECTION] and (head,) not in keys.names[PROJECTION]:
            return f"the projection of head {head}"
        needs_root = keys.names[ROOT] or keys.names[MARKOV_OUT]
        if needs_root and (head,) not in keys.names[ROOT]:
            return f"the root matrix of head {head}"
    for pair, (head, token) in enumerate(_pairs(keys.num_heads)):
        if keys.names[BRANCH] and (pair,) not in keys.names[BRANCH]:
            return f"the matrix of token {token} of head {head}"
    return None
