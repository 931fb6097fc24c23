"""The C library's regular expressions: what SER uses, and what ours are compared with."""

import ctypes

EXTENDED, ICASE, NEWLINE = 1, 2, 4  # <regex.h> of the GNU C library
_GROUPS = 12


class _Span(ctypes.Structure):
    _fields_ = (("begin", ctypes.c_int), ("end", ctypes.c_int))


def library():
    """The C library when it is GNU's, else None."""
    found = ctypes.CDLL(None)
    return found if hasattr(found, "gnu_get_libc_version") else None


def search(pattern, text, *, lines=True, any_case=True):
    """(begin, end) of the match of *pattern* in *text*, None without one. Raises ValueError for a bad pattern."""
    library_ = library()
    space = ctypes.create_string_buffer(512)  # a regex_t has 64 bytes
    flags = EXTENDED | (ICASE if any_case else 0) | (NEWLINE if lines else 0)
    error = library_.regcomp(space, pattern.encode("ascii"), flags)
    if error:
        raise ValueError(error)
    spans = (_Span * _GROUPS)()
    try:
        if library_.regexec(space, text.encode("ascii"), _GROUPS, spans, 0):
            return None
        return spans[0].begin, spans[0].end
    finally:
        library_.regfree(space)
