class Error(Exception):
    """What the library says, in one line: the thing, its value, the limit.

    `code` is one of "invalid argument", "not found", "out of range", "unsupported", "corrupt",
    "resource exhausted", "input/output", "cancelled", "internal".
    """

    def __init__(self, message: str, code: str = "internal") -> None:
        super().__init__(message)
        self.code = code
