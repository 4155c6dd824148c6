"""What `python -m train.benchmark` is made of."""
