"""What is sealed, as text that can be read in one way only."""


def field(value: str | None) -> str:
    """Return a field: the number of its bytes in UTF-8, a colon, the text; of None ``-``.

    Fields that are put one behind the other can be taken apart in one way only: where one ends is
    said before it begins, and no number begins with ``-``. So for a fixed number of fields no two
    lists are one text.

    Args:
        value: a text of any characters, or None for what is not there.
    """
    if value is None:
        return "-"
    return f"{len(value) if value.isascii() else len(value.encode())}:{value}"


def fields(*values: str | None) -> bytes:
    """Return some fields, one behind the other, as the bytes that a seal is made of.

    Args:
        values: always as many, and in the same order, for one label; the label is the first.
    """
    return "".join([field(value) for value in values]).encode()
