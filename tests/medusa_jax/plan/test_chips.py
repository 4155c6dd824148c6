"""Published figures by the names that JAX gives devices."""

import pytest

from medusa_jax.plan.chips import chip, peak_flops


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H200", 989.4e12),
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


def test_a_wire_is_slower_than_the_memory():
    for kind in ("TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite", "NVIDIA H100", "NVIDIA H200"):
        figures = chip(kind)
        assert figures is not None
        assert figures.hbm > figures.wire > 0
