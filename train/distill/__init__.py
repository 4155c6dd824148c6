"""Self-distillation data: what people asked, and the model's own replies.

conversations reads the human turns, dialogues makes prompts of them, replies decodes these in
batches, files keeps the rows. Nothing here trains.
"""
