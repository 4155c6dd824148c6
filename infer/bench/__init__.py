"""What `infer.benchmark` measures: whole models against each other, and the steps of a shape.

`checkpoint` and `steps` are its two modes; the other files are what they need.
"""
