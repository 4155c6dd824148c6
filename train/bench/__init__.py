"""What `python -m train.benchmark` is made of: a job, our side, torch's side, their turns.

Uses `train`; nothing but the command uses it.
"""
