"""MEDUSA-1 for Vicuna-13B v1.5: as for 7B (paper, section 2.2.1, appendix B).

  python -m train.main --config=configs/vicuna_13b_medusa1.py --workdir=runs/vicuna_13b_medusa1 \\
    --config.data=ShareGPT_V4.3_unfiltered_cleaned_split.json

Data: as for 7B, 230 million tokens in two epochs.
Hardware: one accelerator with 80 GB, or several, over which the backbone is sharded. According to
the compilers, the run fits one H100 (54.5 of 84.9 GB), a TPU v5e:2x4 (11.2 of 16.9 GB on each
chip), a v5p:2x2x1 (21.3) or a v6e:2x2 (21.2; docs/tpu.md).
Hours: not in the paper; not measured here. The compilers' estimates, which leave out waiting: 2.1
on one H100, 1.9 on a v5e:2x4, 1.6 on a v5p:2x2x1, 1.5 on a v6e:2x2.
Expected: in the paper, 2.33 times the speed (figure 3). The authors' first release (Vicuna v1.3,
learning rate 1e-3, heads summed without weights, 537 steps of 128) logged top-1 .59 .34 .22 .15 .12
and top-5 .82 .58 .44 .35 .31 on its training data.
"""

from ml_collections import ConfigDict

from configs import vicuna_7b_medusa1


def get_config() -> ConfigDict:
    """Returns the configuration."""
    c = vicuna_7b_medusa1.get_config()
    c.model = "lmsys/vicuna-13b-v1.5"
    return c
