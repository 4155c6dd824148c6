"""Self-distillation data: prompts out of conversations, and the model's own replies to them."""
