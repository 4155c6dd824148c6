"""The flag `--prompt_file`: a `.txt` file is one prompt, each row of a `.jsonl` file is one."""

import json
from pathlib import Path
from typing import Any

from absl import flags

from medusa_jax.chat import Message, Prompt, check_messages
from medusa_jax.errors import UserError
from medusa_jax.paths import user_path

_ROW = 'write {"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]} on every line'


flags.disclaim_key_flags()  # they belong to the command that asks for them


def define_prompt_file(
    use: str = "File with prompts", default: str = ""
) -> flags.FlagHolder[str | None]:
    """The flag --prompt_file, with what it is for and what is asked without it."""
    return flags.DEFINE_string(
        "prompt_file",
        None,
        f"{use}: a .txt file is one prompt; each row of a .jsonl file has 'prompt' (text), "
        "'messages' (a list of {role, content}) or 'turns' (texts; only the first is asked). "
        f"{default}",
    )


def read_prompt_file(path: str | Path) -> list[Prompt]:
    """Reads prompts, in the file's order.

    Args:
      path: a `.txt` file, which is one prompt as it stands, or a `.jsonl` file of rows with
        `prompt` (a string), `messages` (a list of {role, content}) or `turns` (strings, as in
        MT-bench: the first is asked); a row's other keys and blank lines are skipped.

    Returns:
      One string or one list of messages per prompt, at least one.

    Raises:
      UserError: another suffix, or the file is missing, empty or malformed (with the line).
    """
    path = user_path(path)
    suffix = path.suffix.lower()
    if suffix not in (".txt", ".jsonl"):
        raise UserError(f"prompt file {path}: its name must end in .txt or .jsonl")
    text = _read_text(path)
    if not text.strip():
        raise UserError(f"prompt file {path}: it is empty")
    if suffix == ".txt":
        return [text]
    # Not splitlines(): JSON strings may hold U+2028 and its like as they are.
    lines = enumerate(text.split("\n"), start=1)
    return [_parse_row(line, f"{path}:{number}") for number, line in lines if line.strip()]


def with_system(prompt: Prompt, system: str) -> list[Message]:
    """The conversation of a prompt, a text or messages, that begins with a system message.

    A conversation that has a system message keeps its own.
    """
    messages: list[Any] = list(prompt)
    if isinstance(prompt, str):
        messages = [{"role": "user", "content": prompt}]
    if messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def check_text(text: str, where: str) -> str:
    """Returns the text, which must be encodable: half a surrogate pair is not a character.

    Raises:
      UserError: it cannot be encoded; the message begins with `where`.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: character {error.start + 1} is not valid Unicode: save the text as UTF-8"
        ) from None
    return text


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the prompt file {path}: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text: save the file as UTF-8") from None
    return text.replace("\r\n", "\n")


def _parse_row(line: str, where: str) -> Prompt:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not valid JSON, column {error.colno}: {error.msg}; {_ROW}"
        ) from None
    except (ValueError, RecursionError):  # an endless number or nesting
        raise UserError(f"{where}: not valid JSON; {_ROW}") from None
    kinds = sorted({"prompt", "messages", "turns"} & set(row)) if isinstance(row, dict) else []
    if len(kinds) > 1:
        raise UserError(f"{where}: it has {' and '.join(kinds)}: keep one of them")
    if not kinds:
        raise UserError(f"{where}: neither a prompt nor a conversation; {_ROW}")
    if "messages" in row:
        return _check_messages(row["messages"], where)
    if "turns" in row:
        return _first_turn(row["turns"], where)
    if not isinstance(row["prompt"], str):
        raise UserError(f"{where}: prompt must be a string; {_ROW}")
    return check_text(row["prompt"], where)


def _first_turn(turns: Any, where: str) -> str:
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], str):
        raise UserError(f'{where}: write "turns" as a list of strings that is not empty')
    return check_text(turns[0], where)


def _check_messages(messages: Any, where: str) -> list[dict[str, str]]:
    try:
        check_messages(messages)
    except UserError as error:
        raise UserError(f"{where}: {error}; {_ROW}") from None
    for message in messages:
        check_text(message["role"] + message["content"], where)
    return messages
