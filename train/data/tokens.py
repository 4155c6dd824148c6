"""Every document of a source as tokens and labels, made once and kept in the user's cache folder.

Tokenizing happens up front rather than in the input pipeline: batches of texts keep all cores busy
(about 2 MB of text per second and core); later epochs, and runs, only map a file into memory; and
lengths are known before the first step, so that nothing is cut or left out unnoticed.
"""

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from medusa_jax import chat
from medusa_jax.errors import UserError
from medusa_jax.io.cache import cache_dir
from train.data.builder import progress_bar, publish
from train.data.sharegpt import SKIP_HINT, split_hash, split_names, told_apart
from train.data.sources import Document, Source

_FORMAT = 7
_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The documents of a source, one after another; C of them, N tokens in all.

    Attributes:
      token_N: int32, mapped from a file.
      is_label_N: bool, mapped from a file.
      end_C: int64, where each document ends.
      first_label_C: int64, position of its first label; -1 without labels.
      split_hash_C: uint64 hash of the conversation that each document is a part of.
      digest: of the tokens and labels: a template may write the date into a conversation, and
        machines may have different tokenizers under one name.
      skipped: bad rows of the source, and conversations that the chat template refuses.
      first_skipped: what was wrong with the first one.
    """

    token_N: np.ndarray
    is_label_N: np.ndarray
    end_C: np.ndarray
    first_label_C: np.ndarray
    split_hash_C: np.ndarray
    digest: str
    skipped: int
    first_skipped: str

    def document(self, number: int) -> chat.Example:
        """One whole document."""
        part = slice(self.end_C[number - 1] if number else 0, self.end_C[number])
        return chat.Example(self.token_N[part], self.is_label_N[part])

    @property
    def length_C(self) -> np.ndarray:
        """int64, tokens of each document."""
        return np.diff(self.end_C, prepend=0)


def tokenize_source(source: Source, tokenizer: Any, progress: bool = True) -> Tokens:
    """Tokenizes all documents, or finds those that an earlier run has kept.

    A conversation is rendered with the chat template, and its labels are the assistant's words.
    In plain text everything is a label, and the end-of-sequence token is appended.

    Args:
      source: the documents; its `data_errors` says what to do with a conversation that the
        template refuses.
      tokenizer: a fast tokenizer; with a chat template if there are conversations.
      progress: show a progress bar on stderr.

    Raises:
      UserError: a refused conversation (names file and line), no conversation left, or a cache
        folder that cannot be written.
    """
    folder = cache_dir() / "data" / f"tokens-{_key(source, tokenizer)}"
    if not folder.exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".tokenize-", dir=folder.parent) as scratch:
                made = Path(scratch) / "made"
                made.mkdir()
                _write(made, source, tokenizer, progress)
                publish(made, folder)
        except OSError as error:
            raise UserError(
                f"cannot keep tokens in {folder.parent} ({error.strerror or error}): set "
                "MEDUSA_JAX_CACHE to a folder with room for 5 bytes per token"
            ) from error
    return _read(folder, source)


def check_token_ids(token_N: np.ndarray, vocab_size: int) -> None:
    """Refuses tokens that the model's embedding does not have.

    Raises:
      UserError: there is one, as where a token was added to the tokenizer alone.
    """
    highest = int(token_N.max(initial=0))
    if highest >= vocab_size:
        raise UserError(
            f"the tokenizer gives token {highest}, but the model has {vocab_size}: take the "
            "tokenizer that belongs to the model, or resize the model's embedding"
        )


def _key(source: Source, tokenizer: Any) -> str:
    parts = (tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token)
    text = tokenizer.backend_tokenizer.to_str()
    facts = [_FORMAT, source.fingerprint, source.data_errors, *map(str, parts), text]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _write(folder: Path, source: Source, tokenizer: Any, progress: bool) -> None:
    lengths: list[int] = []
    first_labels: list[int] = []
    names: list[str] = []
    refused: list[str] = []
    digest = hashlib.sha256()
    with (folder / "token").open("wb") as tokens, (folder / "is_label").open("wb") as labels:
        for conversation, example in _examples(source, tokenizer, progress, refused):
            example.token_T.tofile(tokens)
            example.is_label_T.tofile(labels)
            digest.update(example.token_T.tobytes() + example.is_label_T.tobytes())
            lengths.append(len(example.token_T))
            first_labels.append(_first_label(example.is_label_T))
            names.append(conversation.name)
    if not sum(lengths):
        raise UserError(f"{source.name} holds no text to train on ({len(refused)} rows refused)")
    np.save(folder / "end.npy", np.cumsum(lengths, dtype=np.int64))
    np.save(folder / "first_label.npy", np.asarray(first_labels, np.int64))
    hashes = [split_hash(name) for name in split_names(told_apart(names))]
    np.save(folder / "split_hash.npy", np.asarray(hashes, np.uint64))
    note = {
        "refused": len(refused),
        "first_refused": "".join(refused[:1]),
        "digest": digest.hexdigest()[:16],
    }
    (folder / "note.json").write_text(json.dumps(note), encoding="utf-8")


def _first_label(is_label_T: np.ndarray) -> int:
    return int(np.argmax(is_label_T)) if is_label_T.any() else -1


def _read(folder: Path, source: Source) -> Tokens:
    note = json.loads((folder / "note.json").read_text(encoding="utf-8"))
    return Tokens(
        np.memmap(folder / "token", np.int32, "r"),
        np.memmap(folder / "is_label", np.bool_, "r"),
        np.load(folder / "end.npy"),
        np.load(folder / "first_label.npy"),
        np.load(folder / "split_hash.npy"),
        note["digest"],
        source.skipped + note["refused"],
        source.first_skipped or note["first_refused"],
    )


def _examples(
    source: Source, tokenizer: Any, progress: bool, refused: list[str]
) -> Iterator[tuple[Document, chat.Example]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with progress_bar(progress, *columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("Tokenizing", total=len(source))
        for start in range(0, len(source), _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, len(source)))
            kept, marked = [], []
            for conversation in source.read(numbers):
                try:
                    marked.append(_mark(tokenizer, conversation))
                    kept.append(conversation)
                except UserError as error:
                    if not tokenizer.chat_template:
                        raise
                    if source.data_errors == "stop":
                        raise UserError(f"{conversation.where}: {error} ({SKIP_HINT})") from error
                    refused.append(f"{conversation.where}: {error}")
            if kept:
                yield from zip(kept, chat.encode_marked(tokenizer, marked), strict=True)
            bar.advance(task, len(numbers))


def _mark(tokenizer: Any, conversation: Document) -> chat.MarkedText:
    if conversation.messages is not None:
        return chat.mark(tokenizer, conversation.messages, conversation.truncated)
    # The marks that this tokenizer puts around text, if any.
    adds_bos = tokenizer.bos_token_id in tokenizer("")["input_ids"]
    bos = tokenizer.bos_token if adds_bos else ""
    text = bos + conversation.text + (tokenizer.eos_token or "")
    return chat.MarkedText(text, ((len(bos), len(text)),))
