"""MEDUSA-1: trains heads on the cached hidden states of a frozen backbone."""

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medusa_jax.config import MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.losses import IGNORE, medusa1_loss
from medusa_jax.nn.heads import MedusaHeads
from train.hidden_states import HiddenStates


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of a run (jit static); see `configs/` for their meaning."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    head_decay: float
    log_every: int
    save_every: int
    seed: int


def optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW with clipped gradients, linear warm-up and cosine decay."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup_steps, max(config.steps, config.warmup_steps + 1)
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=config.weight_decay)
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Frozen:
    """What the heads read of the backbone.

    Attributes:
      embed_VD: token embeddings, [V, D].
      lm_head_VD: rows of the LM head that the heads share, [Vd, D].
    """

    embed_VD: jax.Array
    lm_head_VD: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2,))
def train_step(
    config: TrainConfig, heads: MedusaConfig, state: Any, frozen: Frozen, batch: Any
) -> tuple[Any, dict[str, jax.Array]]:
    """One update of {"params", "opt", "step"}; returns the new state and the metrics."""

    def objective(params):
        return _loss(config, heads, params, frozen, batch)

    (loss, metrics), grads = jax.value_and_grad(objective, has_aux=True)(state["params"])
    updates, opt = optimizer(config).update(grads, state["opt"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    metrics = metrics | {"total": loss, "grad_norm": optax.tree.norm(grads)}
    return {"params": params, "opt": opt, "step": state["step"] + 1}, metrics


@functools.partial(jax.jit, static_argnums=(0, 1))
def eval_step(config: TrainConfig, heads: MedusaConfig, params: Any, frozen: Frozen, batch: Any):
    """Metrics of one batch."""
    return _loss(config, heads, params, frozen, batch)[1]


def _loss(config: TrainConfig, heads: MedusaConfig, params: Any, frozen: Frozen, batch: Any):
    hidden_ND, next_N, labels_NM = batch
    root_ND = frozen.embed_VD[next_N] if heads.root_conditioned else None
    logits_NMV: Any = MedusaHeads(heads).apply(
        {"params": params}, hidden_ND.astype(jnp.float32), frozen.lm_head_VD, root_ND
    )
    return medusa1_loss(logits_NMV, labels_NM, config.head_decay)


def batch_indices(config: TrainConfig, num_positions: int, step: int) -> np.ndarray:
    """Positions of a step: every epoch is a new permutation, a function of seed and step alone."""
    per_epoch = max(num_positions // config.batch_size, 1)
    epoch, i = divmod(step, per_epoch)
    order = np.random.default_rng((config.seed, epoch)).permutation(num_positions)
    return np.sort(order[i * config.batch_size : (i + 1) * config.batch_size])


class Run:
    """A training run in a working folder: checkpoints, a log, and where to go on."""

    def __init__(self, config: TrainConfig, heads: MedusaConfig, frozen: Frozen, workdir: Path):
        self._config, self._heads, self._frozen = config, heads, frozen
        self._workdir = workdir.absolute()
        _claim(self._workdir, heads)
        options = ocp.CheckpointManagerOptions(max_to_keep=2, save_interval_steps=config.save_every)
        self._manager = ocp.CheckpointManager(self._workdir / "checkpoints", options=options)

    def restore(self, params: Any) -> Any:
        """State to go on from: the last checkpoint, or a fresh state around params."""
        params = jax.tree.map(jnp.copy, params)  # a step donates its state, not the caller's
        fresh = {
            "params": params,
            "opt": optimizer(self._config).init(params),
            "step": jnp.zeros((), jnp.int32),
        }
        if self._manager.latest_step() is None:
            return fresh
        return self._manager.restore(
            self._manager.latest_step(), args=ocp.args.StandardRestore(fresh)
        )

    def train(
        self, state: Any, train: HiddenStates, held_out: HiddenStates, until: int | None = None
    ) -> Any:
        """Trains to the last step, or to step `until` of the schedule; returns the parameters."""
        columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.description}")) as progress:
            first = int(state["step"])
            task = progress.add_task("", total=self._config.steps, completed=first)
            for step in range(first, until or self._config.steps):
                index = batch_indices(self._config, len(train.labels_NM), step)
                batch = train.batch(index)
                state, metrics = train_step(self._config, self._heads, state, self._frozen, batch)
                self._after_step(step + 1, state, metrics, held_out, progress, task)
        self._manager.wait_until_finished()
        return state["params"]

    def evaluate(self, params: Any, data: HiddenStates) -> dict[str, list[float]]:
        """Metrics per head over whole batches of the data, each label weighing the same."""
        sums: dict[str, np.ndarray] = {}
        counts = np.zeros(self._heads.num_heads)
        size = min(self._config.batch_size, len(data.labels_NM))
        for start in range(0, len(data.labels_NM) - size + 1, size):
            part = slice(start, start + size)
            batch = data.batch(part)
            metrics = eval_step(self._config, self._heads, params, self._frozen, batch)
            count = (batch[2] != IGNORE).sum(axis=0)
            counts += count
            for name, value in jax.device_get(metrics).items():
                sums[name] = sums.get(name, 0) + value * count
        return {name: [round(float(x), 4) for x in value / counts] for name, value in sums.items()}

    def _after_step(self, step: int, state, metrics, held_out, progress, task) -> None:
        config = self._config
        last = step == config.steps
        if step % config.log_every == 0 or last:
            row = _row(step, jax.device_get(metrics))
            if not math.isfinite(row["loss"]):
                raise UserError(
                    f"the loss is {row['loss']} at step {step}: lower the learning rate; the last "
                    f"good checkpoint is step {self._manager.latest_step()}"
                )
            if step % (config.log_every * 10) == 0 or last:
                row["held_out"] = self.evaluate(state["params"], held_out)
            self._log(row)
            progress.update(task, description=_summary(row))
        progress.update(task, completed=step)
        self._manager.save(step, args=ocp.args.StandardSave(state), force=last)

    def _log(self, row: dict[str, Any]) -> None:
        with open(self._workdir / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _claim(workdir: Path, heads: MedusaConfig) -> None:
    """Notes which heads the folder is of; refuses one that is of others."""
    workdir.mkdir(parents=True, exist_ok=True)
    note = workdir / "heads.json"
    if not note.exists():
        half_done = note.with_suffix(".partial")
        half_done.write_text(json.dumps(dataclasses.asdict(heads)), encoding="utf-8")
        half_done.replace(note)
    elif json.loads(note.read_text(encoding="utf-8")) != dataclasses.asdict(heads):
        raise UserError(
            f"{workdir} holds a run with other heads: choose another --workdir or delete it"
        )


def _row(step: int, metrics: dict[str, np.ndarray]) -> dict[str, Any]:
    per_head = {
        f"head_{name}": [round(float(x), 4) for x in metrics[name]]
        for name in ("loss", "top1", "top5")
    }
    scalars = {"loss": float(metrics["total"]), "grad_norm": float(metrics["grad_norm"])}
    return {"step": step, **scalars, **per_head}


def _summary(row: dict[str, Any]) -> str:
    losses = " ".join(f"{x:.2f}" for x in row["head_loss"])
    top1 = " ".join(f"{x:.2f}" for x in row["head_top1"])
    return f"loss of heads {losses} | top-1 {top1}"
