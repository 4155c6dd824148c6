"""Models in GGUF files: header, configuration, tokenizer and dequantised weights; read only."""
