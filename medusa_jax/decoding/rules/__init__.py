"""Acceptance rules: which drafted tokens count, and which token comes next. One file per rule.

A rule is a frozen dataclass with the methods of `rule.Rule`; the step knows nothing else of it.
"""
