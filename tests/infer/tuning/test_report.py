"""The numbers that `infer.tune` prints, and the dtype that follows from them, by hand."""

import numpy as np
import pytest

from infer.tuning.report import _rows, fastest
from medusa_jax.config import MedusaConfig
from medusa_jax.tree.rates import Rates
from medusa_jax.tuning.measured import Acceptance, Measured
from medusa_jax.tuning.prospect import prospect
from medusa_jax.tuning.times import Point, StepTimes
from tests.medusa_jax.tiny import tiny_lm

HALF = Acceptance({0.0: Rates(np.full((1, 1, 1), 0.5))})


def test_rows_of_four_are_counted_together():
    times = StepTimes((Point(4, 1, 256, 0.010), Point(4, 2, 256, 0.012)))
    heads = MedusaConfig(num_heads=1, hidden_size=8, vocab_size=100)
    options = {"platform": "cpu", "dtype": "float32", "temperature": 0.0, "batch": 4}
    own = prospect(heads, Measured(HALF, {"float32": times}), **options)
    names = ("nodes", "tokens_per_step", "step_ms", "tokens_per_second", "speedup_vs_plain")
    plain, tree = rows = _rows(own, "float32", 4, [1, 2])
    assert [plain[name] for name in names] == pytest.approx([1, 1.0, 10.0, 400.0, 1.0])
    assert [tree[name] for name in names] == pytest.approx([2, 1.5, 12.0, 500.0, 1.25])
    assert [(row["dtype"], row["batch"], row["chosen"]) for row in rows] == [
        ("float32", 4, False),
        ("float32", 4, True),
    ]


@pytest.mark.parametrize(("gain", "dtype"), [(1.04, "float32"), (1.06, "bfloat16")])
def test_bfloat16_has_to_gain_five_per_cent(gain, dtype):
    seconds = {"float32": 1.0, "bfloat16": 1 / gain}
    times = {name: StepTimes((Point(1, 1, 256, x),)) for name, x in seconds.items()}
    assert fastest(tiny_lm(), Measured(HALF, times)) == dtype
