"""Command lines that decode and measure: thin programs over the medusa_jax library."""
