"""MEDUSA-1 for Llama-3-8B-Instruct, with the paper's settings for Vicuna-7B (it has no Llama 3).

  python -m train.main --config=configs/llama3_8b_medusa1.py --workdir=runs/llama3_8b_medusa1 \\
    --config.data=ShareGPT_V4.3_unfiltered_cleaned_split.json

The heads share the LM head: with 128k tokens, five projections would have 2.6 billion weights.
The model's own replies (`python -m train.self_distill`) suit the heads better than those in
ShareGPT, which another model wrote.

Data: 230 million tokens in two epochs, counted with Llama 2's tokenizer; Llama 3's makes fewer.
Hardware: one accelerator with 80 GB, or several, over which the backbone is sharded. According to
the compilers, the run fits one H100 (41.8 of 84.9 GB), a TPU v5e:2x2 (15.7 of 16.9 GB on each chip;
2x4: 8.8), a v5p:2x2x1 or a v6e:2x2 (15.8 each; docs/tpu.md).
Hours: not measured here. The compilers' estimates, which leave out waiting: 1.7 on one H100, 3.2 on
a v5e:2x2, 1.6 on a v5e:2x4, 1.3 on a v5p:2x2x1, 1.2 on a v6e:2x2.
Expected: not measured here.
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
