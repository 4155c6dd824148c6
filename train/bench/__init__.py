"""What `python -m train.benchmark` is made of: a job, our side, torch's side, and the turns they take.

Uses `train`; nothing uses it but the command.
"""
