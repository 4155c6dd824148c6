"""Scores of a model and its heads on conversations, teacher-forced."""
