"""Training of Medusa heads: thin programs over the medusa_jax library.

Every command is a file here (`main`, `self_distill`, `evaluate`, `report`, `export`,
`benchmark`); what several need is in the folders. May use `medusa_jax` and `configs`, not `infer`.
"""
