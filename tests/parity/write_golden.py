"""Writes tests/golden, which the tests compare with where torch is not installed.

Run by hand, from the root of the repository, whenever models.py or transformers change:

    python -m tests.parity.write_golden [--stories ../shared/models]

Needs the extra `parity`. Each architecture gives one safetensors file: the weights under their
Hugging Face names, config.json in the metadata and, per prompt i, `prompt_i` [T], `logits_i` [T, V]
and `continuation_i` [O]. The folder with stories260K and stories15M gives stories.json, the default
model in the user's cache default_model.json; without them, these files are left as they are.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import transformers
from safetensors.numpy import load_file, save_file

from medusa_jax.io.cache import cache_dir
from medusa_jax.io.gguf.tokenizer import build_tokenizer
from tests.parity import models

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
# The first is shorter than the sliding window and the original context, the second longer.
PROMPT_LENGTHS, NUM_NEW = (5, 20), 24
STORIES = ("stories260K", "stories15M")
STORY_PROMPTS = (
    "Once upon a time",
    "Lily",
    "The little dog was sad because",
    "One day, Tom and his mom went to the big park. They saw a red ball near the old tree, and",
)
STORY_NUM_NEW = 64
DEFAULT_MODEL = cache_dir() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = (
    "Why is the sky blue?",
    "Write a short story about a robot that learns to paint, and tell me in the last sentence what "
    "it painted first and why its owner kept the picture.",
)
QUESTION_NUM_NEW = 32


def write_architecture(name: str) -> None:
    """Writes {name}.safetensors."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models.save_model(name, models.SMALL, folder)
        tensors = load_file(folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        for i, length in enumerate(PROMPT_LENGTHS):
            found = models.clear_reference(folder, length, NUM_NEW, config["vocab_size"])
            tensors[f"prompt_{i}"] = np.array(found.prompt, np.int32)
            tensors[f"logits_{i}"] = found.logits_TV
            tensors[f"continuation_{i}"] = np.array(found.continuation, np.int32)
    path = GOLDEN / f"{name}.safetensors"
    save_file(tensors, path, metadata={"config": json.dumps(config)})
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KB")


def row(source: Path, text: str, prompt: list[int], num_new: int) -> dict:
    """The greedy continuation of one prompt."""
    found = models.reference(source, prompt, num_new)
    if found.margin < models.CLEAR_MARGIN:
        raise SystemExit(f"{source.name}: {text!r} has a near tie, choose another prompt")
    return {"text": text, "prompt": prompt, "continuation": found.continuation}


def write_stories(models_folder: Path) -> None:
    """Writes stories.json: per model, a list of {text, prompt, continuation}."""
    rows = {}
    for name in STORIES:
        folder = models_folder / name
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        rows[name] = [
            row(folder, text, tokenizer(text)["input_ids"], STORY_NUM_NEW) for text in STORY_PROMPTS
        ]
    (GOLDEN / "stories.json").write_text(json.dumps(rows) + "\n")


def write_default_model() -> None:
    """Writes default_model.json: a list of {text, prompt, continuation}."""
    tokenizer, rows = build_tokenizer(DEFAULT_MODEL), []
    for text in QUESTIONS:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        rows.append(row(DEFAULT_MODEL, text, prompt, QUESTION_NUM_NEW))
    (GOLDEN / "default_model.json").write_text(json.dumps(rows) + "\n")


def main() -> None:
    """Writes every file."""
    parser = argparse.ArgumentParser(description="Writes tests/golden.")
    parser.add_argument("--stories", type=Path, default=ROOT.parent / "shared" / "models")
    args = parser.parse_args()
    GOLDEN.mkdir(exist_ok=True)
    for name in models.ARCHITECTURES:
        write_architecture(name)
    if args.stories.is_dir():
        write_stories(args.stories)
    if DEFAULT_MODEL.exists():
        write_default_model()


if __name__ == "__main__":
    main()
