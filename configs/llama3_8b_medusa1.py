"""MEDUSA-1 for Llama-3-8B-Instruct, with the paper's numbers for Vicuna-7B (it has no Llama 3).

  python -m train.main --config=configs/llama3_8b_medusa1.py --workdir=runs/llama3_8b_medusa1 \\
    --config.data=ShareGPT_V4.3_unfiltered_cleaned_split.json

The heads share the LM head: with 128k tokens, five projections would have 2.6 billion weights.
The model's own replies (`python -m train.self_distill`) suit the heads better than those in
ShareGPT, which another model wrote.

Hardware: one accelerator with 80 GB, or several, over which the backbone is sharded.
Hours: not measured here. Expected: not measured here.
"""

from ml_collections import ConfigDict

from configs import vicuna_7b_medusa1


def get_config() -> ConfigDict:
    """Returns the configuration."""
    c = vicuna_7b_medusa1.get_config()
    c.model = "meta-llama/Meta-Llama-3-8B-Instruct"
    c.own_projection = False
    c.export_format = "C"
    c.export_dtype = "bfloat16"
    return c
