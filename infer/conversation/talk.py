"""A conversation: its messages, and what keeps their keys and values between turns."""

import dataclasses
import json
from collections.abc import Generator
from typing import cast

from infer.totals import totals
from medusa_jax import Generation, GenerationConfig, MedusaLM, Session, StreamEvent, UserError
from medusa_jax.chat import Message, encode_text
from medusa_jax.io.atomic import check_output, write_text


class Talk:
    """A conversation with a model.

    Attributes:
      messages: all so far; the last one, if any, is the system's or an answer.
      results: answers that were not broken off.
    """

    def __init__(self, lm: MedusaLM, config: GenerationConfig, system: str | None) -> None:
        """Begins a conversation.

        Args:
          lm: the model.
          config: the options of decoding.
          system: the first message; None: what the chat template says by itself.

        Raises:
          UserError: there is no chat template, or it refuses the system message.
        """
        if not lm.tokenizer.chat_template:
            raise UserError(
                "the tokenizer has no chat template, which a conversation needs: put one beside it "
                "(chat_template.jinja)"
            )
        self._lm, self._config = lm, config
        self._beginning: list[Message] = []
        if system is not None:
            self._beginning = [{"role": "system", "content": system}]
            encode_text(lm.tokenizer, [*self._beginning, {"role": "user", "content": ""}], True)
        self.messages = self._beginning
        self.results: list[Generation] = []
        self._session = Session(lm, **vars(config))

    @property
    def new_tokens(self) -> int:
        """Tokens that had to be run before the last answer: the rest had their keys already."""
        return self._session.prefilled_tokens

    def ask(self, text: str) -> Generator[StreamEvent, None, None]:
        """Answers a message. Closing the iterator early keeps the answer as far as it got.

        Raises:
          UserError: the conversation does not fit the context; it stays as it was.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        answer, result = "", None
        try:
            reply = self._session.reply(messages)
        except UserError as error:
            hint = ", or begin a new conversation with /reset" if self.messages else ""
            raise UserError(f"{error}{hint}") from None
        events = cast(Generator[StreamEvent, None, None], reply)
        try:
            for event in events:
                answer, result = answer + event.text, event.result
                yield event
        finally:
            events.close()  # keeps what has been computed
            if result is not None:
                self.results.append(result)
                answer = result.text
            if answer or result is not None:  # else nothing was said, and nothing is left over
                self.messages = [*messages, {"role": "assistant", "content": answer}]

    def reset(self) -> None:
        """Forgets everything but the system message."""
        self.messages, self.results = self._beginning, []
        self._session.reset()

    def use_tree(self, spec: str) -> None:
        """Goes on with another tree.

        Raises:
          UserError: there is no such tree, or the heads cannot fill it.
        """
        self._lm.resolve_tree(spec)
        self._config = dataclasses.replace(self._config, tree=spec)
        self._session.change(tree=spec)

    def describe_tree(self) -> str:
        """What each step proposes."""
        if self._lm.is_auto(self._config.tree):
            return "tree auto"
        tree = self._lm.resolve_tree(self._config.tree)
        return f"tree of {tree.R} nodes" if tree.R > 1 else "plain decoding"

    def describe(self) -> str:
        """Counts and speed so far."""
        # Some templates make nothing of a system prompt alone.
        begun = self.messages != self._beginning
        used = len(encode_text(self._lm.tokenizer, self.messages, True)) if begun else 0
        room = self._lm.config.max_position
        room = min(room, self._config.max_context or room)
        context = f"{used} of {room} tokens of the context are used"
        if not self.results:
            return f"no answers yet, {self.describe_tree()}; {context}"
        sums = totals(self.results)
        count = f"{sums.answers} answers" if sums.answers > 1 else "1 answer"
        return (
            f"{count}, {sums.tokens} tokens in {sums.steps} steps: {sums.rates()}, "
            f"{self.describe_tree()}; {context}"
        )

    def save(self, path: str) -> str:
        """Writes the conversation as a row of JSON, as `--prompt_file` and training read it.

        Returns:
          The path of the file.

        Raises:
          UserError: there is nothing to save, or the file cannot be written.
        """
        if self.messages == self._beginning:
            raise UserError("there is no conversation yet to save")
        target = check_output(path)
        write_text(target, json.dumps({"messages": self.messages}, ensure_ascii=True) + "\n")
        return str(target)
