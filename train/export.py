"""Writes what a run has learned in the formats that other software reads.

Examples:
  python -m train.export --workdir runs/smollm2 --format C --output heads
  python -m train.export --workdir runs/vicuna_7b_medusa2/stage2 --format B --output vicuna-medusa

Format B is the whole model with its heads, for the original code; here `infer.generate --model DIR`
loads it. A (also TGI, TensorRT-LLM), C (also TGI, with one block) and vllm are heads alone, which
`--medusa DIR` loads. Where training changed the backbone too, it is in `DIR/backbone`, which the
heads' `config.json` names, and `--model DIR` loads both. LoRA adapters are merged into the weights.
"""

from pathlib import Path
from typing import cast

from absl import flags

from medusa_jax.cli.run import run_main, setup_compilation_cache
from medusa_jax.errors import UserError
from medusa_jax.io.heads.save import ExportFormat
from medusa_jax.mesh import make_mesh
from train.checkpoints import read_params
from train.export_files import check_empty, export_run
from train.folder import run_path
from train.run_files import read_run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, or gs://BUCKET/PATH.")
_FORMAT = flags.DEFINE_enum(
    "format", None, ["A", "B", "C", "vllm"], "See above. Default: the run's config.export_format."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write; it must not exist yet.")
_STEP = flags.DEFINE_integer(
    "step", None, "Which checkpoint to export. Default: the last one.", lower_bound=0
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16", "float16"],
    "Number format of the weights. Default: the run's config.export_dtype.",
)


def main(argv: list[str]) -> None:
    """Exports a checkpoint of a run."""
    del argv
    if not (_WORKDIR.value and _OUTPUT.value):
        raise UserError("--workdir and --output are both needed: see --help")
    workdir, output = run_path(_WORKDIR.value), run_path(_OUTPUT.value)
    if not isinstance(output, Path):
        raise UserError(f"--output={output}: name a local folder, and copy it there afterwards")
    check_empty(output)
    settings, token_map = read_run(workdir)
    setup_compilation_cache()
    mesh = make_mesh(data=1, fsdp=-1)
    step, params = read_params(workdir, mesh, _STEP.value)
    export_run(
        output,
        settings,
        params,
        token_map=token_map,
        mesh=mesh,
        format=cast("ExportFormat | None", _FORMAT.value),
        dtype=_DTYPE.value,
    )
    print(f"step {step} written to {output}")


def run() -> None:
    """Entry point of `python -m train.export`."""
    run_main(main)


if __name__ == "__main__":
    run()
