"""Models in and out: Hugging Face folders and hub ids, GGUF files, tokenizers, Medusa heads.

`load` is the way in. May use `nn`, `tree` and `model`, never `decoding` or `objectives`.
"""
