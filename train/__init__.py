"""Training of Medusa heads: thin programs over the medusa_jax library.

The commands are `main`, `prompts`, `self_distill`, `evaluate`, `report`, `export`, `benchmark`,
`plan` and `data.show`; what several need is in the folders. May use `medusa_jax` and `configs`, not
`infer`.
"""
