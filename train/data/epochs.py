"""How many steps an epoch takes: one pass over the training data as a run reads them, packed."""

import dataclasses

import numpy as np

from medusa_jax.errors import UserError
from train.data.packing import count_rows
from train.data.pipeline import Documents
from train.settings import Settings
from train.settings_checks import LARGEST, check_profile


def steps_per_epoch(settings: Settings, documents: Documents) -> float:
    """Batches that one pass over the documents fills; known before anything expensive is done.

    For packed sequences: rows / batch_size (with the documents in a random order, as in training;
    another order gives about as many). For cached hidden states: positions that have a label, the
    base head's included, / (batch_size * seq_len).

    Raises:
      UserError: there are no such rows or positions.
    """
    if settings.hidden_states == "cached":
        count = _num_positions(documents, settings.num_heads)
        per_step = settings.batch_size * settings.seq_len
    else:
        length_C = np.random.default_rng(settings.seed).permutation(documents.length_C)
        count, per_step = count_rows(length_C, settings.seq_len), settings.batch_size
    if count == 0:
        raise UserError(f"{settings.data} has no reply: there is nothing to learn")
    return count / per_step


def _num_positions(documents: Documents, num_heads: int) -> int:
    """Positions t for which some token at t + 1 ... t + M + 1 is a label."""
    total = 0
    for i in range(len(documents)):
        is_label_T = np.append(documents[i]["is_label"], np.zeros(num_heads + 1, bool))
        ahead = np.lib.stride_tricks.sliding_window_view(is_label_T[1:], num_heads + 1)
        total += np.count_nonzero(ahead.any(axis=-1))
    return int(total)


def with_steps(settings: Settings, per_epoch: float) -> Settings:
    """The settings with a known number of steps, worked out from `config.epochs` where that is set.

    Args:
      settings: with either steps or epochs.
      per_epoch: from `steps_per_epoch`.

    Raises:
      UserError: there are more steps than can be counted, or `config.profile` names later ones.
    """
    if settings.epochs is None:
        return settings
    steps = max(1, round(settings.epochs * per_epoch))
    if steps > LARGEST:
        raise UserError(f"config.epochs is {settings.epochs:g}: that is more than {LARGEST} steps")
    check_profile(settings.profile, steps)
    return dataclasses.replace(settings, steps=steps)


def describe_length(settings: Settings, per_epoch: float) -> str:
    """How long a run is, in steps and in epochs; a second line if the warm-up takes all of it.

    Args:
      settings: from `with_steps`.
      per_epoch: from `steps_per_epoch`.
    """
    is_cached = settings.hidden_states == "cached"
    kind = "hidden states" if is_cached else f"{settings.seq_len:,} tokens"
    count = settings.batch_size * (settings.seq_len if is_cached else 1)
    unit = (
        f"{count:,} {kind}" if is_cached else f"{count:,} {_plural('packed row', count)} of {kind}"
    )
    steps = f"{settings.num_steps:,} {_plural('step', settings.num_steps)}"
    if settings.epochs is None:
        epochs = settings.num_steps / per_epoch
        number = f"{epochs:.2g}" if epochs < 100 else f"{epochs:,.0f}"
        line = f"{steps} of {unit} = {number} {_plural('epoch', epochs)} of the training data"
    else:
        line = f"{settings.epochs:g} {_plural('epoch', settings.epochs)} = {steps} of {unit}"
    if settings.warmup_steps < settings.num_steps:
        return line
    return (
        f"{line}\nthe learning rate never reaches its peak: config.warmup_steps is "
        f"{settings.warmup_steps}, for a run of {steps}"
    )


def _plural(noun: str, count: float) -> str:
    return noun if count == 1 else f"{noun}s"
