"""Files for measurements that are kept."""

import jax
import pytest

from infer.tuning.keep import Kept


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Makes one, of the same model with its heads."""
    monkeypatch.setenv("MEDUSA_JAX_CACHE", str(tmp_path / "cache"))
    for name in ("model", "heads"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")

    def make(overwrite=False):
        return Kept(tmp_path / "model", tmp_path / "heads", jax.devices()[0], overwrite=overwrite)

    return make
