"""What training minimises, one function per equation of the paper; pure functions of arrays.

May use `nn` and `tree`; optimizers and data live in `train`.
"""
