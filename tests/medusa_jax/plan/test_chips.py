"""Published figures by the names that JAX gives devices."""

import pytest

from medusa_jax.plan.chips import chip, peak_flops


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H200 NVL", 835e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("Tesla V100-PCIE-32GB", 112e12),
        ("NVIDIA GH200 480GB", 989.4e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("TPU7x", 1153.5e12),
        ("cpu", None),
        ("NVIDIA L400", None),
    ],
)
def test_peaks_by_device_kind(kind, peak):
    assert peak_flops(kind) == peak


@pytest.mark.parametrize(
    ("kind", "hbm", "wire", "clock"),
    [
        # Of the wire Google gives Gbit/s of all links together, both ways: 2400, 1600, 4800, 3584.
        ("TPU v4", 1228, 2400 / 8, 1.05),
        ("TPU v5 lite", 819, 1600 / 8, 1.5),
        ("TPU v5", 2765, 4800 / 8, 1.75),
        ("TPU v6 lite", 1640, 3584 / 8, 1.75),
    ],
)
def test_what_plans_of_tpus_rest_on(kind, hbm, wire, clock):
    figures = chip(kind)
    assert figures is not None
    assert (figures.hbm, figures.wire, figures.clock) == (hbm * 1e9, wire * 1e9, clock * 1e9)


def test_exact_products_take_a_tpu_six_rough_ones():
    for kind, peak in (("TPU v5 lite", 197e12 / 6), ("NVIDIA H100 80GB HBM3", 66.9e12)):
        figures = chip(kind)
        assert figures is not None
        assert figures.exact_flops == pytest.approx(peak)


@pytest.mark.parametrize("kind", ["A100", "B200", "H100", "H200"])
def test_gpus_that_are_planned_for_have_slower_exact_products(kind):
    figures = chip(f"NVIDIA {kind}")
    assert figures is not None
    assert figures.float32 is not None
    assert figures.flops / 40 < figures.float32 < figures.flops / 10


def test_a_wire_is_slower_than_the_memory():
    for kind in ("TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite", "NVIDIA H100", "NVIDIA H200"):
        figures = chip(kind)
        assert figures is not None
        assert figures.hbm > figures.wire > 0
