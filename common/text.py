"""Text that may come from elsewhere, made fit to be shown."""


def printable(text: str) -> str:
    """The text with what a terminal would act upon, or no encoding holds, written out: an escape becomes '\\x1b'."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
