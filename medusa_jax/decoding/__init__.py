"""The decode loop: a compiled step of verify, commit and draft, and what runs it.

Never uses `objectives` or `io`: nothing here reads files.
"""
