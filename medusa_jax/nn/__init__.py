"""Networks as flax.linen modules whose parameters are plain nested dicts."""
