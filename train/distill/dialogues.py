"""Conversations with a model, up to the human turn that it has to answer next."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from medusa_jax import GenerationConfig, MedusaLM
from medusa_jax.chat import Message
from medusa_jax.decoding.buckets import batch_shape
from medusa_jax.decoding.generate import encode_prompt
from medusa_jax.errors import UserError
from train.distill.conversations import Conversation


@dataclass(frozen=True)
class ReplySettings:
    """How to answer.

    Attributes:
      generation: bound of a reply, temperature and seed.
      max_prompt_tokens: a conversation ends before a longer prompt.
      batch_size: largest number of conversations decoded at once.
    """

    generation: GenerationConfig
    max_prompt_tokens: int
    batch_size: int


@dataclass(frozen=True)
class Dialogue:
    """A conversation that waits for a reply.

    Attributes:
      conversation: as it was read.
      turn: number of the human turn to answer, from 0.
      messages: up to that turn, with the model's own replies.
      ids: tokens of the prompt.
      shape: of the batches in which its reply can be decoded, see `batch_shape`.
    """

    conversation: Conversation
    turn: int
    messages: tuple[Message, ...]
    ids: list[int]
    shape: tuple[int, int]

    @property
    def number(self) -> int:
        """Selects the reply's random key; depends on name and turn alone."""
        name = f"{self.turn}:{self.conversation.name}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def check_context(lm: MedusaLM, settings: ReplySettings) -> None:
    """Checks that this model can be asked at all.

    Raises:
      UserError: no chat template, or no room for a prompt.
    """
    if not lm.tokenizer.chat_template:
        raise UserError("the model's tokenizer has no chat template: choose a chat model")
    if _longest_prompt(lm, settings) < 1:
        raise UserError(
            f"replies of {settings.generation.max_new_tokens} tokens leave no room for a prompt in "
            f"the model's context of {lm.config.max_position}: lower --max_new_tokens"
        )


def select(
    lm: MedusaLM, conversations: Iterable[Conversation], settings: ReplySettings, limit: int | None
) -> list[Conversation]:
    """The first `limit` conversations (None: all) whose first prompt is short enough.

    Raises:
      UserError: there is none.
    """
    chosen: list[Conversation] = []
    reason = ""
    for conversation in conversations:
        if len(chosen) == limit:
            break
        try:
            open_dialogue(lm, settings, conversation)
            chosen.append(conversation)
        except UserError as error:
            reason = str(error)
    if not chosen:
        raise UserError(f"no conversation can be asked; for the last one, {reason}")
    return chosen


def _longest_prompt(lm: MedusaLM, settings: ReplySettings) -> int:
    """The longest that leaves room for a whole reply, so that all replies have the same bound."""
    room = lm.config.max_position - settings.generation.max_new_tokens
    return min(room, settings.max_prompt_tokens)


def _wait(
    lm: MedusaLM,
    settings: ReplySettings,
    conversation: Conversation,
    turn: int,
    before: tuple[Message, ...],
) -> Dialogue:
    """The dialogue at a human turn; UserError if its prompt is refused or too long."""
    messages = (*before, {"role": "user", "content": conversation.questions[turn]})
    ids = list(encode_prompt(lm, messages).ids)
    longest = _longest_prompt(lm, settings)
    if len(ids) > longest:
        raise UserError(f"the prompt has {len(ids)} tokens, more than {longest}")
    shape = batch_shape(len(ids), len(ids) + settings.generation.max_new_tokens)
    return Dialogue(conversation, turn, messages, ids, shape)


def open_dialogue(lm: MedusaLM, settings: ReplySettings, conversation: Conversation) -> Dialogue:
    """A conversation at its first human turn.

    Raises:
      UserError: the prompt is too long, or the chat template refuses it.
    """
    system = conversation.system
    before = () if system is None else ({"role": "system", "content": system},)
    return _wait(lm, settings, conversation, 0, before)


def following(
    lm: MedusaLM, settings: ReplySettings, dialogue: Dialogue, messages: tuple[Message, ...]
) -> Dialogue | None:
    """The dialogue at its next human turn; None when it ends here."""
    turn = dialogue.turn + 1
    if turn == len(dialogue.conversation.questions):
        return None
    try:
        return _wait(lm, settings, dialogue.conversation, turn, messages)
    except UserError:
        return None
