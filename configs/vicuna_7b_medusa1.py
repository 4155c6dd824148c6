"""MEDUSA-1 for Vicuna-7B v1.5: five heads on a frozen backbone (paper, section 2.2.1, appendix B).

  python -m train.main --config=configs/vicuna_7b_medusa1.py --workdir=runs/vicuna_7b_medusa1 \\
    --config.data=ShareGPT_V4.3_unfiltered_cleaned_split.json

Data: 68.6k rows of ShareGPT of about 1690 tokens (the mean of 1500 rows, Llama 2's tokenizer): 230
million tokens in two epochs.
Hardware: one accelerator with 80 GB, or several, over which the backbone is sharded. According to
the compilers, the run fits one H100 (36.5 of 84.9 GB), a TPU v5e:2x2 (13.3 of 16.9 GB on each chip;
2x4: 7.1), a v5p:2x2x1 or a v6e:2x2 (13.3 each; docs/tpu.md).
Hours: in the paper, about 5 on one A100 PCIe for 60k ShareGPT conversations; not measured here. The
compilers' estimates, which leave out waiting: 1.2 on one H100, 2.2 on a v5e:2x2, 1.1 on a v5e:2x4,
0.9 on a v5p:2x2x1, 0.8 on a v6e:2x2.
Expected: in the paper, MT-bench quality 6.23 (base model 6.17) at 2.18 times the speed (table 2,
figure 3). The authors' first release (Vicuna v1.3, learning rate 1e-3, heads summed without
weights, 537 steps of 128) logged top-1 .56 .32 .20 .15 .12 and top-5 .78 .56 .42 .34 .30 on its
training data.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the configuration."""
    c = base.get_config()
    c.model = "lmsys/vicuna-7b-v1.5"
    c.data = "ShareGPT_V4.3_unfiltered_cleaned_split.json"
    c.held_out = 0.01
    c.num_heads = 5
    c.num_layers = 1
    c.steps, c.epochs = None, 2.0
    c.batch_size = 64
    c.seq_len = 4096
    c.accumulate = 4
    c.learning_rate = 5e-4  # 2e-3 for the heads.
    c.warmup_steps = 40
    c.moments = "bfloat16"  # The paper: 8-bit AdamW.
    c.dtype = "bfloat16"
    c.remat = "nothing"
    c.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})
    return c
