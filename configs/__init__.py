"""Training configurations; each docstring gives the command, the hardware and the result.

`base` holds every key and its default; a recipe changes some of them. Nothing here imports the
trainer.
"""
