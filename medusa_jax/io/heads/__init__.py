"""Medusa heads on disk: the published formats, loading and saving.

The names of tensors are in the records of `medusa_jax.nn.params`; everything else is here.
"""
