"""Generation: prompts in; texts, tokens and their measurements out."""

from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import jax

from medusa_jax.chat import Encoded, Prompt, TextStream, decode_tokens, encode_text
from medusa_jax.decoding.options import GenerationConfig, make_rule, rule_numbers
from medusa_jax.decoding.results import Generation, StreamEvent
from medusa_jax.decoding.runtime import Batch, Runtime, make_request, make_runtime
from medusa_jax.errors import UserError
from medusa_jax.model import MedusaLM


def generate(
    lm: MedusaLM,
    prompts: Sequence[Prompt | Encoded],
    *,
    batch_size: int = 1,
    chat: bool | None = None,
    numbers: Sequence[int] | None = None,
    **options: Any,
) -> list[Generation]:
    """Answers prompts, `batch_size` at a time.

    Args:
      lm: the model.
      prompts: what to answer; those of `encode_prompt` are not encoded again.
      batch_size: prompts decoded at once.
      chat: apply the chat template; None: when the tokenizer has one.
      numbers: one of 0..2^32-1 per prompt, which chooses its random key; default: its position.
      **options: see `GenerationConfig`.

    Raises:
      UserError: an option out of range, or a prompt that does not fit the context.
    """
    answers = generate_as_done(
        lm, prompts, batch_size=batch_size, chat=chat, numbers=numbers, **options
    )
    by_index = dict(answers)
    return [by_index[index] for index in range(len(prompts))]


def generate_as_done(
    lm: MedusaLM,
    prompts: Sequence[Prompt | Encoded],
    *,
    batch_size: int = 1,
    chat: bool | None = None,
    numbers: Sequence[int] | None = None,
    **options: Any,
) -> Iterator[tuple[int, Generation]]:
    """Like `generate`, but yields each answer when it is complete, with its prompt's index.

    Errors are raised at once, not when the first answer is asked for.
    """
    config = GenerationConfig(**options)
    encoded, numbers = _checked(lm, prompts, batch_size, chat, numbers)
    return _as_done(lm, config, encoded, batch_size, numbers)


def _as_done(
    lm: MedusaLM,
    config: GenerationConfig,
    encoded: list[Encoded],
    batch_size: int,
    numbers: Sequence[int],
) -> Iterator[tuple[int, Generation]]:
    runtime = _runtime(lm, config)
    rows = min(batch_size, len(encoded))
    for start in range(0, len(encoded), batch_size):
        part = slice(start, start + batch_size)
        batch = runtime.finish(_start(lm, runtime, config, encoded[part], rows, numbers[part]))
        yield from enumerate(_results(lm, encoded[part], batch), start=start)


def stream(
    lm: MedusaLM,
    prompts: Prompt | Encoded | Sequence[Prompt | Encoded],
    *,
    batch_size: int = 1,
    chat: bool | None = None,
    numbers: Sequence[int] | None = None,
    **options: Any,
) -> Iterator[StreamEvent]:
    """Answers prompts step by step, with the very step that `generate` compiles.

    Args:
      lm: the model.
      prompts: what to answer, one prompt or several; see `generate`.
      batch_size: prompts decoded at once; events of different prompts then alternate.
      chat: apply the chat template; None: when the tokenizer has one.
      numbers: as in `generate`: the same seed gives a prompt of the same number the same answer.
      **options: see `GenerationConfig`.

    Raises:
      UserError: at once; an option out of range, or a prompt that does not fit the context.
    """
    config = GenerationConfig(**options)
    several = prompts if _are_several(prompts) else [prompts]
    encoded, numbers = _checked(lm, several, batch_size, chat, numbers)
    return _stream(lm, config, encoded, numbers)


def _are_several(prompts: Any) -> bool:
    """Whether it is a list of prompts and not one: a text, its messages or its token ids."""
    if isinstance(prompts, str | Encoded) or not isinstance(prompts, Sequence):
        return False
    return not all(isinstance(part, Mapping | Integral) for part in prompts)


def _checked(
    lm: MedusaLM,
    prompts: Any,
    batch_size: int,
    chat: bool | None,
    numbers: Sequence[int] | None,
) -> tuple[list[Encoded], Sequence[int]]:
    """Encoded prompts and their numbers."""
    if isinstance(prompts, str):
        raise UserError("prompts is a single text: put it into a list, generate(lm, [text])")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: it must be at least 1")
    numbers = range(len(prompts)) if numbers is None else numbers
    if len(numbers) != len(prompts):
        raise UserError(f"{len(numbers)} numbers for {len(prompts)} prompts: give one for each")
    _check_numbers(numbers)
    return [encode_prompt(lm, prompt, chat) for prompt in prompts], numbers


def _stream(
    lm: MedusaLM, config: GenerationConfig, encoded: list[Encoded], numbers: Sequence[int]
) -> Iterator[StreamEvent]:
    runtime = _runtime(lm, config)
    for index, (given, number) in enumerate(zip(encoded, numbers, strict=True)):
        batch = _start(lm, runtime, config, [given], 1, [number])
        pieces, shown, seen, done = TextStream(lm.tokenizer), "", 0, False
        while not done:
            batch = runtime.advance(batch, max_steps=1)
            state = batch.state
            num, done, output = jax.device_get((state.num_new_B, state.done_B, state.output_BO))
            num, done = int(num[0]), bool(done[0])
            token_ids = [int(t) for t in output[0, seen:num]]
            seen = num
            result = next(_results(lm, [given], batch)) if done else None
            piece = pieces.feed(token_ids)
            if result is not None and result.text.startswith(shown + piece):
                piece = result.text[len(shown) :]  # with what an unfinished character held back
            shown += piece
            yield StreamEvent(index, piece, token_ids, result)


def encode_prompt(lm: MedusaLM, prompt: Prompt | Encoded, chat: bool | None = None) -> Encoded:
    """A prompt as tokens, with the chat template when asked for (None: when there is one).

    Raises:
      UserError: the prompt leaves no room in the model's context, or holds unknown ids.
    """
    if not isinstance(prompt, Encoded):
        prompt = Encoded(prompt, tuple(encode_text(lm.tokenizer, prompt, chat)))
    if len(prompt.ids) >= lm.config.max_position:
        raise UserError(
            f"the prompt has {len(prompt.ids)} tokens and the model's context only "
            f"{lm.config.max_position}: shorten the prompt"
        )
    if min(prompt.ids) < 0 or max(prompt.ids) >= lm.config.vocab_size:
        raise UserError(f"token ids of a prompt must lie in 0..{lm.config.vocab_size - 1}")
    return prompt


def _check_numbers(numbers: Sequence[int]) -> None:
    for number in numbers:
        if not isinstance(number, Integral) or not 0 <= number < 2**32:
            raise UserError(f"a prompt's number is {number!r}: it must be from 0 to 2**32 - 1")


def _runtime(lm: MedusaLM, config: GenerationConfig) -> Runtime:
    tree = lm.resolve_tree(config.tree)
    return make_runtime(lm, tree, make_rule(config, tree))


def _start(
    lm: MedusaLM,
    runtime: Runtime,
    config: GenerationConfig,
    encoded: Sequence[Encoded],
    rows: int,
    numbers: Sequence[int],
) -> Batch:
    """Runs the prompts of a batch, filled up to `rows` rows."""
    budgets = [min(config.max_new_tokens, lm.config.max_position - len(e.ids)) for e in encoded]
    padding = [0] * (rows - len(budgets))
    request = make_request(
        budgets + padding,
        lm.eos_ids,
        seed=config.seed,
        numbers=[*numbers, *padding],
        rule_numbers=rule_numbers([config] * rows),
    )
    return runtime.start(request, [given.ids for given in encoded])


def _results(lm: MedusaLM, encoded: Sequence[Encoded], batch: Batch) -> Iterator[Generation]:
    state, clock = batch.state, batch.clock
    output, num_new, num_steps, stopped = jax.device_get(
        (state.output_BO, state.num_new_B, state.num_steps_B, state.stopped_B)
    )
    for i, given in enumerate(encoded):
        num, steps = int(num_new[i]), int(num_steps[i])
        token_ids = [int(t) for t in output[i, :num]]
        yield Generation(
            prompt=given.prompt,
            text=decode_tokens(lm.tokenizer, token_ids),
            token_ids=token_ids,
            num_new_tokens=num,
            num_steps=steps,
            tokens_per_step=num / max(steps, 1),
            prefill_seconds=clock.prefill,
            decode_seconds=clock.decode,
            tokens_per_second=num / clock.decode if clock.decode else 0.0,
            compile_seconds=clock.compile,
            finish_reason="stop" if stopped[i] else "length",
        )
