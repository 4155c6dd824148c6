"""Medusa heads in every published checkpoint format: names of tensors, loading and saving."""
