"""The decode loop: a compiled step of verify, commit and draft, and what runs it.

May use `nn`, `tree` and `chat`; nothing here reads files.
"""
