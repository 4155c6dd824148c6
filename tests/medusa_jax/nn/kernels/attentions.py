"""What an attention kernel has to do, on any platform: one dense masked softmax in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax.mesh import make_mesh
from tests.medusa_jax.nn.kernels.device import INTERPRETED, skip_on_one_device
from tests.medusa_jax.nn.test_attention import dense_reference, random_case, random_tree


def arrays_of(case, window=None):
    """`random_case`'s, in the kernels' order; the mask has the window's limit, as they want."""
    position = jnp.asarray(case["position"])
    mask = jnp.asarray(case["mask"])
    mask = mask[None] if mask.ndim == 2 else mask
    if window is not None:
        mask = mask & (position[:, :, None] - position[:, None, :] < window)
    new = [jnp.asarray(case[x]) for x in ("q", "k", "v")]
    prefix = (jnp.asarray(case["prefix_k"]).swapaxes(2, 3), jnp.asarray(case["prefix_v"]))
    return [*new, mask, position, *prefix, jnp.asarray(case["length"])]


def run(fused_attention, case, window=None):
    return fused_attention(*arrays_of(case, window), window, interpret=INTERPRETED)


def at_lengths(case, *lengths):
    depth = case["position"] - case["position"][:, :1]
    case["length"] = np.array(lengths, np.int32)
    return case | {"position": case["length"][:, None] + depth}


def check(fused_attention, case, window=None, tolerance=2e-5):
    exact = {name: np.asarray(x, np.float64) for name, x in case.items()}
    whole = {name: case[name] for name in ("mask", "position", "length")}
    expected = dense_reference(**exact | whole, window=window)
    got = run(fused_attention, case, window)
    np.testing.assert_allclose(got.astype(jnp.float32), expected, rtol=tolerance, atol=tolerance)
    return got


def check_a_tree_for_every_row(fused_attention, dim):
    """As dynamic trees are."""
    case, rng = random_case(9, 17, 1, 2, 16, batch=3, dim=dim), np.random.default_rng(0)
    mask, depth = zip(*(random_tree(rng, 17) for _ in range(3)), strict=True)
    position = case["length"][:, None] + np.stack(depth)
    check(fused_attention, case | {"mask": np.stack(mask), "position": position}, window=5)


def check_where_a_window_begins(fused_attention, window, slots, dim):
    """About the edges of the first block that is read: a row for each length."""
    lengths = range(2 * slots - 2, 2 * slots + window + 2)
    case = random_case(3, 1, 1, 1, 4 * slots, batch=len(lengths), dim=dim)
    check(fused_attention, at_lengths(case, *lengths), window)


def check_beyond_a_rows_length(fused_attention, slots, dim):
    """Not even NaN is seen there, which memory that was never written may hold."""
    case = random_case(3, 5, 2, 2, slots, dim=dim)
    dirty = case | {name: case[name].copy() for name in ("prefix_k", "prefix_v")}
    for b, length in enumerate(case["length"]):
        for name in ("prefix_k", "prefix_v"):
            dirty[name][b, :, length:] = np.nan
    np.testing.assert_array_equal(run(fused_attention, case), run(fused_attention, dirty))


def check_bfloat16(fused_attention):
    """The result's own rounding and the weights' are all that is off: scores stay float32."""
    case = random_case(7, 4, 2, 2, 16, dim=16)
    names = ("q", "k", "v", "prefix_k", "prefix_v")
    half = case | {name: jnp.asarray(case[name], jnp.bfloat16) for name in names}
    assert check(fused_attention, half, tolerance=0.01).dtype == jnp.bfloat16


def check_mesh(fused_attention, dim):
    """Each device runs its own heads; nothing is gathered."""
    skip_on_one_device()
    mesh = make_mesh(tensor=2, devices=jax.devices()[:2])
    case = random_case(5, 16, 4, 2, 32, batch=2, dim=dim)
    axes = ((None, None, "tensor"),) * 3 + ((), ()) + ((None, "tensor"),) * 2 + ((),)
    placed = [
        jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*a)))
        for x, a in zip(arrays_of(case), axes, strict=True)
    ]
    call = jax.jit(lambda *arrays: fused_attention(*arrays, mesh=mesh, interpret=INTERPRETED))
    program = call.lower(*placed).compile()
    out = program(*placed)
    np.testing.assert_allclose(out, run(fused_attention, case), rtol=1e-6, atol=1e-6)
    assert out.sharding.is_equivalent_to(placed[0].sharding, 4)
    assert "all-gather" not in program.as_text()
