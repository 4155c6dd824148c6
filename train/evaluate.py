"""Measures a model and its Medusa heads on conversations.

Examples:
  python -m train.evaluate --data sharegpt.jsonl.xz --output metrics.json
  python -m train.evaluate --model DIR --medusa DIR --data replies.jsonl --output m.json --walk

The assistant's words and their end-of-turn marks are the labels. --output gets one JSON object:
  date, command, commit, device, cpu, cores, load_average, versions
               of the measurement
  num_tokens   labels of the base head (those with a token before them)
  lm_loss      mean cross-entropy of the base head over them
  head_loss, head_top1 ... head_top5, head_coverage
               lists, one number per head k, over the labels k + 1 tokens after any token of the
               same conversation: mean cross-entropy, share among the 1 ... 5 most likely tokens
               (only a larger logit counts against a label), and share within the heads' vocabulary.
               head_loss averages over the labels in that vocabulary alone. The lists are empty
               without heads; their numbers are null without labels
  expected_tokens_per_step
               1 + the mean number of nodes of --tree that the labels follow from a root; the roots
               are the num_tokens labels of the base head
  tokens_per_step
               with --walk: labels per step of a decoding that writes exactly these replies
  kl_divergence
               with --quantize: mean KL divergence, over the labels, of the quantised base head's
               distribution from that of the unquantised model, in nats

--mesh spreads the model over devices of the process. In a TPU pod, SLURM, Open MPI or Kubernetes
job, every process measures its own share of the conversations with a model of its own, and the
first one writes; elsewhere, give --coordinator_address, --num_processes and --process_id.
"""

import json
from pathlib import Path
from typing import Any

import jax
from absl import flags
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import medusa_jax
from medusa_jax import MedusaLM
from medusa_jax.chat import Example, tokenize
from medusa_jax.cli.console import make_console, note
from medusa_jax.cli.model_flags import define_dtype, define_medusa, define_mesh, define_model
from medusa_jax.cli.run import run_main, setup_compilation_cache
from medusa_jax.environment import environment
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import check_output, write_text
from medusa_jax.mesh import parse_mesh
from medusa_jax.nn.quantize import KINDS
from medusa_jax.objectives.accuracy import TOP
from medusa_jax.paths import user_path
from medusa_jax.tree.build import Tree, build_tree
from medusa_jax.tree.presets import load_fitting_tree, load_tree
from medusa_jax.tree.search import search_tree
from train import distributed
from train.data import sharegpt
from train.data.tokens import check_token_ids
from train.evaluation.divergence import mean_divergence
from train.evaluation.scores import Scores, score

flags.adopt_module_key_flags(distributed)
_MODEL = define_model()
_MEDUSA = define_medusa()
_DATA = flags.DEFINE_string(
    "data", None, "Conversations as ShareGPT JSON or JSON lines, plain, .gz or .xz."
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the metrics.")
_MAX_LENGTH = flags.DEFINE_integer(
    "max_length", 2048, "Longer conversations are cut to this many tokens.", lower_bound=2
)
_DTYPE = define_dtype()
_QUANTIZE = flags.DEFINE_enum(
    "quantize",
    "none",
    list(KINDS),
    "int8: measure the model with all matrices in 8 bits, and how far it is from the unquantised "
    "model, which is loaded too.",
)
_MESH = define_mesh()
_DATA_ERRORS = flags.DEFINE_enum(
    "data_errors", "stop", sharegpt.DATA_ERRORS, "What to do about malformed rows."
)
_TREE = flags.DEFINE_string(
    "tree",
    "mc_sim_7b_63",
    "Tree for the tokens per step, expected and walked; as in infer.generate.",
)
_BEST_TREE = flags.DEFINE_string(
    "best_tree",
    None,
    "JSON file for a tree with as many nodes as --tree: the one with the most expected tokens per "
    "step on these data (paper, section 2.3.3). Measure it on data that it was not chosen on.",
)
_WALK = flags.DEFINE_boolean(
    "walk",
    False,
    "Count the steps of decoding each reply: a step takes the root and the longest path of the "
    "tree that the labels follow. For the model's own greedy replies this is exactly what greedy "
    "decoding takes, as long as tokenizing their text gives the tokens that the model wrote. "
    "Other replies are forced on the model.",
)


def main(argv: list[str]) -> None:
    """Measures, writes the metrics and prints them."""
    del argv
    if not (_DATA.value and _OUTPUT.value):
        raise UserError("--data and --output are both needed: see --help")
    distributed.initialize_from_flags()
    files = [path for path in (_OUTPUT.value, _BEST_TREE.value) if path is not None]
    targets = distributed.together(_check_outputs, files)
    setup_compilation_cache()
    lm = distributed.together(_load, _MEDUSA.value, _DTYPE.value, _QUANTIZE.value)
    tree = distributed.together(_tree, lm)
    # Every process reads all examples, so that none has to wait for what another one finds.
    console = make_console(stderr=True, quiet=not distributed.is_first_process())
    with console.status("reading conversations"):
        examples = distributed.together(_examples, lm)
    scores = _score(lm, tree, examples, console)
    metrics = scores.metrics()
    if _WALK.value:
        metrics["tokens_per_step"] = scores.num_tokens / scores.steps
    if _QUANTIZE.value != "none":
        with console.status("comparing with the model as it is"):
            exact = distributed.together(_load, "none", lm.dtype, "none")
            metrics["kl_divergence"] = mean_divergence(exact, lm, examples)
    if not distributed.is_first_process():
        return
    write_text(targets[0], _json(environment("train.evaluate") | metrics))
    if len(targets) > 1:
        paths = search_tree(scores.rank_accuracy(), tree.R - 1)
        write_text(targets[1], json.dumps(paths) + "\n")
    _print(metrics, len(examples))


def _check_outputs(paths: list[str]) -> list[Path]:
    """The paths that this process writes: all on the first one, none on the others."""
    if len({user_path(path).absolute() for path in paths}) < len(paths):
        raise UserError("--output and --best_tree name the same file: name two")
    return [check_output(path) for path in paths] if distributed.is_first_process() else []


def _load(medusa: str | None, dtype: str | None, quantize: str) -> MedusaLM:
    mesh = None if _MESH.value is None else parse_mesh(_MESH.value, jax.local_devices())
    options: dict[str, Any] = {"dtype": dtype, "quantize": quantize, "mesh": mesh}
    return medusa_jax.load(_MODEL.value, medusa, tree="chain:0", **options)


def _score(lm: MedusaLM, tree: Tree, examples: list[Example], console: Console) -> Scores:
    """Measures with a progress bar, which counts the conversations of this process."""
    longest, context = max(len(x.token_T) for x in examples), lm.config.max_position
    if longest > context:
        _note(
            f"a conversation has {longest} tokens, the model's context only {context}: "
            f"--max_length={context} keeps within it",
        )
    columns = (TextColumn("evaluate"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(examples) // jax.process_count())
        return score(lm, tree, examples, lambda count: progress.advance(task, count))


def _json(values: dict[str, Any]) -> str:
    try:
        return json.dumps(values, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise UserError(
            "a loss is not finite: the weights of the model or of the heads are damaged, or "
            "--dtype=bfloat16 is too small for them"
        ) from error


def _tree(lm: MedusaLM) -> Tree:
    """The tree to measure with; the default tree is cut to the depth that the heads reach."""
    heads = 0 if lm.heads_config is None else lm.heads_config.num_heads
    if not heads:
        tree = build_tree([])
    elif flags.FLAGS["tree"].using_default_value:
        tree = load_fitting_tree(_TREE.value, heads)
    else:
        tree = load_tree(_TREE.value, heads)
    if _BEST_TREE.value is not None and tree.R == 1:
        raise UserError("--best_tree needs heads, and a --tree with as many nodes as are wanted")
    return tree


def _examples(lm: MedusaLM) -> list[Example]:
    """The conversations that have labels; prints how many rows were skipped."""
    examples: list[Example] = []
    skipped: list[str] = []
    path = user_path(_DATA.value or "")
    for row in sharegpt.checked_rows(path, _DATA_ERRORS.value, skipped.append):
        try:
            example = _example(lm, row.value)
        except UserError as error:
            problem = f"{path}:{row.line}: {error}"
            if _DATA_ERRORS.value == "stop" or not lm.tokenizer.chat_template:
                raise UserError(problem) from error
            skipped.append(problem)
            continue
        if example.is_label_T[1:].any():
            examples.append(example)
    if skipped:
        _note(sharegpt.describe_skipped(len(skipped), skipped[0]))
    if not examples:
        raise UserError(f"{path}: no assistant's words within --max_length={_MAX_LENGTH.value}")
    return examples


def _example(lm: MedusaLM, row: dict[str, Any]) -> Example:
    example = tokenize(
        lm.tokenizer,
        sharegpt.messages(row),
        truncated=bool(row.get("truncated", False)),
        max_length=_MAX_LENGTH.value,
    )
    check_token_ids(example.token_T, lm.config.vocab_size)
    return example


def _note(text: str) -> None:
    if distributed.is_first_process():
        note(text)


def _print(metrics: dict[str, Any], num_conversations: int) -> None:
    """The metrics as a table on stdout."""
    names = ["loss", *(f"top{k}" for k in range(1, TOP + 1)), "coverage"]
    table = Table("head", *names)
    table.add_row("base", _text(metrics["lm_loss"]), *[""] * (len(names) - 1))
    columns = [metrics[f"head_{name}"] for name in names]
    for head, values in enumerate(zip(*columns, strict=True), 1):
        table.add_row(str(head), *map(_text, values))
    console = make_console()
    console.print(table)
    line = f"{num_conversations} conversations, {metrics['num_tokens']} labels"
    line += f", {metrics['expected_tokens_per_step']:.3f} tokens/step expected"
    if "tokens_per_step" in metrics:
        line += f", {metrics['tokens_per_step']:.3f} walked"
    if "kl_divergence" in metrics:
        line += f", KL {metrics['kl_divergence']:.2g} nats from the model as it is"
    console.print(line, soft_wrap=True)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def run() -> None:
    """Entry point."""
    run_main(main)


if __name__ == "__main__":
    run()
