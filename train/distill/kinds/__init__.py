"""Prompts of many kinds, since ShareGPT's first questions are not all that people ask.

material reads texts, about_texts and about_topics say what is asked, mix makes prompts of them.
"""
