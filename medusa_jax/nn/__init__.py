"""The networks: flax.linen modules whose parameters are plain nested dicts, listed in `params`.

Nothing here knows of trees, decoding, objectives, files or meshes.
"""
