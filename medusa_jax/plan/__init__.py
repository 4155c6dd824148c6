"""What a run would do, before there is a machine: compiled for hardware that is not there.

Facts (a compiled program, its memory, its collectives) and estimates (time), see docs/plan.md.
"""
