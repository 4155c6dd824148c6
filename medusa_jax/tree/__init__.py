"""Token trees: paths become the buffers of tree attention, presets, and the search for a good tree.

Plain numpy; nothing here knows of models or decoding.
"""
