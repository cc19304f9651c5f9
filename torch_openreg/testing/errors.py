"""What the tool says when it was called wrongly."""


class UsageError(Exception):
    """Wrong arguments, or files that cannot be read or written; exit status 2."""
