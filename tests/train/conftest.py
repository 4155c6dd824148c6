"""A tiny real model that can chat: stories260K with a chat template."""

import json
from pathlib import Path

import pytest

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
