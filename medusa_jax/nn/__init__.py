"""The networks: flax.linen modules whose parameters are plain nested dicts, listed in `params`.

Nothing here knows of trees, decoding or objectives, and nothing here reads files or makes meshes:
the records in `params` only name what others do with them.
"""
