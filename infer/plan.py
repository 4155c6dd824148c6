"""What decoding would take on a TPU or GPU that is not here: whether it fits, and how fast at best.

The decode step is compiled for the named devices by their own compiler, with a model that is never
loaded. Memory and collectives are facts of the compiled program; times are estimates
(docs/plan.md).

Examples:
  Llama-3.1-8B with a tree of 64 on one TPU v5p, with heads that share the LM head:
    python -m infer.plan --shape llama-8b --topology v5p:1x1x1 --tree mc_sim_7b_63

  In 8 bits, over the four chips of a v5e slice:
    python -m infer.plan --shape llama-8b --topology v5e:2x2 --mesh tensor=4 --quantize int8 \\
      --tree mc_sim_7b_63 --tokens_per_step 2.6 --output plan.json

TPUs need the extra "plan" (libtpu), GPUs the extra "cuda".
"""

from typing import Any

from absl import flags
from jax.sharding import Mesh

from infer.planning.abstract import Wish
from infer.planning.decoding import plan_decoding
from infer.planning.prefill import plan_prefill
from medusa_jax.cli.console import waiting
from medusa_jax.cli.model_flags import define_quantize
from medusa_jax.cli.run import run_main
from medusa_jax.config import LlamaConfig, MedusaConfig
from medusa_jax.environment import environment
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import check_output, make_folder, write_json
from medusa_jax.io.heads.load import heads_config
from medusa_jax.io.load import DTYPES, SHIPPED_HEADS, check_dtype
from medusa_jax.mesh import parse_mesh
from medusa_jax.model import check_tree
from medusa_jax.model_shapes import SHAPES
from medusa_jax.plan.models import config_of
from medusa_jax.plan.table import show
from medusa_jax.plan.topology import Topology, find_topology
from medusa_jax.tree.dynamic import heads_used
from medusa_jax.tree.presets import load_any_tree

_NUM_HEADS = 5  # like the paper's, for models that come without heads
_MODEL = flags.DEFINE_string(
    "model",
    None,
    "Hugging Face folder, hub id (only its config.json is downloaded) or GGUF file. Default: "
    "SmolLM2-135M-Instruct.",
)
_SHAPE = flags.DEFINE_enum(
    "shape", None, list(SHAPES), "Plan for a model of this shape instead of a real one."
)
_TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "Devices: a TPU and its slice (v5e:2x2, v5p:2x2x1, v6e:2x2), or a GPU and how many (h100:8, "
    "h200:1, a100:4).",
)
_MESH = flags.DEFINE_string(
    "mesh",
    None,
    "How the model is spread, such as tensor=4 or data=1,fsdp=1,tensor=4. Default: one device.",
)
_TREE = flags.DEFINE_string(
    "tree",
    "mc_sim_7b_63",
    "Tree that each step proposes: a preset, PRESET:N, a JSON file, chain:K or dynamic:N.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 1, "Rows decoded together.", lower_bound=1)
_MAX_CONTEXT = flags.DEFINE_integer(
    "max_context", 1024, "Longest prompt and answer together, in tokens.", lower_bound=1
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    list(DTYPES),
    "Number format of parameters and computation. Default: bfloat16; float16 on GPUs without it.",
)
_QUANTIZE = define_quantize()
_HEADS = flags.DEFINE_enum(
    "heads",
    None,
    ["shared", "own"],
    "Plan for five heads of one block, which share the LM head or have projections of their own. "
    "Default: for the default model, the heads in the package; for others, shared.",
)
_DRAFT_VOCAB = flags.DEFINE_integer(
    "draft_vocab", 0, "Heads propose only this many tokens; 0: all.", lower_bound=0
)
_TOKENS_PER_STEP = flags.DEFINE_float(
    "tokens_per_step",
    None,
    "Tokens per step, as measured by infer.tune or train.evaluate, to estimate tokens per second.",
    lower_bound=1.0,
)
_PREFILL = flags.DEFINE_bool(
    "prefill", False, "Also plan running a prompt as long as the context: two more programs."
)
_HLO = flags.DEFINE_string(
    "hlo", None, "Folder for the optimized programs as text; created if missing."
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")


def main(argv: list[str]) -> None:
    """Compiles, prints a table and writes what was asked for."""
    del argv
    if _TOPOLOGY.value is None:
        raise UserError("--topology is needed, such as v5e:2x2 or h100:8: see --help")
    if _MODEL.value is not None and _SHAPE.value is not None:
        raise UserError("--model and --shape exclude each other: give one of them")
    target = None if _OUTPUT.value is None else check_output(_OUTPUT.value)
    topology = find_topology(_TOPOLOGY.value)
    config = config_of(_MODEL.value) if _SHAPE.value is None else SHAPES[_SHAPE.value]
    wish, where = _wish(config, topology), _where(topology)
    hlo = None if _HLO.value is None else make_folder(_HLO.value)
    with waiting(f"compiling for {topology.name}"):
        plan = plan_decoding(topology, where, wish, _TOKENS_PER_STEP.value, hlo)
        prefill = plan_prefill(topology, where, wish, hlo) if _PREFILL.value else None
    if target is not None:
        report = plan.to_json() | {"prefill": prefill and prefill.to_json()}
        write_json(target, environment("infer.plan") | report)
    name = _SHAPE.value or _MODEL.value or "SmolLM2-135M-Instruct"
    kind = "" if wish.heads.conditioning == "none" else f"{wish.heads.conditioning} "
    show(plan, f"{name}, {wish.heads.num_heads} {kind}heads, tree {_TREE.value}")
    if prefill is not None:
        show(prefill, f"{name}, prefill of {_MAX_CONTEXT.value} tokens")


def _wish(config: LlamaConfig, topology: Topology) -> Wish:
    if _DRAFT_VOCAB.value > config.vocab_size:
        raise UserError(
            f"--draft_vocab={_DRAFT_VOCAB.value} is more than the model's {config.vocab_size} "
            "tokens: give fewer, or 0 for all"
        )
    if _MAX_CONTEXT.value > config.max_position:
        raise UserError(
            f"--max_context={_MAX_CONTEXT.value} is longer than the model's context: give "
            f"{config.max_position} or less"
        )
    dtype = _DTYPE.value or topology.dtype
    check_dtype(dtype, topology.platform)
    heads = _heads(config)
    tree = load_any_tree(_TREE.value, heads.num_heads)
    check_tree(tree, heads)
    most = heads_used(tree, heads.num_heads) + 1
    if not (_TOKENS_PER_STEP.value or 1) <= most:  # nor is it "nan"
        raise UserError(
            f"--tokens_per_step={_TOKENS_PER_STEP.value:g}: a step with this tree gives at most "
            f"{most}"
        )
    return Wish(
        config=config,
        heads=heads,
        tree=tree,
        batch_size=_BATCH_SIZE.value,
        max_context=_MAX_CONTEXT.value,
        dtype=dtype,
        quantize=_QUANTIZE.value,
        platform=topology.platform,
    )


def _heads(config: LlamaConfig) -> MedusaConfig:
    is_default = (_MODEL.value, _SHAPE.value, _HEADS.value) == (None, None, None)
    if is_default and not _DRAFT_VOCAB.value:
        sizes = {"hidden_size": config.hidden_size, "vocab_size": config.vocab_size}
        return heads_config(SHIPPED_HEADS, **sizes)
    return MedusaConfig(
        num_heads=_NUM_HEADS,
        hidden_size=config.hidden_size,
        vocab_size=_DRAFT_VOCAB.value or config.vocab_size,
        own_projection=_HEADS.value == "own",
        draft_vocab=_DRAFT_VOCAB.value > 0,
    )


def _where(topology: Topology) -> Mesh | Any:
    """The mesh that was asked for, or one device."""
    if _MESH.value is None:
        return topology.devices[0]
    return parse_mesh(_MESH.value, topology.devices)


def run() -> None:
    """Entry point of `medusa-plan`."""
    run_main(main)


if __name__ == "__main__":
    run()
