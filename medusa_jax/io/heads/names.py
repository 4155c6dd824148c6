"""How every published format names the tensors of Medusa heads (see `medusa_jax.io.heads.load`)."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from medusa_jax.errors import UserError

# Full models name their heads medusa_head (the original) or medusa_heads (Model-Optimizer);
# vLLM drops the latter from its own files as well.
MODEL_PREFIXES = ("medusa_head.", "medusa_heads.")
_PREFIX = re.compile(r"medusa_heads?\.")
_CANDIDATE = re.compile(r"\d+\.|blocks\.|lm_heads\.|token_map$")
_BLOCKS = (
    re.compile(r"(?P<head>\d+)\.(?P<layer>\d+)\.linear\.(?P<part>weight|bias)"),
    re.compile(r"blocks\.(?P<head>\d+)\.layers\.(?P<layer>\d+)\.(?P<part>weight|bias)"),
)
_ROOT = re.compile(r"(?P<head>\d+)\.root\.weight")
_PROJECTIONS = (
    re.compile(r"(?P<head>\d+)\.(?P<layer>\d+)\.weight"),
    re.compile(r"lm_heads\.(?P<head>\d+)\.weight"),
)


@dataclass(frozen=True)
class HeadKeys:
    """Names of the tensors of complete heads.

    Attributes:
      num_heads: M.
      num_layers: L.
      blocks: (head, layer, "weight" or "bias") to name; biases may be absent.
      projections: head to name; empty when the heads share the LM head.
      token_map: name of the draft vocabulary, if any.
      roots: head to name of its matrix for the root's embedding; empty without such matrices.
    """

    num_heads: int
    num_layers: int
    blocks: dict[tuple[int, int, str], str]
    projections: dict[int, str]
    token_map: str | None
    roots: dict[int, str]


def is_head_key(key: str) -> bool:
    """Whether a tensor is meant to belong to heads, be its name one that `parse_keys` knows or not.

    Args:
      key: name of the tensor in its file.
    """
    return key.startswith(MODEL_PREFIXES) or _CANDIDATE.match(key) is not None


def parse_keys(names: Collection[str], *, one_projection: bool) -> HeadKeys:
    """Counts heads and layers from tensor names and checks that none is missing.

    Args:
      names: of the tensors that `open_heads` found.
      one_projection: the projection of head 0 is everybody's (vLLM's `original_lm_head`).

    Raises:
      UserError: a name that belongs to no known format, or incomplete heads.
    """
    blocks: dict[tuple[int, int, str], str] = {}
    projections: dict[int, str] = {}
    roots: dict[int, str] = {}
    token_map, depths = None, [0]
    for name in names:
        local = _PREFIX.sub("", name, count=1)
        if block := _match(_BLOCKS, local):
            head, layer = int(block["head"]), int(block["layer"])
            blocks[head, layer, block["part"]] = name
            depths.append(layer + 1)
        elif projection := _match(_PROJECTIONS, local):
            projections[int(projection["head"])] = name
            depths.append(int(projection.get("layer", 0)))
        elif root := _ROOT.fullmatch(local):
            roots[int(root["head"])] = name
        elif local == "token_map":
            token_map = name
        else:
            raise UserError(f"tensor {name} fits none of the formats A, B, C and vLLM")
    heads = {head for head, _, _ in blocks} | set(projections)
    if not heads:
        raise UserError("there is a token_map and nothing else")
    num_heads, num_layers = max(heads) + 1, max(depths)
    if one_projection and 0 in projections:
        projections = dict.fromkeys(range(num_heads), projections[0])
    keys = HeadKeys(num_heads, num_layers, blocks, projections, token_map, roots)
    if gap := _first_gap(keys, heads):
        raise UserError(f"{gap} is missing: the file is incomplete, download it again")
    return keys


def _first_gap(keys: HeadKeys, heads: set[int]) -> str | None:
    """What is missing: files cut short and heads of unequal depth end here."""
    for head in range(keys.num_heads):
        if head not in heads:
            return f"head {head} of heads 0 to {keys.num_heads - 1}"
        for layer in range(keys.num_layers):
            if (head, layer, "weight") not in keys.blocks:
                return f"the weight of block {layer} of head {head}"
        if keys.projections and head not in keys.projections:
            return f"the projection of head {head}"
        if keys.roots and head not in keys.roots:
            return f"the root matrix of head {head}"
    return None


def _match(patterns: Collection[re.Pattern[str]], name: str) -> Mapping[str, str] | None:
    for pattern in patterns:
        if match := pattern.fullmatch(name):
            return match.groupdict()
    return None
