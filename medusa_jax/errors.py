"""The one exception for mistakes a user can mend; command lines print it and exit with code 2."""


class UserError(ValueError):
    """Bad input: the message is one line that says what is wrong and how to mend it."""
