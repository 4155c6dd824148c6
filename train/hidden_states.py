"""Hidden states of a frozen backbone, computed once and kept on disk for every epoch."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from rich.progress import track

from medusa_jax import MedusaLM
from medusa_jax.losses import IGNORE, shift_labels
from medusa_jax.nn.llama import Llama, causal_mask
from train.chat import Example

_WIDTH_STEP = 64
_TOKENS_PER_SHARD = 8192


@dataclasses.dataclass(frozen=True)
class HiddenStates:
    """Positions with at least one label.

    Attributes:
      hidden_ND: float16, inputs of the heads.
      next_N: int32, the token after each position (what the base head predicts there).
      labels_NM: int32 vocabulary ids, or IGNORE.
    """

    hidden_ND: np.ndarray
    next_N: np.ndarray
    labels_NM: np.ndarray

    def batch(self, index: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The three arrays at some positions."""
        return self.hidden_ND[index], self.next_N[index], self.labels_NM[index]


def compute(
    lm: MedusaLM, examples: Sequence[Example], num_heads: int, folder: Path, name: str
) -> HiddenStates:
    """Runs the backbone over the examples; shards already in the folder are read instead.

    Args:
      lm: the frozen model.
      examples: tokenized conversations.
      num_heads: M, heads to make labels for.
      folder: where shards are kept, under a name that depends on model and examples.
      name: shown beside the progress bar.
    """
    target = epath.Path(folder) / f"{name}_{_fingerprint(lm, examples, num_heads)}"
    target.mkdir(parents=True, exist_ok=True)
    forward = jax.jit(_forward, static_argnums=0)
    llama = Llama(lm.config, jnp.dtype(lm.dtype))
    shards = list(_shards(examples))
    parts = []
    for i, shard in enumerate(track(shards, f"hidden states ({name})")):
        path = target / f"{i:05d}.npz"
        if not path.exists():
            _write(path, _run(forward, llama, lm, [examples[j] for j in shard], num_heads))
        with path.open("rb") as file, np.load(file) as part:
            parts.append((part["hidden"], part["next"], part["labels"]))
    return HiddenStates(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _fingerprint(lm: MedusaLM, examples: Sequence[Example], num_heads: int) -> str:
    digest = hashlib.sha256(repr((lm.config, lm.dtype, num_heads)).encode())
    digest.update(np.asarray(lm.params["final_norm"]["scale"], np.float32).tobytes())
    for example in examples:
        digest.update(example.token_T.tobytes() + example.is_label_T.tobytes())
    return digest.hexdigest()[:12]


def _shards(examples: Sequence[Example]) -> Iterator[list[int]]:
    """Groups of examples of like length, about `_TOKENS_PER_SHARD` padded tokens each."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].token_T))
    shard: list[int] = []
    for i in order:
        if shard and (len(shard) + 1) * _width([examples[i]]) > _TOKENS_PER_SHARD:
            yield shard
            shard = []
        shard.append(i)
    if shard:
        yield shard


def _width(examples: Sequence[Example]) -> int:
    longest = max(len(example.token_T) for example in examples)
    return -(-longest // _WIDTH_STEP) * _WIDTH_STEP


def _forward(llama: Llama, params, token_BT: jax.Array) -> jax.Array:
    B, T = token_BT.shape
    position_BT = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
    hidden_BTD, _ = llama.apply({"params": params}, token_BT, position_BT, causal_mask(T))
    return hidden_BTD.astype(jnp.float16)


def _run(forward, llama: Llama, lm: MedusaLM, examples: Sequence[Example], num_heads: int):
    width = _width(examples)
    # A full shard has one shape per width, so that few programs are compiled.
    token_BT = np.zeros((max(_TOKENS_PER_SHARD // width, 1), width), np.int32)
    labels_BTM = np.full((*token_BT.shape, num_heads), IGNORE, np.int32)
    for row, example in enumerate(examples):
        length = len(example.token_T)
        token_BT[row, :length] = example.token_T
        labels_BTM[row, :length] = shift_labels(example.token_T, example.is_label_T, num_heads)
    hidden_BTD = np.asarray(forward(llama, lm.params, token_BT))
    used_BT = (labels_BTM != IGNORE).any(axis=-1)
    next_BT = np.roll(token_BT, -1, axis=1)  # a used position is never the last of its row
    return hidden_BTD[used_BT], next_BT[used_BT], labels_BTM[used_BT]


def _write(path: epath.Path, arrays: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    half_done = path.with_suffix(".partial")
    with half_done.open("wb") as file:
        np.savez(file, hidden=arrays[0], next=arrays[1], labels=arrays[2])
    half_done.replace(path)
