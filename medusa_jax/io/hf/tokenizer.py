"""The tokenizer of a Hugging Face folder, without transformers' advice about torch."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medusa_jax.errors import UserError, in_short

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_ADVICE = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
# Vicuna was published before tokenizers carried chat templates; this is the one it was trained with
# (FastChat's "vicuna_v1.1").
_VICUNA_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% else %}"
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions.{% endif %}"
    "{{ ' ' }}{% for m in messages %}{% if m['role'] == 'user' %}USER: {{ m['content'] }}{{ ' ' }}"
    "{% elif m['role'] == 'assistant' %}ASSISTANT: {{ m['content'] }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def load_tokenizer(folder: Path) -> Any:
    """Loads a tokenizer from local files only; code in the folder is never run.

    Args:
      folder: with `tokenizer.json`, or `tokenizer.model` (needs sentencepiece), or `vocab.json`
        and `merges.txt`.

    Returns:
      A transformers tokenizer. One whose folder or repository is named "vicuna" has Vicuna's chat
      template if it came without any.

    Raises:
      UserError: the files are missing or broken.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in _FILES):
        raise UserError(f"{folder} holds no tokenizer: it needs one of {', '.join(_FILES)}")
    with quiet_transformers() as transformers:
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # tokenizers raises bare Exception for a damaged file
            raise _broken(folder, error) from error
    if not tokenizer.chat_template and "vicuna" in _name(folder).lower():
        tokenizer.chat_template = _VICUNA_TEMPLATE
    return tokenizer


@contextlib.contextmanager
def quiet_transformers() -> Iterator[Any]:
    """Imports transformers, which announces on import that torch is missing: it is meant to be."""
    before = os.environ.get(_ADVICE)
    os.environ[_ADVICE] = "1"
    try:
        import transformers
    finally:
        if before is None:
            del os.environ[_ADVICE]
        else:
            os.environ[_ADVICE] = before
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield transformers
    finally:
        transformers.logging.set_verbosity(level)


def _name(folder: Path) -> str:
    """Name of a model's folder, or of the hub repository that it was downloaded from."""
    path = folder.absolute()
    return path.parents[1].name if path.parent.name == "snapshots" else path.name


def _broken(folder: Path, error: Exception) -> UserError:
    hint = "mend its config.json or tokenizer files, or download it again"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        hint = "run pip install sentencepiece protobuf, which tokenizer.model needs, or " + hint
    return UserError(f"the tokenizer in {folder} cannot be loaded ({in_short(error)}): {hint}")
