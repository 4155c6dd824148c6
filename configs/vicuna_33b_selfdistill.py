"""Self-distilled MEDUSA-2 for Vicuna-33B v1.3 in one stage (paper, section 2.3.2, appendix B).

  python -m train.self_distill --model lmsys/vicuna-33b-v1.3 --prompts sharegpt.json \\
    --output replies.jsonl --max_new_tokens 1024 --mesh tensor=4
  python -m train.main --config=configs/vicuna_33b_selfdistill.py --config.data=replies.jsonl \\
    --workdir=runs/vicuna_33b_selfdistill

On a slice with several hosts, run both commands on all of them, with the data and the folder on a
disk that they share (docs/tpu.md).

Data: about 100k conversations: the human turns of ShareGPT, answered by the model at temperature
0.3. Each host spreads the model (65 GB in bfloat16) over its own four chips and takes its share of
the prompts; any other engine may write the file instead.
Hardware: the authors' files are for 8 GPUs. According to the compiler, a v5p:2x2x2 (8 chips) will
do: training takes 26.9 of 102.8 GB per chip, replies 29.5 GB with 16 full contexts at once
(docs/plan.md). So will a v5p:2x2x1 (47.9 GB), a v6e:2x4 (27.2 of 33.5 GB) and four H100 (62.3 of
84.9). On v5e's it would take more chips than the 8 rows of a part can be spread over (docs/tpu.md).
Hours: not in the paper; not measured here. The compiler's estimates, which leave out waiting: 7.0
on a v5p:2x2x2, 14.2 on a v5p:2x2x1, 6.2 on a v6e:2x4, 3.7 on four H100 (the roofline alone), for
200 million tokens (two epochs of conversations of 1000 tokens).
Expected: in the paper, MT-bench quality 7.18 (0.05 above the base model) at 2.35 times the speed,
3.01 tokens per step by typical acceptance (table 1).
"""

from ml_collections import ConfigDict

from configs import zephyr_7b_selfdistill


def get_config() -> ConfigDict:
    """Returns the configuration."""
    c = zephyr_7b_selfdistill.get_config()
    c.model = "lmsys/vicuna-33b-v1.3"
    c.accumulate = 16
    return c
