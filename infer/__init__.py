"""Command lines that decode and measure: thin programs over the medusa_jax library.

`generate` answers prompts and `benchmark` measures; the other files are steps of theirs. May use
`medusa_jax`, never `train`.
"""
