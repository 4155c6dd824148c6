"""Names of devices, and what is said where there are no such devices, or no compiler."""

import importlib.resources
import importlib.util
import re

import pytest

from medusa_jax.errors import UserError
from medusa_jax.plan import topology
from medusa_jax.plan.chips import chip
from medusa_jax.plan.topology import find_topology
from tests.medusa_jax.plan.compilers import needs_tpu_compiler


@pytest.mark.parametrize(
    "name", ["", "v5e", "v5e:", "v5e:2", "v5e:0x2", "v9:2x2", "h100", "h100:0", "h100:2x2", "cpu:1"]
)
def test_unknown_names(name):
    with pytest.raises(UserError, match=r"unknown topology .*v5e:2x2"):
        find_topology(name)


@pytest.mark.parametrize(
    ("name", "extra"), [("v5e:2x2", "plan"), ("v5p:2x2x1", "plan"), ("h200:1", "cuda")]
)
def test_a_missing_compiler_is_named(monkeypatch, name, extra):
    monkeypatch.setattr(topology, "is_installed", lambda module: False)
    with pytest.raises(UserError, match=rf'pip install "medusa-jax\[{extra}\]"'):
        find_topology(name)


def test_old_gpus_are_planned_in_float16():
    old, new = (
        topology.Topology("", "gpu", (), chip("Tesla T4"), 1, has_triton=has_triton)
        for has_triton in (False, True)
    )
    assert (old.dtype, new.dtype) == ("float16", "bfloat16")


@needs_tpu_compiler
@pytest.mark.parametrize(
    ("name", "kind", "count", "gib"),
    [
        ("v5e:1x1", "TPU v5 lite", 1, 15.75),
        ("v5e:2x4", "TPU v5 lite", 8, 15.75),
        ("v5p:2x2x1", "TPU v5", 4, 95.73),
        ("v6e:2x2", "TPU v6 lite", 4, 31.24),
        ("v4:2x2x1", "TPU v4", 4, 30.75),
    ],
)
def test_tpus(name, kind, count, gib):
    found = find_topology(name)
    assert (found.device_kind, len(found.devices)) == (kind, count)
    assert found.hbm_bytes == pytest.approx(gib * 2**30, rel=1e-3)
    assert found.platform == "tpu"


@needs_tpu_compiler
def test_a_slice_that_there_is_not(capfd):
    with pytest.raises(UserError, match="knows no topology v5e:3x5"):
        find_topology("v5e:3x5")
    assert capfd.readouterr().err == ""


def test_gpu_targets_are_described():
    """Every description has the memory, and a name of which the figures are known."""
    files = list(importlib.resources.files("medusa_jax").joinpath("data/gpu_targets").iterdir())
    assert {file.name for file in files} >= {"h100.txtpb", "h200.txtpb", "a100.txtpb"}
    for file in files:
        text = file.read_text(encoding="utf-8")
        (name,) = re.findall(r'device_description_str: "(.*)"', text)
        figures = chip(name)
        (speed,) = re.findall(r"memory_bandwidth: (\d+)", text)
        assert figures is not None
        assert figures.hbm == pytest.approx(int(speed), rel=0.01)
        assert text.count("{") == text.count("}")
