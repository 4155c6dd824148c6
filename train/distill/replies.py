"""A model answers the human turns of many conversations, seeing its own earlier answers.

All human turns that can be asked now wait in one queue. A batch takes turns whose prompts have
about the same length; while their replies are decoded, the other conversations wait.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from medusa_jax import Generation, MedusaLM, generate_as_done
from medusa_jax.chat import Message
from medusa_jax.decoding.runtime import Clock
from train.distill.conversations import Conversation
from train.distill.dialogues import Dialogue, ReplySettings, following, open_dialogue

# Batches have their full size up to this many cache slots per row. Longer rows are batched in
# smaller numbers, so that a batch takes about the same memory whatever its length.
_FULL_SIZE_CAPACITY = 512
# On a CPU, from about this many rows on, a row's bits do not depend on the batch's shape.
_MIN_CPU_ROWS = 16
_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}


@dataclass(frozen=True)
class Round:
    """What one batch added: rows of finished conversations, new tokens, seconds of decoding."""

    rows: list[dict[str, Any]]
    num_tokens: int
    seconds: float


def answer(
    lm: MedusaLM, conversations: Iterable[Conversation], settings: ReplySettings
) -> Iterator[Round]:
    """Replays conversations with the model's own replies.

    A conversation ends after its last human turn, after a reply that reaches the bound (its row
    then has "truncated": true), or before a prompt that is too long. At temperature 0 replies are
    greedy; above, they are drawn from the model's whole distribution, by name and turn alone.

    Args:
      lm: the model; in float32 heads do not change what it says.
      conversations: from `select`; taken in as they are needed.
      settings: how to answer.

    Yields:
      What each batch added; rows are in ShareGPT's form.
    """
    waiting: list[Dialogue] = []
    fresh = iter(conversations)
    while batch := _next_batch(lm, settings, waiting, fresh):
        clock = Clock()
        replies = _reply(lm, settings, batch, clock)
        rows = []
        for dialogue, reply in zip(batch, replies, strict=True):
            messages = (*dialogue.messages, {"role": "assistant", "content": reply.text})
            truncated = reply.finish_reason == "length"
            next_turn = None if truncated else following(lm, settings, dialogue, messages)
            if next_turn is None:
                rows.append(_row(dialogue.conversation.name, messages, truncated))
            else:
                waiting.append(next_turn)
        tokens = sum(reply.num_new_tokens for reply in replies)
        yield Round(rows, tokens, clock.prefill + clock.decode)


def _next_batch(
    lm: MedusaLM, settings: ReplySettings, waiting: list[Dialogue], fresh: Iterator[Conversation]
) -> list[Dialogue]:
    """Removes the next batch from `waiting`, after adding new conversations until one is full.

    Towards the end no batch is full any more. Then short prompts go first, since the next prompts
    of their conversations can join the longer ones. An accelerator batches only prompts of one
    shape, as rounding depends on it; a CPU, where small batches are slow, all of one capacity.
    """
    while not (shape := _full_shape(settings, waiting)):
        conversation = next(fresh, None)
        if conversation is None:
            break
        waiting.append(open_dialogue(lm, settings, conversation))
    waiting.sort(key=lambda dialogue: dialogue.shape)
    if shape is not None or lm.platform != "cpu":
        part = [d for d in waiting if d.shape == (shape or waiting[0].shape)]
    else:
        part = [d for d in waiting if d.shape[1] == waiting[0].shape[1]]
    batch = part[: _full_size(settings, part[0].shape)] if part else []
    taken = set(map(id, batch))
    waiting[:] = [dialogue for dialogue in waiting if id(dialogue) not in taken]
    return batch


def _full_size(settings: ReplySettings, shape: tuple[int, int]) -> int:
    return max(1, min(settings.batch_size, settings.batch_size * _FULL_SIZE_CAPACITY // shape[1]))


def _full_shape(settings: ReplySettings, waiting: list[Dialogue]) -> tuple[int, int] | None:
    counts = Counter(dialogue.shape for dialogue in waiting)
    return next((s for s, count in counts.items() if count >= _full_size(settings, s)), None)


def _reply(
    lm: MedusaLM, settings: ReplySettings, batch: list[Dialogue], clock: Clock
) -> list[Generation]:
    rows = _full_size(settings, batch[0].shape)
    if lm.platform == "cpu":
        while rows // 2 >= max(_MIN_CPU_ROWS, len(batch)):
            rows //= 2
    # Prompts are run in groups, whose shapes follow from their number, so that there are few of
    # these numbers. A repeated row costs no extra step.
    padded = batch + batch[:1] * (rows - len(batch))
    replies = generate_as_done(
        lm,
        [dialogue.ids for dialogue in padded],
        batch_size=rows,
        numbers=[dialogue.number for dialogue in padded],
        clock=clock,
        **asdict(settings.generation),
    )
    by_index = dict(replies)
    return [by_index[index] for index in range(len(batch))]


def _row(name: str, messages: Iterable[Message], truncated: bool) -> dict[str, Any]:
    turns = [{"from": _SPEAKERS[m["role"]], "value": m["content"]} for m in messages]
    return {"id": name, "conversations": turns, "truncated": truncated}
