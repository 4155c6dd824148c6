"""Models in GGUF files: header, configuration, tokenizer and dequantised weights; read only.

`load` gives what a Hugging Face folder gives; nothing else knows this format.
"""
