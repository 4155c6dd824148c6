"""Training configurations; each docstring gives the command, the hardware and the result."""
