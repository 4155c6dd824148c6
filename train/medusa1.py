"""The MEDUSA-1 recipe from data to exported heads (paper, section 2.2.1)."""

import dataclasses
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

import medusa_jax
from medusa_jax import MedusaLM
from medusa_jax.config import MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.default_model import DEFAULT_MODEL_NAME
from medusa_jax.io.heads_export import save_heads
from medusa_jax.losses import IGNORE
from medusa_jax.nn.heads import init_heads
from train import hidden_states, sharegpt
from train.chat import Example, tokenize
from train.hidden_states import HiddenStates
from train.trainer import Frozen, Run, TrainConfig

_HELD_OUT_SHARE = 0.02


def train(config: Any, workdir: Path) -> None:
    """Trains heads as configured and exports them to `workdir/export`.

    Raises:
      UserError: data that cannot be read or used, or a working folder of another run.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    lm = medusa_jax.load(config.model, "none", dtype="float32")
    examples: dict[bool, list[Example]] = {True: [], False: []}
    for row in track(list(sharegpt.read_rows(config.data)), "tokenize"):
        example = _example(lm, row, config.seq_len)
        if example is not None:
            examples[_is_held_out(row)].append(example)
    if not (examples[True] and examples[False]):
        raise UserError(f"{config.data} holds too few conversations with assistant turns")
    cache = workdir / "hidden_states"
    held_out = hidden_states.compute(lm, examples[True], config.num_heads, cache, "held-out")
    states = hidden_states.compute(lm, examples[False], config.num_heads, cache, "train")
    _train_and_export(config, lm, states, held_out, workdir)


def _train_and_export(
    config: Any, lm: MedusaLM, states: HiddenStates, held_out: HiddenStates, workdir: Path
) -> None:
    lm_head_VD = lm.params["embed" if lm.config.tie_embeddings else "lm_head"]["weight"]
    token_map = draft_vocabulary(states.labels_NM, config.draft_vocab)
    heads = MedusaConfig(
        num_heads=config.num_heads,
        num_layers=config.num_layers,
        hidden_size=lm.config.hidden_size,
        vocab_size=lm.config.vocab_size if token_map is None else len(token_map),
        draft_vocab=token_map is not None,
        root_conditioned=config.root_conditioned,
    )
    params = init_heads(heads, lm_head_VD, jnp.float32, token_map)
    params.pop("token_map", None)
    if token_map is not None:
        lm_head_VD = lm_head_VD[token_map]
        states, held_out = (
            _to_draft(data, token_map, lm.config.vocab_size) for data in (states, held_out)
        )
    frozen = Frozen(lm.params["embed"]["weight"], lm_head_VD)
    run = Run(_train_config(config), heads, frozen, workdir)
    print(f"training on {len(states.labels_NM)} positions, {len(held_out.labels_NM)} held out")
    params = run.train(run.restore(params), states, held_out)
    params = jax.tree.map(lambda x: x.astype(config.export_dtype), params)
    if token_map is not None:
        params = params | {"token_map": jnp.asarray(token_map)}
    save_heads(
        workdir / "export",
        heads,
        params,
        format="C",
        base_model=config.model or DEFAULT_MODEL_NAME,
        vocab_size=lm.config.vocab_size,
    )
    print(f"heads written to {workdir / 'export'}")


def _train_config(config: Any) -> TrainConfig:
    values: dict[str, Any] = config.to_dict()
    return TrainConfig(**{name: values[name] for name in TrainConfig.__dataclass_fields__})


def _example(lm: MedusaLM, row: dict[str, Any], max_length: int) -> Example | None:
    """A row as an example; None when there is nothing in it to learn."""
    messages = sharegpt.messages(row)
    if not any(message["role"] == "assistant" for message in messages):
        return None
    truncated = bool(row.get("truncated", False))
    example = tokenize(lm.tokenizer, messages, truncated=truncated, max_length=max_length)
    return example if example.is_label_T.any() else None


def _is_held_out(row: dict[str, Any]) -> bool:
    """Splits by conversation: the chunks BASE_0, BASE_1, ... of one stay together."""
    base = str(row.get("id", "")).rsplit("_", 1)[0]
    return hashlib.sha256(base.encode()).digest()[0] < 256 * _HELD_OUT_SHARE


def draft_vocabulary(labels_NM: np.ndarray, size: int) -> np.ndarray | None:
    """The `size` most frequent labels in ascending order (int32); None for size 0: all tokens."""
    if size == 0:
        return None
    counts = Counter(labels_NM[labels_NM != IGNORE].tolist())
    return np.sort(np.asarray([token for token, _ in counts.most_common(size)], np.int32))


def _to_draft(data: HiddenStates, token_map: np.ndarray, vocab_size: int) -> HiddenStates:
    """Renumbers labels into the draft vocabulary; the others are ignored."""
    draft_id = np.full((vocab_size,), IGNORE, np.int32)
    draft_id[token_map] = np.arange(len(token_map), dtype=np.int32)
    safe_NM = np.maximum(data.labels_NM, 0)
    labels_NM = np.where(data.labels_NM == IGNORE, IGNORE, draft_id[safe_NM])
    return dataclasses.replace(data, labels_NM=labels_NM.astype(np.int32))
