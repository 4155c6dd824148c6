"""Models in and out: Hugging Face folders and hub ids, GGUF files, tokenizers, Medusa heads.

`load` is the way in. Never uses `decoding` or `objectives`.
"""
