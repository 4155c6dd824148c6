"""Training of Medusa heads: thin programs over the medusa_jax library."""
