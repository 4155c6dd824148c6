"""What `infer.chat` is made of: the conversation, its commands, and what a person types."""
