"""From conversations to packed batches of tokens."""
