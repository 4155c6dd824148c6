"""Checkpoints of small states, and what is left of them on disk."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from medusa_jax.errors import UserError
from train.checkpoints import Checkpoints

FINGERPRINT = {"model": "tiny", "num_heads": 4, "lora": {"rank": 8}, "seeds": [1, 2]}


def make(
    workdir: Path | str,
    *,
    save_every: int = 1,
    keep: int = 3,
    fingerprint: Mapping[str, Any] = FINGERPRINT,
) -> Checkpoints:
    return Checkpoints(workdir, save_every=save_every, keep=keep, fingerprint=fingerprint)


def assert_same(left: Any, right: Any) -> None:
    """Equal, bit for bit, in structure, dtypes and values."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def steps_on_disk(workdir: Path) -> list[int]:
    return sorted(int(folder.name) for folder in (workdir / "checkpoints").iterdir())


def refused(call: Callable[[], Any]) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)
