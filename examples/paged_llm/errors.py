"""The one exception that callers are meant to show to a person."""


class InputError(ValueError):
    """A value that the caller supplied cannot be used; `argument` says which."""

    def __init__(self, argument: str, message: str):
        super().__init__(f"{argument}: {message}")
        self.argument = argument
        self.message = message
