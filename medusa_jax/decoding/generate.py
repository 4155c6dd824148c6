"""Generation: prompts in; texts, tokens and their measurements out."""

import dataclasses
from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any

import jax

from medusa_jax.chat import Encoded, Prompt, TextStream, decode_tokens, encode_text
from medusa_jax.decoding.options import GenerationConfig, make_rule, rule_numbers
from medusa_jax.decoding.runtime import Batch, Runtime, make_request, make_runtime
from medusa_jax.errors import UserError
from medusa_jax.model import MedusaLM


@dataclasses.dataclass(frozen=True)
class Generation:
    """The answer to one prompt. Seconds are those of the batch the prompt was decoded in.

    Attributes:
      prompt: as given.
      text: new text, without special tokens.
      token_ids: new tokens only, EOS included when it was produced.
      num_new_tokens: how many.
      num_steps: backbone passes after prefill.
      tokens_per_step: num_new_tokens / num_steps.
      prefill_seconds: running the prompt.
      decode_seconds: everything after, until the last row of the batch was done.
      tokens_per_second: num_new_tokens / decode_seconds.
      compile_seconds: spent compiling, not contained in the others.
      finish_reason: "stop" (EOS) or "length" (budget or context is used up).
    """

    prompt: Any
    text: str
    token_ids: list[int]
    num_new_tokens: int
    num_steps: int
    tokens_per_step: float
    prefill_seconds: float
    decode_seconds: float
    tokens_per_second: float
    compile_seconds: float
    finish_reason: str


@dataclasses.dataclass(frozen=True)
class StreamEvent:
    """What one step added: its tokens, the text they complete, and the result with the last."""

    text: str
    token_ids: list[int]
    result: Generation | None = None


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
    parts = generate_batches(
        lm, prompts, batch_size=batch_size, chat=chat, numbers=numbers, **options
    )
    return list(parts)


def generate_batches(
    lm: MedusaLM,
    prompts: Sequence[Prompt | Encoded],
    *,
    batch_size: int = 1,
    chat: bool | None = None,
    numbers: Sequence[int] | None = None,
    **options: Any,
) -> Iterator[Generation]:
    """Like `generate`, but yields each batch's answers as it ends, in the order of the prompts.

    As with every generator, errors are raised when the first answer is asked for.
    """
    if isinstance(prompts, str):
        raise UserError("prompts is a single text: put it into a list, generate(lm, [text])")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: it must be at least 1")
    numbers = range(len(prompts)) if numbers is None else numbers
    if len(numbers) != len(prompts):
        raise UserError(f"{len(numbers)} numbers for {len(prompts)} prompts: give one for each")
    _check_numbers(numbers)
    config = GenerationConfig(**options)
    encoded = [encode_prompt(lm, prompt, chat) for prompt in prompts]
    runtime = _runtime(lm, config)
    rows = min(batch_size, len(encoded))
    for start in range(0, len(encoded), batch_size):
        part = slice(start, start + batch_size)
        batch = runtime.finish(_start(lm, runtime, config, encoded[part], rows, numbers[part]))
        yield from _results(lm, encoded[part], batch)


def stream(
    lm: MedusaLM,
    prompt: Prompt | Encoded,
    *,
    chat: bool | None = None,
    number: int = 0,
    **options: Any,
) -> Iterator[StreamEvent]:
    """Answers one prompt step by step, with the very step that `generate` compiles.

    Args:
      lm: the model.
      prompt: what to answer; one of `encode_prompt` is not encoded again.
      chat: apply the chat template; None: when the tokenizer has one.
      number: chooses the random key, 0..2^32-1: `generate` with the same seed gives its prompt of
        that number the same answer.
      **options: see `GenerationConfig`.

    Raises:
      UserError: an option out of range, or a prompt that does not fit the context.
    """
    _check_numbers([number])
    config = GenerationConfig(**options)
    runtime = _runtime(lm, config)
    encoded = [encode_prompt(lm, prompt, chat)]
    batch = _start(lm, runtime, config, encoded, 1, [number])
    pieces, shown, seen, done = TextStream(lm.tokenizer), "", 0, False
    while not done:
        batch = runtime.advance(batch, max_steps=1)
        state = batch.state
        num, done, output = jax.device_get((state.num_new_B, state.done_B, state.output_BO))
        num, done = int(num[0]), bool(done[0])
        token_ids = [int(t) for t in output[0, seen:num]]
        seen = num
        result = next(_results(lm, encoded, batch)) if done else None
        piece = pieces.feed(token_ids)
        if result is not None and result.text.startswith(shown + piece):
            piece = result.text[len(shown) :]  # with what an unfinished character held back
        shown += piece
        yield StreamEvent(piece, token_ids, result)


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
