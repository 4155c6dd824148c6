"""Which tree fits a machine: step times, and the choice that follows from them and acceptance.

Nothing here runs a model: numbers in, decisions out. `infer.tune` measures, `decoding.auto` asks.
"""
