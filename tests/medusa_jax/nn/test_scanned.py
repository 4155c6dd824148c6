"""Scanned layers against unrolled ones, and what each way to recompute keeps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.io.placement import place_params
from medusa_jax.mesh import make_mesh
from medusa_jax.nn.llama import Llama
from medusa_jax.nn.lora import Lora
from medusa_jax.nn.packed_attention import Packed
from medusa_jax.nn.scanned import period, stacked, worth_a_copy
from medusa_jax.pin import Pin
from medusa_jax.plan.costs import costs_of
from medusa_jax.plan.parse import parse
from tests.medusa_jax.packed import (
    SMALL,
    packed_batch,
    quick_jit,
    random_backbone,
    random_lora,
)

FOUR = dataclasses.replace(SMALL, num_layers=4)
WINDOWS = {"none": (), "alternating": (None, 3, None, 3), "irregular": (None, None, None, 3)}


@pytest.mark.parametrize(
    ("windows", "expected"),
    [((), 1), ((7, 7, 7, 7), 1), ((None, 3, None, 3), 2), ((3, None, None, None), 4)],
)
def test_a_period_is_where_the_windows_repeat(windows, expected):
    assert period(windows, 4) == expected


def test_stacks_have_every_layer_of_their_place_in_the_period():
    layers = [{"x": jnp.full((3,), i)} for i in range(6)]
    even, odd = stacked(layers, 2)
    np.testing.assert_array_equal(even["x"][:, 0], [0, 2, 4])
    np.testing.assert_array_equal(odd["x"][:, 0], [1, 3, 5])


@pytest.mark.parametrize(("dtype", "rows"), [("float32", 2**18), ("bfloat16", 2**19)])
def test_layers_of_a_gibibyte_are_copied_larger_ones_are_not(dtype, rows):
    def backbone(rows):
        layer = {"attn": {"weight": jax.ShapeDtypeStruct((rows, 512), dtype)}}
        others = {"embed": jax.ShapeDtypeStruct((2**20, 4096), dtype)}
        return {"layers_0": layer, "layers_1": layer} | others

    assert worth_a_copy(backbone(rows))
    assert not worth_a_copy(backbone(rows + 1))


@functools.cache
def parameters():
    backbone = random_backbone(FOUR)
    return backbone, random_lora(backbone)


@functools.cache
def gradients(windows, remat, sizes, scan=False):
    """Hidden states and gradients of all parameters, with dropout, on a mesh of these sizes."""
    mesh = make_mesh(*sizes)
    config = dataclasses.replace(FOUR, windows=WINDOWS[windows])
    llama = Llama(config, jnp.dtype("float32"), remat, Pin(mesh), scan)
    batch = packed_batch(np.random.default_rng(0), rows=4, length=16)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(4, 16, 16)), jnp.float32)

    def value(backbone, adapters):
        lora = Lora(adapters, 0.5, 0.2, jax.random.key(3))
        packed = Packed(jnp.asarray(batch["segment"]), mesh)
        hidden = llama.apply(
            {"params": backbone}, batch["token"], batch["position"], packed, lora=lora
        )[0]
        return (hidden * weight).sum(), hidden

    placed = [place_params(x, mesh) for x in parameters()]
    program = quick_jit(jax.grad(value, (0, 1), has_aux=True)).lower(*placed).compile()
    return jax.device_get(program(*placed)), program.as_text()


def assert_close(found, expected):
    """To a part of the largest number of an array: sums are made in another order."""

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())

    jax.tree.map(close, found, expected)


@pytest.mark.parametrize("windows", WINDOWS)
def test_scanned_layers_are_unrolled_ones(windows):
    expected, _ = gradients(windows, False, (1, 1, 1))
    found, _ = gradients(windows, False, (1, 2, 2))
    assert_close(found, expected)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 1)])
def test_devices_that_have_all_layers_scan_them_by_request(sizes):
    expected, unrolled = gradients("alternating", False, (1, 1, 1))
    found, scanned = gradients("alternating", False, sizes, scan=True)
    assert_close(found, expected)
    assert scanned.count(" dot(") == unrolled.count(" dot(") / 2


@pytest.mark.parametrize("remat", [True, "nothing", "products"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 2, 1)])
def test_recomputing_changes_nothing(remat, sizes):
    expected, _ = gradients("none", False, (1, 1, 1))
    found, _ = gradients("none", remat, sizes)
    assert_close(found, expected)


def test_a_layer_is_compiled_once_and_its_products_are_not_computed_again():
    unrolled, scanned, again, kept = (
        gradients("none", remat, sizes)[1].count(" dot(")
        for remat, sizes in [
            (False, (1, 1, 1)),
            (False, (1, 2, 1)),
            (True, (1, 2, 1)),
            ("products", (1, 2, 1)),
        ]
    )
    assert scanned == unrolled / 4
    assert again > kept >= scanned


def gather_bytes(num_layers, loras):
    """Bytes that a gradient of the adapters gathers on two devices, and of a layer's parameters."""
    mesh, config = make_mesh(1, 2, 1), dataclasses.replace(FOUR, num_layers=num_layers)
    backbone = random_backbone(config)
    adapters = random_lora(backbone)
    llama = Llama(config, jnp.dtype("float32"), "nothing", Pin(mesh))
    batch = packed_batch(np.random.default_rng(0), rows=4, length=16)

    def value(adapters, backbone):
        packed = Packed(jnp.asarray(batch["segment"]), mesh)
        runs = llama.apply(
            {"params": backbone},
            batch["token"],
            batch["position"],
            packed,
            [Lora(adapters, 0.5) if adapted else None for adapted in loras],
            method="each",
        )
        return sum((run**2).sum() for run in runs)

    placed = [place_params(x, mesh) for x in (adapters, backbone)]
    text = quick_jit(jax.grad(value)).lower(*placed).compile().as_text()
    split = [x for x in jax.tree.leaves(placed[1]["layers_0"]) if not x.is_fully_replicated]
    split += [x for x in jax.tree.leaves(placed[0]["layers_0"]) if not x.is_fully_replicated]
    return costs_of(parse(text)).collectives["all-gather"], sum(x.nbytes for x in split)


@pytest.mark.parametrize("loras", [(True,), (True, False)], ids=["one", "teacher"])
def test_a_layer_is_gathered_once_forwards_and_once_backwards(loras):
    """Recomputing and the gradient share a gathering, and so do the runs with adapters or not."""
    (two, _), (four, layer) = gather_bytes(2, loras), gather_bytes(4, loras)
    assert layer > 0
    assert four - two == 2 * 2 * layer  # of two layers more


def test_runs_together_are_the_runs_apart():
    batch = packed_batch(np.random.default_rng(0), rows=4, length=16)
    rng = np.random.default_rng(1)
    weights = [jnp.asarray(rng.normal(size=(4, 16, 16)), jnp.float32) for _ in range(2)]

    def gradients_of(mesh, run):
        def value(backbone, adapters):
            variables, loras = {"params": backbone}, (Lora(adapters, 0.5), None)
            packed = Packed(jnp.asarray(batch["segment"]), mesh)
            runs = run(variables, batch["token"], batch["position"], packed, loras)
            return sum((x * weight).sum() for x, weight in zip(runs, weights, strict=True)), runs

        placed = [place_params(x, mesh) for x in parameters()]
        return jax.device_get(quick_jit(jax.grad(value, (0, 1), has_aux=True))(*placed))

    def apart(*inputs):
        *inputs, loras = inputs
        llama = Llama(FOUR, jnp.dtype("float32"))
        return tuple(llama.apply(*inputs, lora=lora)[0] for lora in loras)

    mesh = make_mesh(1, 2, 1)
    llama = Llama(FOUR, jnp.dtype("float32"), "nothing", Pin(mesh))
    together = functools.partial(llama.apply, method="each")
    assert_close(gradients_of(mesh, together), gradients_of(None, apart))


def test_offloaded_inputs_wait_in_the_memory_of_the_host():
    def loss(backbone, batch):
        packed = Packed(batch["segment"])
        llama = Llama(FOUR, jnp.dtype("float32"), "offload")
        return llama.apply({"params": backbone}, batch["token"], batch["position"], packed)[0].sum()

    batch = packed_batch(np.random.default_rng(0), rows=4, length=16)
    traced = jax.jit(jax.grad(loss)).trace(parameters()[0], batch)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count('"pinned_host"') >= FOUR.num_layers
