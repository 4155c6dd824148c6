"""Drafting: the tree of guesses that the next step verifies. One file per kind of drafter.

A drafter is a frozen dataclass with the methods of `drafters.Drafter`; the step knows nothing else
of it.
"""
