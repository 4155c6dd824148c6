"""The engine: rows decode together and are refilled from a queue of prompts as they end.

It runs on the host and calls the compiled programs of `step` and `prefill`.
"""
