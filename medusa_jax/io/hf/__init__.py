"""Models in Hugging Face layout: configurations, weights and tokenizers, read and written."""
