"""A tiny real model that can chat, stories260K with a chat template; and a random smaller one."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.train.small_runs import write_data, write_model

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="session")
def chat_model(stories260k: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chat_model")
    for file in stories260k.iterdir():
        if file.name != "tokenizer_config.json":
            (folder / file.name).symlink_to(file)
    settings = json.loads((stories260k / "tokenizer_config.json").read_text())
    settings["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def conversations(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "conversations.jsonl"
    names = ["Tim", "Lily", "Ben", "Sue", "Max", "Mia"]
    with path.open("w") as file:
        for i in range(120):
            name = names[i % 6]
            turns = [
                {"from": "human", "value": f"Tell me of {name}, number {i}."},
                {"from": "gpt", "value": f"Once upon a time {name} went to the park. {name} ran."},
            ]
            file.write(json.dumps({"id": f"c{i}_0", "conversations": turns}) + "\n")
    return path


@pytest.fixture(scope="session")
def brief_chat_model(chat_model: Path, tmp_path_factory) -> Path:
    """The same with replies of one sentence: a full stop ends them."""
    folder = tmp_path_factory.mktemp("brief_chat_model")
    for file in chat_model.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    vocabulary = json.loads((chat_model / "tokenizer.json").read_text())["model"]["vocab"]
    config = json.loads((chat_model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": [2, vocabulary["."]]}))
    return folder


@pytest.fixture(scope="session")
def long_conversations(tmp_path_factory) -> Path:
    """24 conversations of one to three human turns."""
    path = tmp_path_factory.mktemp("data") / "long.jsonl"
    questions = ["Tell me of {}.", "{} had a dog and a big red ball. What then?", "Why, {}?"]
    names = ["Tim", "Lily", "Ben", "Sue", "Max", "Mia"]
    with path.open("w") as file:
        for i in range(24):
            asked = [q.format(f"{names[i % 6]} {i}") for q in questions[: 1 + i % 3]]
            turns = [
                turn
                for text in asked
                for turn in ({"from": "human", "value": text}, {"from": "gpt", "value": "No."})
            ]
            file.write(json.dumps({"id": f"long{i}", "conversations": turns}) + "\n")
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Iterator[Path]:
    """Folder of a random "model" and "data.jsonl" for runs of seconds; caches lie in it too."""
    folder = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDUSA_JAX_CACHE", str(folder / "cache"))
        write_model(folder / "model")
        write_data(folder / "data.jsonl")
        yield folder


@pytest.fixture(scope="module")
def model(small: Path) -> str:
    return str(small / "model")


@pytest.fixture(scope="module")
def data(small: Path) -> str:
    return str(small / "data.jsonl")
