import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infer.bench import experiments
from infer.bench import random_models as shapes
from infer.bench.timing import copy_bandwidth, time_loop


@pytest.fixture(scope="module")
def lm():
    return shapes.random_lm("tiny", "float32", own_projection=False)


def test_experiments_answer_or_say_why_not(lm):
    answers = experiments.run_experiments(lm, 1, sizes=(3,))
    (row,) = answers["scanned_layers"]
    assert row["nodes"] == 3
    assert min(row["unrolled_ms"], row["scanned_ms"]) > 0
    assert row["max_difference"] < 1e-4
    if jax.default_backend() == "cpu":
        missing = {"error": "not available: needs a GPU"}
        assert answers["cudnn_attention"] == answers["pallas_attention"] == missing


def _dense(q_BRNH, k_BSKH, v_BSKH, length_B):
    """One query at a time in float64: output and log-sum-exp."""
    q, k, v = (np.asarray(x, np.float64) for x in (q_BRNH, k_BSKH, v_BSKH))
    group = q.shape[2] // k.shape[2]
    out, lse = np.zeros_like(q), np.zeros(q.shape[:-1])
    for b, r, n in np.ndindex(*lse.shape):
        keys = k[b, : int(length_B[b]), n // group]
        score = keys @ q[b, r, n] / np.sqrt(q.shape[-1])
        lse[b, r, n] = np.log(np.exp(score).sum())
        out[b, r, n] = np.exp(score - lse[b, r, n]) @ v[b, : len(keys), n // group]
    return out, lse


def test_xla_prefix_attention_equals_dense_attention(lm):
    inputs = experiments.attention_inputs(lm.config, jnp.dtype("float32"), 3, 256)
    for ours, expected in zip(experiments.xla_attention(*inputs), _dense(*inputs), strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_pallas_prefix_attention_equals_dense_attention(lm):
    if jax.default_backend() != "cpu":
        pytest.skip("interpreted on a CPU only")
    inputs = experiments.attention_inputs(lm.config, jnp.dtype("float32"), 3, 256)
    # The kernel is JAX's own code, which promotes dtypes and ranks freely.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        results = experiments.pallas_attention(*inputs, interpret=True)
    for theirs, expected in zip(results, _dense(*inputs), strict=True):
        np.testing.assert_allclose(theirs, expected, atol=2e-5)


def test_a_refusal_is_recorded_as_the_answer(lm):
    def refuse(*inputs):
        raise NotImplementedError("no such layout\nand a long story")

    row = experiments.compare_attention(lm, refuse, 2, 64, 1)
    assert row["error"] == "NotImplementedError: no such layout"
    assert (row["nodes"], row["slots"]) == (2, 64)


def test_kernels_are_compared_by_time_and_by_value(lm):
    def shifted(q, k, v, length_B):
        out, lse = experiments.xla_attention(q, k, v, length_B)
        return out + 0.5, lse - 0.25

    row = experiments.compare_attention(lm, shifted, 2, 64, 1)
    assert row["max_difference"] == pytest.approx(0.5, abs=1e-4)
    assert row["max_residual_difference"] == pytest.approx(0.25, abs=1e-4)
    assert min(row["xla_us"], row["kernel_us"]) > 0


def test_time_loop_runs_every_iteration_on_the_operands():
    timing = time_loop(lambda x, y: x + y, jnp.float32(1), (jnp.float32(2),), 10, 2)
    assert float(timing.carry) == 21
    assert min(timing.seconds, timing.compile_seconds) > 0


def test_copy_bandwidth_is_measured_on_a_large_array():
    copy = copy_bandwidth(1)
    assert copy["bytes"] >= 2**26
    assert copy["bytes_per_second"] > 0
