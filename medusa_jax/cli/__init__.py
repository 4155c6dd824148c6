"""What all commands share: help, errors in one line, the console, flags about the model."""
