"""Kinds of prompts that need a text: from a conversation, a problem or an answer."""

from train.distill.kinds.kind import ABOUT_CODE, MORE, SHORTER, Kind


def _around(*instructions: str) -> tuple[str, ...]:
    """Each instruction in front of the text and after it."""
    before = (f"{instruction}\n\n{{text}}" for instruction in instructions)
    after = (f"{{text}}\n\n{instruction}" for instruction in instructions)
    return (*before, *after)


KINDS = (
    Kind("first", "opening", 140, ("{text}",), MORE),
    Kind("turns", "dialogue", 85, ("{text}",)),
    Kind(
        "problem",
        "problem",
        70,
        (
            "{text}",
            "{text}",
            "{text}\n\nThink step by step.",
            "Solve this problem: {text}",
            "{text} Give only the answer.",
        ),
        ("Explain the second step.", "Write the answer as one equation.", "Check the result."),
    ),
    Kind(
        "summary",
        "passage",
        60,
        (
            *_around(
                "Summarize the following text.",
                "Summarise the text in one sentence.",
                "Write a summary of at most 30 words.",
                "Give a brief summary of this passage.",
                "Give the main points of the text as a list.",
                "List the {few} key points.",
                "What is the main idea of this text?",
                "TL;DR",
            ),
            "Article: {text}\n\nSummary:",
            "can you summarize this? {text}",
        ),
        (*SHORTER, "Now translate the summary into {language}.", "Give it a title."),
    ),
    Kind(
        "heading",
        "passage",
        20,
        _around(
            "Suggest a title for this text.",
            "What would be a good headline for the text?",
            "Give me {few} titles for the following paragraph.",
            "Write a tweet about this text.",
            "What is the text about? Answer with a few words.",
        ),
        ("Give me two more.", "Make it funnier.", "Now in {language}."),
    ),
    Kind(
        "rewriting",
        "passage",
        50,
        _around(
            "Rewrite the text in a formal style.",
            "Rewrite this in simple words.",
            "Rewrite the following paragraph so that a {reader} understands it.",
            "Paraphrase the following text.",
            "Make this text shorter.",
            "Rewrite the text in the first person.",
            "Turn the text into a dialogue between two friends.",
            "Rewrite it as a {form}.",
            "Improve the style of this paragraph.",
        ),
        SHORTER,
    ),
    Kind(
        "extraction",
        "passage",
        50,
        _around(
            "List all names that are mentioned in the text.",
            "Extract the nouns of the first sentence.",
            "Extract all numbers and dates from the text; if there are none, say so.",
            "Which people, places and organizations does the text mention? Answer in JSON.",
            "List the {few} most important keywords, separated by commas.",
            "Fill a table with the terms of the text and what they mean.",
            "Which topic does the text belong to: business, science, sports, technology or art?",
            "How many sentences does the text have?",
            "Output the key facts of the text as JSON.",
        ),
        ("Sort them alphabetically.", "Now as CSV.", "Only the first one, please."),
    ),
    Kind(
        "reading",
        "passage",
        50,
        (
            *_around(
                "What does the author want to say?",
                "Who would be interested in this text, and why?",
                "Answer from the text: what is the most important advice or fact?",
                "Write {few} questions that the text answers.",
                "Which claim of the text could be wrong? Explain.",
                "Is the text positive, negative or neutral? Explain briefly.",
                "What problem does the text describe, and what does it suggest?",
                "Is the text a description, an instruction or an opinion?",
                "What is missing in this text?",
            ),
            "Context: {text}\n\nQuestion: What is this about?\nAnswer:",
            "Context: {text}\n\nQuestion: Why does this matter?\nAnswer:",
        ),
        (*MORE, "Quote the sentence that says so."),
    ),
    Kind(
        "continuation",
        "passage",
        20,
        _around(
            "Continue the text.",
            "Write the next paragraph.",
            "Add a conclusion to the text.",
            "Write an introduction for this text.",
        ),
    ),
    Kind(
        "translation",
        "sentence",
        60,
        (
            *_around(
                "Translate into {language}.",
                "Translate the sentence into {language}:",
                "What is this in {language}?",
                "Say it in {language}.",
            ),
            'Translate "{text}" to {language}.',
            'How do you say "{text}" in {language}?',
            "English: {text}\n{language}:",
        ),
        ("And in {other_language}?", "Translate it back.", "Explain the grammar.", "Shorter."),
    ),
    Kind(
        "sentence",
        "sentence",
        20,
        _around(
            "Is this true or false?",
            "Rewrite the sentence in the past tense.",
            "Rewrite the sentence in the passive voice.",
            "Turn it into a question.",
            "Is this sentence positive, negative or neutral?",
            "Paraphrase this in {few} different ways.",
            "Say the opposite.",
            "Find a synonym for each adjective in this sentence.",
            "Continue the story.",
        ),
        ("Why?", "Another one, please.", "Make it shorter."),
    ),
    Kind(
        "spelling",
        "typos",
        20,
        _around(
            "Correct the spelling.",
            "Fix all mistakes in this sentence.",
            "Correct the following sentence:",
            "Proofread this and list the mistakes.",
        ),
        ("Which words were wrong?", "Now say it more politely."),
    ),
    Kind(
        "code",
        "code",
        35,
        _around(
            "Explain this code.",
            "What does this code do?",
            "Add comments to this code.",
            "Find the bugs in this code.",
            "Rewrite this code in {computer_language}.",
            "Which language is this, and what is it for?",
            "Refactor this code.",
            "Explain the code line by line.",
        ),
        ABOUT_CODE,
    ),
    Kind(
        "explanation",
        "term",
        35,
        (
            'What is meant by "{text}"?',
            'Explain "{text}" in one sentence.',
            "{text}: what is that?",
            'Give an example of "{text}".',
            'Write a short paragraph about "{text}".',
            'Give {few} reasons why "{text}" matters.',
            'List {few} tips for "{text}".',
        ),
        MORE,
    ),
)
