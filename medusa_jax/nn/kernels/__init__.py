"""Pallas kernels, chosen by the platform that a program is lowered for."""
