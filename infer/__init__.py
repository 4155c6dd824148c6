"""Command lines that decode and measure: thin programs over the medusa_jax library.

`generate`, `chat`, `tune`, `benchmark` and `plan` are commands; the other files are what they are
made of. May use `medusa_jax`, never `train`.
"""
