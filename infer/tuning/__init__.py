"""What `infer.tune` measures: acceptance of the heads' guesses, and the time of a step."""
