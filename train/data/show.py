"""Shows what is learned: packed rows of the training data, with all but the labels greyed out.

Example:
  python -m train.data.show --data conversations.jsonl --rows 2 --seq_len 512

Without colours (NO_COLOR, or output to a file) labels are put in [[double brackets]] instead.
"""

from typing import Any

from absl import flags

from medusa_jax.cli.console import make_console
from medusa_jax.cli.run import run_main
from medusa_jax.errors import UserError
from medusa_jax.io.default_model import default_model_path
from medusa_jax.io.gguf.tokenizer import build_tokenizer
from medusa_jax.io.hf.tokenizer import load_tokenizer
from medusa_jax.io.hub import resolve
from train.data import pipeline
from train.data.describe import describe_row

_MODEL = flags.DEFINE_string(
    "model", None, "Folder, hub id or GGUF file whose tokenizer is used; default: SmolLM2."
)
_DATA = flags.DEFINE_string(
    "data", "sharegpt", "ShareGPT-format file, 'sharegpt', or a dataset's name."
)
_DATA_ERRORS = flags.DEFINE_enum(
    "data_errors",
    "cut",
    pipeline.DATA_ERRORS,
    "What to do about bad or long rows; see configs/base.py.",
)
_ROWS = flags.DEFINE_integer("rows", 1, "How many packed rows to show.", lower_bound=1)
_SEQ_LEN = flags.DEFINE_integer("seq_len", 1024, "Length of a row in tokens.", lower_bound=2)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the order, as --config.seed.", lower_bound=0)


def tokenizer_of(model: str | None) -> Any:
    """The tokenizer of a model (None: the default one) without its weights.

    Raises:
      UserError: the reference leads nowhere, or there is no tokenizer.
    """
    path = default_model_path() if model is None else resolve(model)
    return build_tokenizer(path) if path.is_file() else load_tokenizer(path)


def main(argv: list[str]) -> None:
    """Prints rows as a run packs them, of all conversations."""
    del argv
    if not _DATA.value:
        raise UserError("--data is empty: name a file of conversations")
    tokenizer = tokenizer_of(_MODEL.value)
    splits = pipeline.load_data(
        _DATA.value, tokenizer, seq_len=_SEQ_LEN.value, data_errors=_DATA_ERRORS.value, held_out=0.0
    )
    batches = pipeline.train_batches(
        splits.train, batch_size=1, seq_len=_SEQ_LEN.value, seed=_SEED.value
    )
    console = make_console()
    plain = console.no_color or not console.is_terminal
    for number in range(_ROWS.value):
        row = {name: value[0] for name, value in next(batches).items()}
        for line in describe_row(tokenizer, row, number, plain):
            console.print(line, soft_wrap=True)


def run() -> None:
    """Entry point."""
    run_main(main)


if __name__ == "__main__":
    run()
