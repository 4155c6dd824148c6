"""The GPU's attention kernel, interpreted, against one dense masked softmax in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.gpu import saying_whether_triton
from medusa_jax.nn.attention import attention
from medusa_jax.nn.kernels import gpu_attention as module
from medusa_jax.nn.kernels.gpu_attention import fused_attention, supports
from medusa_jax.sharding import make_mesh
from tests.medusa_jax.nn.test_attention import dense_reference, random_case


def arrays_of(case, window=None):
    """In the kernel's order; the mask has the window's limit, as it wants."""
    position = jnp.asarray(case["position"])
    mask = jnp.asarray(case["mask"])[None]
    if window is not None:
        mask = mask & (position[:, :, None] - position[:, None, :] < window)
    new = [jnp.asarray(case[x]) for x in ("q", "k", "v")]
    prefix = (jnp.asarray(case["prefix_k"]).swapaxes(2, 3), jnp.asarray(case["prefix_v"]))
    return [*new, mask, position, *prefix, jnp.asarray(case["length"])]


def run(case, window=None):
    return fused_attention(*arrays_of(case, window), window, interpret=True)


def check(case, window=None, tolerance=2e-5):
    exact = {name: np.asarray(x, np.float64) for name, x in case.items()}
    whole = {name: case[name] for name in ("mask", "position", "length")}
    expected = dense_reference(**exact | whole, window=window)
    got = run(case, window)
    np.testing.assert_allclose(got.astype(jnp.float32), expected, rtol=tolerance, atol=tolerance)


def at_lengths(case, *lengths):
    depth = case["position"] - case["position"][:, :1]
    case["length"] = np.array(lengths, np.int32)
    return case | {"position": case["length"][:, None] + depth}


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(
    ("nodes", "kv_heads", "groups"),
    [(1, 2, 1), (1, 1, 4), (33, 1, 3), (5, 2, 2)],
)
def test_every_share_block_and_tile_counts(monkeypatch, nodes, kv_heads, groups, window):
    """Of 48 slots in blocks of 16 two shares, and of 16 rows and tokens several tiles."""
    for name, value in {"_SLOTS": 16, "_ROWS": 16, "_SLOTS_OF_A_SHARE": 24}.items():
        monkeypatch.setattr(module, name, value)
    case = random_case(nodes, nodes, kv_heads, groups, 48, batch=3, dim=16)
    check(at_lengths(case, 0, 17, 48), window)


@pytest.mark.parametrize("length", [0, 15, 16, 17, 32])
def test_lengths_about_the_edges_of_blocks(monkeypatch, length):
    monkeypatch.setattr(module, "_SLOTS", 16)
    check(at_lengths(random_case(3, 5, 2, 2, 32, batch=1, dim=16), length))


def test_nothing_beyond_a_rows_length_is_seen():
    """Not even NaN, which memory that was never written may hold."""
    case = random_case(3, 5, 2, 2, 32, dim=16)
    dirty = case | {name: case[name].copy() for name in ("prefix_k", "prefix_v")}
    for b, length in enumerate(case["length"]):
        for name in ("prefix_k", "prefix_v"):
            dirty[name][b, :, length:] = np.nan
    np.testing.assert_array_equal(run(case), run(dirty))


def test_bfloat16_is_rounded_where_the_products_are():
    case = random_case(7, 4, 2, 2, 16, dim=16)
    names = ("q", "k", "v", "prefix_k", "prefix_v")
    half = case | {name: jnp.asarray(case[name], jnp.bfloat16) for name in names}
    out = run(half)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), run(case), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("head_dim", "slots", "expected"),
    [(128, 1024, True), (64, 16, True), (96, 1024, False), (8, 1024, False), (64, 1030, False)],
)
def test_sides_of_products_are_powers_of_two(head_dim, slots, expected):
    assert supports(head_dim, slots) is expected


def test_only_programs_for_gpus_with_triton_have_the_kernel():
    *new, prefix_k, prefix_v, length = arrays_of(random_case(5, 5, 2, 2, 32, dim=16))

    def function(*arrays):
        *new, prefix_k, prefix_v, length = arrays
        return attention(*new, prefix=(prefix_k, prefix_v), prefix_length_B=length)

    def kernels(platform, has_triton):
        with saying_whether_triton(has_triton):
            traced = jax.jit(function).trace(*new, prefix_k, prefix_v, length)
            return traced.lower(lowering_platforms=(platform,)).as_text().count("triton")

    assert kernels("cpu", True) == 0
    assert kernels("cuda", False) == 0
    assert kernels("cuda", True) > 0


def test_heads_of_a_mesh_stay_where_they_are():
    """Each device runs its own; nothing is gathered."""
    mesh = make_mesh(tensor=2, devices=jax.devices()[:2])
    case = random_case(5, 16, 4, 2, 32, batch=2, dim=16)
    axes = ((None, None, "tensor"),) * 3 + ((), ()) + ((None, "tensor"),) * 2 + ((),)
    placed = [
        jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*a)))
        for x, a in zip(arrays_of(case), axes, strict=True)
    ]
    call = jax.jit(lambda *arrays: fused_attention(*arrays, mesh=mesh, interpret=True))
    program = call.lower(*placed).compile()
    out = program(*placed)
    np.testing.assert_allclose(out, run(case), rtol=1e-6, atol=1e-6)
    assert out.sharding.is_equivalent_to(placed[0].sharding, 4)
    assert "all-gather" not in program.as_text()
