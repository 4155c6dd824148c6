"""Rebuilds a tokenizer from the metadata of a GGUF file.

transformers has a reader of its own, but it ignores `tokenizer.ggml.pre`, the rule that cuts text
into words before the merges. SmolLM, for one, splits every digit off: "2024" is four tokens.
"""

import dataclasses
from pathlib import Path
from typing import Any

import gguf
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from medusa_jax.errors import UserError, in_short
from medusa_jax.io.gguf.file import read_header
from medusa_jax.io.hf.tokenizer import quiet_transformers

# The published word patterns of Llama 3 and Qwen2: they differ in how many digits stay together.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclasses.dataclass(frozen=True)
class _Words:
    """How a byte-level model treats text before the merges.

    Attributes:
      digits: every digit is a word of its own, found before everything else.
      pattern: of words; None: GPT-2's.
      compose: text is brought to Unicode's composed form (NFC).
      whole: a word that is a token needs no merges to become it.
      bos: a text begins with the BOS token, unless the file says otherwise.
    """

    digits: bool = False
    pattern: str | None = None
    compose: bool = False
    whole: bool = False
    bos: bool = False


_LLAMA3 = _Words(pattern=_WORDS.replace("DIGITS", "{1,3}"), whole=True, bos=True)
# Names as in llama.cpp; it has three for Llama 3.
_WORD_RULES = {
    "gpt-2": _Words(),
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "qwen2": _Words(pattern=_WORDS.replace("DIGITS", ""), compose=True),
    "smollm": _Words(digits=True),
}


def build_tokenizer(path: str | Path) -> Any:
    """Builds the tokenizer that a GGUF file describes, chat template included.

    Args:
      path: of the .gguf file.

    Returns:
      A `transformers.PreTrainedTokenizerFast`, whose ids are those of the file. Decoding never
      tidies up spaces, so the text of a growing id sequence only ever grows.

    Raises:
      UserError: the file cannot be read, or its tokenizer is incomplete or of a kind that is not
        supported.
    """
    header = read_header(path)
    metadata = header.metadata
    kind = metadata.get("tokenizer.ggml.model")
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if not isinstance(kind, str) or kind not in builders:
        raise UserError(
            f"{header.path} has a tokenizer of kind {kind!r}, only {' and '.join(builders)} work: "
            "pass the Hugging Face folder of the model instead"
        )
    try:
        tokenizer = builders[kind](metadata)
        _add_special_tokens(tokenizer, metadata)
        return _wrap(tokenizer, metadata)
    except UserError as error:
        raise UserError(f"{header.path}: {error}") from error
    except Exception as error:  # tokenizers raises bare Exception for contradictory vocabularies
        raise UserError(
            f"the tokenizer in {header.path} is broken ({type(error).__name__}: "
            f"{in_short(error)}): convert the model again"
        ) from error


def _byte_level(metadata: dict[str, Any]) -> Tokenizer:
    """Byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM)."""
    name = metadata.get("tokenizer.ggml.pre", "default")
    rule = _WORD_RULES.get(name)
    if rule is None:
        raise UserError(
            f"pre-tokenizer {name!r} is not supported, only {', '.join(_WORD_RULES)}: "
            "pass the Hugging Face folder of the model instead"
        )
    vocabulary = _vocabulary(metadata)
    merges = _listed_merges(metadata, vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=rule.whole))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if rule.digits else []
    if rule.pattern:
        steps.append(pre_tokenizers.Split(Regex(rule.pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not rule.pattern))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if rule.compose:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    _add_bos(tokenizer, metadata, rule.bos)
    return tokenizer


def _sentencepiece(metadata: dict[str, Any]) -> Tokenizer:
    """SentencePiece BPE with byte fallback (Llama 1 and 2, Vicuna, Mistral)."""
    unknown = metadata["tokenizer.ggml.tokens"][metadata.get("tokenizer.ggml.unknown_token_id", 0)]
    model = models.BPE(
        _vocabulary(metadata),
        _merges_from_scores(metadata),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    _add_bos(tokenizer, metadata, default=True)
    return tokenizer


def _listed_merges(metadata: dict[str, Any], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for text in metadata["tokenizer.ggml.merges"]:
        left, _, right = text.partition(" ")
        # Checked here because tokenizers aborts with a stack trace.
        if not (left in vocabulary and right in vocabulary and left + right in vocabulary):
            raise UserError(f"the merge {text!r} makes no known token: convert the model again")
        merges.append((left, right))
    return merges


def _merges_from_scores(metadata: dict[str, Any]) -> list[tuple[str, str]]:
    """SentencePiece joins the pair whose piece scores best: every pair as a merge, best first."""
    names = ("tokens", "scores", "token_type")
    rows = zip(*(metadata[f"tokenizer.ggml.{name}"] for name in names), strict=True)
    score = {piece: value for piece, value, kind in rows if kind == gguf.TokenType.NORMAL}
    order = {piece: index for index, piece in enumerate(score)}
    ranked = []
    for piece, value in score.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in order and right in order:
                ranked.append((-value, order[left], order[right], left, right))
    return [(left, right) for *_, left, right in sorted(ranked)]


def _vocabulary(metadata: dict[str, Any]) -> dict[str, int]:
    tokens = metadata["tokenizer.ggml.tokens"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise UserError("the vocabulary lists a token twice: convert the model again")
    return vocabulary


def _add_special_tokens(tokenizer: Tokenizer, metadata: dict[str, Any]) -> None:
    """Keeps control and user-defined tokens whole; only control tokens vanish when decoding."""
    control = (gguf.TokenType.CONTROL, gguf.TokenType.UNKNOWN)
    whole = (*control, gguf.TokenType.USER_DEFINED)
    kinds = metadata["tokenizer.ggml.token_type"]
    rows = zip(metadata["tokenizer.ggml.tokens"], kinds, strict=True)
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kind in control, normalized=False)
            for token, kind in rows
            if kind in whole
        ]
    )


def _add_bos(tokenizer: Tokenizer, metadata: dict[str, Any], default: bool) -> None:
    bos = _named_tokens(metadata).get("bos_token")
    if bos is None or not metadata.get("tokenizer.ggml.add_bos_token", default):
        return
    index = metadata["tokenizer.ggml.bos_token_id"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[bos, "$A"], pair=[bos, "$A", "$B"], special_tokens=[(bos, index)]
    )


def _named_tokens(metadata: dict[str, Any]) -> dict[str, str]:
    """transformers' names of special tokens to their text."""
    tokens = metadata["tokenizer.ggml.tokens"]
    roles = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    ids = {name: metadata.get(f"tokenizer.ggml.{role}_token_id") for role, name in roles.items()}
    return {f"{name}_token": tokens[index] for name, index in ids.items() if index is not None}


def _wrap(tokenizer: Tokenizer, metadata: dict[str, Any]) -> Any:
    architecture = metadata.get("general.architecture")
    with quiet_transformers() as transformers:
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            chat_template=metadata.get("tokenizer.chat_template"),
            model_max_length=metadata.get(f"{architecture}.context_length", int(1e30)),
            clean_up_tokenization_spaces=False,
            **_named_tokens(metadata),
        )
