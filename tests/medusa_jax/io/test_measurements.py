import json
import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from medusa_jax.errors import UserError
from medusa_jax.io.load import SHIPPED_HEADS, check_dtype, default_dtype
from medusa_jax.io.measurements import (
    acceptance_file,
    read_content,
    read_measured,
    times_file,
    write_content,
)
from medusa_jax.tree.rates import Rates
from medusa_jax.tuning.measured import Acceptance, Measured

RATES = [[[0.5, 0.25]], [[0.4, 0.125]]]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A model, its heads and a device, with an empty cache."""
    monkeypatch.setenv("MEDUSA_JAX_CACHE", str(tmp_path / "cache"))
    model, heads = tmp_path / "model", tmp_path / "heads"
    for folder in (model, heads):
        folder.mkdir()
        (folder / "weights.safetensors").write_bytes(b"1")
    return model, heads, jax.devices()[0]


def acceptance(*temperatures):
    return {"acceptance": [{"temperature": t, "rates": RATES} for t in temperatures]}


def test_nothing_is_known_of_new_files(files):
    assert read_measured(*files).acceptance is None
    assert read_measured(*files).times == {}
    assert read_measured(*files).fastest is None


def test_what_was_written_is_read(files):
    write_content(acceptance_file(*files[:2]), acceptance(0, 0.7))
    times = {"float32": [[1, 1, 256, 0.5], [1, 2, 256, 0.75]]}
    write_content(times_file(*files), {"times": times, "fastest": "float32"})
    found = read_measured(*files)
    assert found.acceptance is not None
    np.testing.assert_array_equal(found.acceptance.at(0.6).rate_MPK, RATES)
    assert found.times["float32"].seconds(2, 1, 256) == 0.75
    assert found.fastest == "float32"


def test_half_a_measurement_counts_for_nothing(files):
    write_content(acceptance_file(*files[:2]), {"partial": {"a": {"0": [[1, 2]]}}})
    assert read_measured(*files).acceptance is None
    (files[1] / "acceptance.json").write_text(json.dumps(acceptance(0)))
    assert list(read_measured(*files).acceptance.by_temperature) == [0]


def test_a_dtype_without_times_is_not_the_fastest(files):
    write_content(times_file(*files), {"times": {}, "fastest": "bfloat16"})
    assert read_measured(*files).fastest is None


@pytest.mark.parametrize("content", [{"fastest": []}, {"times": {}, "fastest": {}}])
def test_a_fastest_dtype_that_is_none_does_not_count(files, content):
    write_content(times_file(*files), content)
    assert read_measured(*files).fastest is None


def test_a_file_whose_unfinished_part_is_damaged_is_refused_by_name(files):
    file = times_file(*files)
    write_content(file, {"partial": []})
    with pytest.raises(UserError, match=f"{file.name}.*delete the file"):
        read_content(file)


def test_heads_bring_their_acceptance_and_the_cache_comes_first(files):
    beside = {"temperature": 0, "rates": [[[0.75]]]}
    (files[1] / "acceptance.json").write_text(json.dumps({"acceptance": [beside]}))
    assert list(read_measured(*files).acceptance.by_temperature) == [0]
    write_content(acceptance_file(*files[:2]), acceptance(1.5))
    found = read_measured(*files).acceptance
    assert sorted(found.by_temperature) == [0, 1.5]
    assert found.at(0).rate_MPK.tolist() == [[[0.75]]]
    write_content(acceptance_file(*files[:2]), acceptance(0))
    assert read_measured(*files).acceptance.at(0).rate_MPK.tolist() == RATES


def test_other_weights_are_measured_anew(files):
    model, heads, _device = files
    before = times_file(*files), acceptance_file(model, heads)
    (heads / "weights.safetensors").write_bytes(b"22")
    after = times_file(*files), acceptance_file(model, heads)
    assert before[0] != after[0]
    assert before[1] != after[1]
    os.utime(model / "weights.safetensors", ns=(1, 1))
    assert acceptance_file(model, heads) != after[1]


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"acceptance": 3}', '{"acceptance": []}', '{"acceptance": [{"temperature": 0}]}',
     '{"acceptance": [{"temperature": -1, "rates": [[[0.5]]]}]}',
     '{"acceptance": [{"temperature": 0, "rates": [[[1.5]]]}]}'],
)  # fmt: skip
def test_damaged_acceptance_is_refused_by_name(files, text):
    file = acceptance_file(*files[:2])
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(UserError, match=f"{file.name}.*delete the file"):
        read_measured(*files)


@pytest.mark.parametrize(
    "times", ["[]", '{"float32": [[1, 1, 256]]}', '{"float32": [[1, 1, 256, -1]]}']
)
def test_damaged_times_are_refused_by_name(files, times):
    file = times_file(*files)
    file.parent.mkdir(parents=True)
    file.write_text(f'{{"times": {times}}}')
    with pytest.raises(UserError, match=f"{file.name}.*delete the file"):
        read_measured(*files)


def test_somebody_else_s_cache_holds_nothing(files, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDUSA_JAX_CACHE", str(tmp_path / "file"))
    assert read_measured(*files).acceptance is None

    def refuse(path, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    found = read_measured(*files)
    assert (found.acceptance, found.times, found.fastest) == (None, {}, None)


def test_a_cache_that_cannot_be_written_is_named(files, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDUSA_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="MEDUSA_JAX_CACHE"):
        write_content(times_file(*files), {})


def test_the_shipped_heads_know_their_acceptance():
    content = read_content(SHIPPED_HEADS / "acceptance.json")
    assert content is not None
    rates = Acceptance.from_json(content["acceptance"]).by_temperature
    assert sorted(rates) == [0, 0.7, 1.0, 1.3]
    for own in rates.values():
        assert own.rate_MPK.shape[0] == 4
        assert (own.rate_MPK.sum(-1) <= 1).all()  # one token follows


def test_a_temperature_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="not a list of acceptance rates by temperature"):
        Acceptance.from_json([{"temperature": 10**400, "rates": [[[0.5]]]}])


def test_the_nearest_temperature_counts():
    by = {t: Rates(np.full((1, 1, 1), t / 2)) for t in (0.0, 0.7, 1.0)}
    found = [Acceptance(by).at(t).rate_MPK.item() * 2 for t in (0.3, 0.6, 0.9, 5.0)]
    np.testing.assert_allclose(found, [0.0, 0.7, 1.0, 1.0])


def test_a_cpu_gets_the_dtype_that_was_measured_to_be_faster():
    cpu, gpu = SimpleNamespace(platform="cpu"), SimpleNamespace(platform="gpu")
    assert default_dtype(Measured(), cpu) == "float32"
    assert default_dtype(Measured(fastest="bfloat16"), cpu) == "bfloat16"
    assert default_dtype(Measured(fastest="float32"), gpu) == "bfloat16"


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ("7.0", "float16"),  # V100
        ("7.5", "float16"),  # T4
        ("8.0", "bfloat16"),  # A100
        ("10.0", "bfloat16"),
        ("gfx90a", "bfloat16"),  # an MI250
    ],
)
def test_gpus_without_bfloat16_get_float16(capability, dtype):
    device = SimpleNamespace(platform="gpu", compute_capability=capability)
    assert default_dtype(Measured(), device) == dtype


def test_a_tpu_has_no_kernels_for_float16():
    with pytest.raises(UserError, match="choose bfloat16 on a TPU"):
        check_dtype("float16", "tpu")
    for dtype, platform in (("float16", "gpu"), ("float16", "cpu"), ("bfloat16", "tpu")):
        check_dtype(dtype, platform)


def test_a_link_to_weights_that_are_gone_is_passed_over(files):
    for folder in files[:2]:
        (folder / "old.bin").symlink_to(folder / "nowhere")
    assert read_measured(*files).acceptance is None
