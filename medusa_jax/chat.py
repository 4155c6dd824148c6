"""Chat templates and tokens: prompts to ids, conversations to labels, ids back to text.

One renderer serves decoding and training, so that a model is trained on the very text it is
prompted with: the text of a prompt is a prefix of the conversation that it begins.
"""

import dataclasses
import numbers
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers.decoders import DecodeStream

from medusa_jax.errors import UserError

Message = dict[str, str]
# Plain text, a conversation, or token ids that are used as they are.
Prompt = str | Sequence[Message] | Sequence[int]
# Keeps transformers from commenting on long sequences: whoever encodes a prompt checks its length.
_QUIET = {"verbose": False}
_REWRITES = (
    "this chat template rewrites earlier turns, so the assistant's spans cannot be told: "
    "give the tokenizer one that renders turn by turn"
)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A prompt that has been tokenized, ready to decode.

    Attributes:
      prompt: as the user gave it.
      ids: its tokens, at least one.
    """

    prompt: Prompt
    ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Example:
    """One conversation to learn from.

    Attributes:
      token_T: int32 token ids.
      is_label_T: bool, True on the assistant's content and its end-of-turn mark; not on the role
        header (a token that begins in it belongs to it), nor on white space after the mark.
    """

    token_T: np.ndarray
    is_label_T: np.ndarray


@dataclasses.dataclass(frozen=True)
class MarkedText:
    """A text to tokenize, and where in it the labels are.

    Attributes:
      text: with all special tokens written out.
      spans: [first, last) characters of every stretch of labels.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


def encode_text(tokenizer: Any, prompt: Prompt, chat: bool | None) -> list[int]:
    """Token ids of a prompt.

    Args:
      tokenizer: of the model (transformers).
      prompt: see `Prompt`; text becomes a user message when `chat` holds.
      chat: apply the chat template; None: when the tokenizer has one.

    Raises:
      UserError: it is no prompt, there is no template for a conversation, or nothing is left to
        start from.
    """
    if isinstance(prompt, str):
        messages: list[Any] = [{"role": "user", "content": prompt}]
    elif (
        isinstance(prompt, Mapping | bytes)
        or not isinstance(prompt, Iterable)
        or _is_number(prompt)
    ):
        raise UserError(
            f"a prompt is {reprlib.repr(prompt)}: give a list of prompts, each of them a text, a "
            'list of messages ([{"role": "user", "content": "..."}]) or a list of token ids'
        )
    else:
        messages = list(prompt)
    if not isinstance(prompt, str) and all(is_integer(p) for p in messages):
        ids = [int(p) for p in messages]  # type: ignore[arg-type]
    elif isinstance(prompt, str) and not (tokenizer.chat_template if chat is None else chat):
        ids = list(tokenizer(_unicode(prompt), **_QUIET)["input_ids"])
    else:
        check_messages(messages)
        text = _unicode(_render(tokenizer, messages, prompt=True))
        # The template writes the special tokens itself.
        ids = list(tokenizer(text, add_special_tokens=False, **_QUIET)["input_ids"])
    if not ids:
        raise UserError("the prompt is empty: give at least one token of text")
    return ids


def _unicode(text: str) -> str:
    """The text, which must not have half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError("the prompt has a character that is not valid Unicode") from None
    return text


def _is_number(value: Any) -> bool:
    return getattr(value, "ndim", None) == 0


def is_integer(value: Any) -> bool:
    """Whether it can be a token id: an int, or a number out of a numpy or JAX array."""
    return isinstance(value, numbers.Integral) or (
        _is_number(value) and np.issubdtype(value.dtype, np.integer)
    )


def check_messages(messages: Any) -> None:
    """Checks that these are messages.

    Raises:
      UserError: there is none, or one lacks a role or a content that is text.
    """
    if not isinstance(messages, list) or not messages:
        raise UserError("messages must be a list that is not empty")
    for number, message in enumerate(messages, start=1):
        for key in ("role", "content"):
            if not isinstance(message, Mapping) or not isinstance(message.get(key), str):
                raise UserError(f"message {number} needs a string {key!r}")


def tokenize(
    tokenizer: Any, messages: list[Message], *, truncated: bool, max_length: int
) -> Example:
    """Renders a conversation with the tokenizer's chat template and marks the labels.

    Args:
      tokenizer: a fast tokenizer with a chat template.
      messages: the turns, {"role", "content"}.
      truncated: the last turn was cut off, so what the template puts after it is no label.
      max_length: longer conversations are cut.

    Raises:
      UserError: the template does not render turn by turn, so that spans cannot be found, or
        there is none, or it refuses the conversation.
    """
    (example,) = encode_marked(tokenizer, [mark(tokenizer, messages, truncated)])
    return Example(example.token_T[:max_length], example.is_label_T[:max_length])


def mark(tokenizer: Any, messages: list[Message], truncated: bool = False) -> MarkedText:
    """The text of a conversation and the spans of its labels; see `tokenize`.

    Chunks of ShareGPT may begin with a reply. Where the template refuses that, it is left out, as
    the original's trainer always does.
    """
    try:
        text = _render(tokenizer, messages)
    except UserError:
        first_user = next((i for i, m in enumerate(messages) if m["role"] == "user"), 0)
        if first_user == 0 or not tokenizer.chat_template:
            raise
        return mark(tokenizer, messages[first_user:], truncated)
    spans = [
        _span(tokenizer, messages, i, text, truncated and i == len(messages) - 1)
        for i, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    return MarkedText(text, tuple(spans))


def encode_marked(tokenizer: Any, texts: Sequence[MarkedText]) -> list[Example]:
    """Tokenizes texts together, which the tokenizer spreads over all cores."""
    out = tokenizer(
        [marked.text for marked in texts],
        add_special_tokens=False,
        return_offsets_mapping=True,
        **_QUIET,
    )
    rows = zip(texts, out["input_ids"], out["offset_mapping"], strict=True)
    return [_example(marked, tokens, offsets) for marked, tokens, offsets in rows]


def _example(marked: MarkedText, tokens: list[int], offsets: list[tuple[int, int]]) -> Example:
    start_T, end_T = np.asarray(offsets, np.int64).reshape(-1, 2).T
    is_label_T = np.zeros(start_T.shape, bool)
    for first, last in marked.spans:
        # Some tokenizers leave white space out: the offsets of such a token are empty, at its end.
        is_inside_T = (end_T > start_T) | (start_T > first)
        is_label_T |= (start_T >= first) & (end_T <= last) & is_inside_T
    return Example(np.asarray(tokens, np.int32), is_label_T)


def _render(tokenizer: Any, messages: list[Message], prompt: bool = False) -> str:
    """The conversation's text; with `prompt`, up to where the assistant starts to write."""
    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template: put one beside it (chat_template.jinja), or let "
            "the model continue plain text (in infer.generate --nochat)"
        )
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # jinja's errors and the templates' own raise_exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the chat template refuses the conversation: {reason}") from error


def _span(
    tokenizer: Any, messages: list[Message], turn: int, text: str, truncated: bool
) -> tuple[int, int]:
    """Characters of turn's content and end mark: what the template adds beyond its prompt."""
    through = _render(tokenizer, messages[: turn + 1])
    first = _content_start(tokenizer, messages, turn, through)
    if not text.startswith(through):
        raise UserError(_REWRITES)
    if truncated:
        written = through[first:]
        # A reply may end inside a character: the tokens of its replacement were never written.
        content = messages[turn]["content"].rstrip().rstrip("\ufffd").rstrip()
        if content not in written:  # some templates trim it
            content = content.lstrip()
        return first, first + max(written.find(content), 0) + len(content)
    return first, len(through.rstrip())


def _content_start(tokenizer: Any, messages: list[Message], turn: int, through: str) -> int:
    """Where the model starts to write: after the generation prompt."""
    if turn > 0:
        before = _render(tokenizer, messages[:turn], prompt=True)
        if not through.startswith(before):
            raise UserError(_REWRITES)
        return len(before)
    # Templates put a default system message in front of a conversation but not of an empty one,
    # hence this search. It looks for the header, the template's own text, not for the content.
    header = _render(tokenizer, messages[:1], prompt=True)[len(through) :]
    start = through.find(header)
    if start < 0:
        raise UserError(_REWRITES)
    return start + len(header)


def decode_tokens(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Text of generated tokens, without special ones.

    Spaces before punctuation stay, whatever the tokenizer's `clean_up_tokenization_spaces` says
    (Llama 3's asks for it): the model wrote them, and streams have shown them.
    """
    return tokenizer.decode(
        list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


class TextStream:
    """Turns tokens into text as they come; holds back bytes of an unfinished character.

    Bytes that are no character may become other replacement characters than in the text of all
    tokens at once, which can look ahead.

    Attributes:
      special: ids of tokens that never have a text.
    """

    def __init__(self, tokenizer: Any):
        """Begins a text."""
        self._tokenizer = tokenizer.backend_tokenizer
        added = self._tokenizer.get_added_tokens_decoder()
        self.special = frozenset(token for token, about in added.items() if about.special)
        self._stream = DecodeStream(skip_special_tokens=True)
        self._since: list[int] = []  # the token of the last piece, and those after it

    def feed(self, token_ids: Sequence[int]) -> str:
        """Text that the new tokens complete."""
        return "".join(self._pieces(token_ids))

    def _pieces(self, token_ids: Sequence[int]) -> Iterator[str]:
        for token in map(int, token_ids):
            piece = self._step(token)
            self._since = [token] if piece else [*self._since, token]
            yield piece

    def _step(self, token: int) -> str:
        try:
            return self._stream.step(self._tokenizer, token) or ""
        except Exception:  # it has no class of its own
            # A broken character can change text before it, which has been handed out.
            self._stream = DecodeStream(ids=self._since, skip_special_tokens=True)
            return self._stream.step(self._tokenizer, token) or ""
