"""The TPU's attention kernel, interpreted, against one dense masked softmax in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.nn.kernels import tpu_attention as module
from medusa_jax.nn.kernels.tpu_attention import fused_attention
from medusa_jax.sharding import make_mesh
from tests.medusa_jax.nn.test_attention import dense_reference, random_case


def run(case, window=None):
    """The kernel on `random_case`'s arrays; the mask gets the window's limit, as it wants."""
    position = jnp.asarray(case["position"])
    mask = jnp.asarray(case["mask"])[None]
    if window is not None:
        mask = mask & (position[:, :, None] - position[:, None, :] < window)
    arrays = [jnp.asarray(case[x]) for x in ("q", "k", "v")]
    prefix = (jnp.asarray(case["prefix_k"]).swapaxes(2, 3), jnp.asarray(case["prefix_v"]))
    length = jnp.asarray(case["length"])
    return fused_attention(*arrays, mask, position, *prefix, length, window, interpret=True)


def check(case, window=None, tolerance=2e-5):
    exact = {name: np.asarray(x, np.float64) for name, x in case.items()}
    whole = {name: case[name] for name in ("mask", "position", "length")}
    expected = dense_reference(**exact | whole, window=window)
    got = run(case, window)
    np.testing.assert_allclose(got.astype(jnp.float32), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(
    ("nodes", "kv_heads", "groups", "dim"),
    [(1, 1, 4, 8), (33, 1, 3, 4), (5, 2, 2, 128)],
)
def test_every_block_of_slots_and_tokens_counts(monkeypatch, nodes, kv_heads, groups, dim, window):
    monkeypatch.setattr(module, "_SLOTS", 8)
    monkeypatch.setattr(module, "_ROWS", 16 * groups)
    case = random_case(nodes, nodes, kv_heads, groups, 30, batch=3, dim=dim)
    case["length"] = np.array([0, 17, 30], np.int32)
    depth = case["position"] - case["position"][:, :1]
    case["position"] = case["length"][:, None] + depth
    check(case, window)


@pytest.mark.parametrize("length", [0, 7, 8, 9, 16])
def test_lengths_about_the_edges_of_blocks(monkeypatch, length):
    monkeypatch.setattr(module, "_SLOTS", 8)
    case = random_case(3, 5, 2, 2, 16, batch=1)
    case["length"] = np.array([length], np.int32)
    case["position"] = case["position"] - case["position"][:, :1] + length
    check(case)


@pytest.mark.parametrize("dim", [4, 128])
def test_nothing_beyond_a_rows_length_is_seen(monkeypatch, dim):
    """Not even NaN, which memory that was never written may hold."""
    monkeypatch.setattr(module, "_SLOTS", 4)
    case = random_case(3, 5, 2, 2, 11, dim=dim)
    dirty = case | {name: case[name].copy() for name in ("prefix_k", "prefix_v")}
    for b, length in enumerate(case["length"]):
        for name in ("prefix_k", "prefix_v"):
            dirty[name][b, :, length:] = np.nan
    np.testing.assert_array_equal(run(case), run(dirty))


def test_bfloat16_is_rounded_where_the_products_are():
    case = random_case(7, 4, 2, 2, 8, dim=16)
    names = ("q", "k", "v", "prefix_k", "prefix_v")
    half = case | {name: jnp.asarray(case[name], jnp.bfloat16) for name in names}
    out = run(half)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), run(case), rtol=0.1, atol=0.1)


def test_heads_are_cut_into_blocks_of_whole_registers():
    assert module._heads_at_once(32, 128, 128 * 512 * 2) == 8
    assert module._heads_at_once(8, 64, 64 * 512 * 2) == 8
    assert module._heads_at_once(2, 4, 1) == 2  # of no register: all
    assert [module._tokens_at_once(n, 4) for n in (16, 64, 96, 512)] == [16, 64, 32, 64]


def test_heads_of_a_mesh_stay_where_they_are():
    """Each device runs its own; nothing is gathered."""
    mesh = make_mesh(tensor=2, devices=jax.devices()[:2])
    case = random_case(5, 16, 4, 2, 32, batch=2, dim=8)
    expected = run(case)
    spec = jax.sharding.PartitionSpec

    def put(x, *axes):
        return jax.device_put(x, jax.sharding.NamedSharding(mesh, spec(*axes)))

    new = [put(case[x], None, None, "tensor") for x in ("q", "k", "v")]
    prefix = [
        put(case["prefix_k"].swapaxes(2, 3), None, "tensor"),
        put(case["prefix_v"], None, "tensor"),
    ]
    rest = (put(case["mask"][None]), put(case["position"]))
    call = jax.jit(lambda *arrays: fused_attention(*arrays, mesh=mesh, interpret=True))
    program = call.lower(*new, *rest, *prefix, put(case["length"])).compile()
    out = program(*new, *rest, *prefix, put(case["length"]))
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)
    assert out.sharding.is_equivalent_to(new[0].sharding, 4)
    assert "all-gather" not in program.as_text()
