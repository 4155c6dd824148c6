"""Scores of a model and its heads on conversations, teacher-forced.

`positions` measures every position, `scores` adds them up, `walk` counts the steps of decoding.
Nothing here trains.
"""
