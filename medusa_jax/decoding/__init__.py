"""The decode loop: a compiled step of verify, commit and draft, and what runs it.

`rules` judge a tree, `drafting` makes the next one, the `engine` keeps rows busy. Never uses
`objectives` or `io`: nothing here reads files.
"""
