"""Token trees: paths become the buffers of tree attention, presets, and the search for a good tree.

NumPy on the host; nothing here knows of models or decoding.
"""
