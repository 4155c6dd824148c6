"""Mistakes that users can mend, printed in one line by the commands, and devices that are full."""


class UserError(ValueError):
    """Bad input: the message is one line that says what is wrong and how to mend it."""


def in_short(error: object) -> str:
    """An error's text as a part of one line; its class if it has no text."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def is_out_of_memory(error: Exception) -> bool:
    """Whether a `JaxRuntimeError` says that a device has no room, at compile or at run time.

    A TPU kernel that needs more than the core's own memory is no such case: no device would do.
    """
    return "RESOURCE_EXHAUSTED" in str(error) and "memory space vmem" not in str(error)
