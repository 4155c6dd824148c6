"""What `python -m infer.benchmark` is made of: contenders, shapes, experiments, reports."""
