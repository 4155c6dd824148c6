"""Models in Hugging Face layout: configurations, weights and tokenizers, read and written.

Names of tensors are in the records of `medusa_jax.nn.params`; nothing else knows this layout.
"""
