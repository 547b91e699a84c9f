"""Tell which frames a condition selects.

A condition compares catalog columns: ``exposure < 10 and filter == Ha``. The grammar is closed and small; nothing is
evaluated as a program::

    condition  = any of
    any of     = all of { "or" all of }
    all of     = one { "and" one }
    one        = "not" one | "(" condition ")" | comparison
    comparison = column ( "<" | "<=" | ">" | ">=" | "==" | "=" | "!=" | "~" ) value
               | column "in" "(" value { "," value } ")"
               | column "is" [ "not" ] "unknown"
               | column
    value      = number | word | "quoted text"

``~`` compares with a pattern of ``*``, ``?`` and ``[]``. Text is compared without case. A column alone is for columns
of yes and no. A missing value satisfies no comparison; ``is unknown`` asks for it.
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from wbpy.catalog import COLUMNS
from wbpy.errors import ConfigError
from wbpy.grouping import field_value
from wbpy.model import Frame, Scalar

Condition = Callable[[Frame], bool]

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"[^"]*"|'[^']*')|(?P<sign><=|>=|==|!=|<|>|=|~|\(|\)|,)|(?P<word>[^\s<>=!~(),"']+))"""
)

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
}

_NUMBERS = {column.name for column in COLUMNS if column.dtype in ("Float64", "Int64")} | {"temperature"}
_BOOLEANS = {column.name for column in COLUMNS if column.dtype == "boolean"} | {"cooled"}
_TEXTS = {column.name for column in COLUMNS if column.dtype == "string" and column.name != "keywords"} | {"name"}


class _Token(NamedTuple):
    kind: str
    text: str


def parse_condition(text: str, keywords: Sequence[str] = ()) -> Condition:
    """Return a condition on catalog columns as a function of a frame.

    Parameters
    ----------
    text : str
        See the grammar at the top of this module.
    keywords : sequence of str
        Names of the user's keywords, which may be used like columns of text.

    Raises
    ------
    ConfigError
        If it is not a condition; the message says where and what was expected.

    Examples
    --------
    >>> short = parse_condition("role == light and exposure < 10")
    """
    return _Parser(text, keywords).parse()


class _Parser:
    def __init__(self, text: str, keywords: Sequence[str]) -> None:
        self.text = text
        self.keywords = {name.upper() for name in keywords}
        self.tokens: list[_Token] = []
        at = 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            if found is None:
                raise self.wrong(f"cannot read {text[at:].strip()!r}")
            kind = str(found.lastgroup)
            self.tokens.append(_Token(kind, found[kind]))
            at = found.end()
        self.at = 0

    def wrong(self, what: str) -> ConfigError:
        return ConfigError(f"--exclude {self.text}: {what}. Expected a file, or a condition such as exposure < 10")

    def peek(self) -> str:
        return self.tokens[self.at].text if self.at < len(self.tokens) else ""

    def word(self, *names: str) -> bool:
        """Return whether the next token is one of these words or signs, and go past it."""
        if self.at < len(self.tokens) and self.tokens[self.at].kind != "text" and self.peek().lower() in names:
            self.at += 1
            return True
        return False

    def take(self) -> _Token:
        if self.at >= len(self.tokens):
            raise self.wrong("it ends too early")
        self.at += 1
        return self.tokens[self.at - 1]

    def parse(self) -> Condition:
        condition = self.any_of()
        if self.at < len(self.tokens):
            raise self.wrong(f"{self.peek()!r} is one too many")
        return condition

    def any_of(self) -> Condition:
        parts = [self.all_of()]
        while self.word("or"):
            parts.append(self.all_of())
        return parts[0] if len(parts) == 1 else lambda frame: any(part(frame) for part in parts)

    def all_of(self) -> Condition:
        parts = [self.one()]
        while self.word("and"):
            parts.append(self.one())
        return parts[0] if len(parts) == 1 else lambda frame: all(part(frame) for part in parts)

    def one(self) -> Condition:
        if self.word("not"):
            inner = self.one()
            return lambda frame: not inner(frame)
        if self.word("("):
            inner = self.any_of()
            if not self.word(")"):
                raise self.wrong("a bracket is not closed")
            return inner
        return self.comparison()

    def comparison(self) -> Condition:
        token = self.take()
        column = self.column(token)
        if self.word("is"):
            negative = self.word("not")
            if not self.word("unknown"):
                raise self.wrong("after 'is' it says 'unknown' or 'not unknown'")
            return lambda frame: (_value(frame, column) is None) is not negative
        if self.word("in"):
            if not self.word("("):
                raise self.wrong("after 'in' comes a list in brackets")
            choices = [self.equals(column, "==", self.value())]
            while self.word(","):
                choices.append(self.equals(column, "==", self.value()))
            if not self.word(")"):
                raise self.wrong("the list of 'in' is not closed")
            return lambda frame: any(choice(frame) for choice in choices)
        sign = self.peek()
        if self.word(*_COMPARE, "~"):
            return self.equals(column, sign, self.value())
        if column in _BOOLEANS:
            return lambda frame: _value(frame, column) is True
        raise self.wrong(f"after {token.text} comes a comparison such as <, ==, ~, 'in' or 'is unknown'")

    def column(self, token: _Token) -> str:
        name = token.text.lower()
        if token.kind == "word" and name in _NUMBERS | _BOOLEANS | _TEXTS:
            return name
        if token.kind == "word" and name.upper() in self.keywords:
            return name.upper()
        known = ", ".join(sorted(_NUMBERS | _BOOLEANS | _TEXTS) + sorted(self.keywords))
        raise self.wrong(f"there is no column {token.text!r}; there are {known}")

    def value(self) -> str:
        token = self.take()
        if token.kind == "sign":
            raise self.wrong(f"a value was expected before {token.text!r}")
        return token.text[1:-1] if token.kind == "text" else token.text

    def equals(self, column: str, sign: str, wanted: str) -> Condition:
        """Return the comparison of a column with a value, in the column's own type."""
        if sign == "~":
            pattern = wanted.casefold()
            return lambda frame: (
                (value := _value(frame, column)) is not None and fnmatch.fnmatchcase(str(value).casefold(), pattern)
            )
        compare = _COMPARE[sign]
        if column in _BOOLEANS:
            if wanted.lower() not in ("true", "false", "yes", "no") or sign not in ("==", "=", "!="):
                raise self.wrong(f"{column} is true or false")
            flag = wanted.lower() in ("true", "yes")
            return lambda frame: (value := _value(frame, column)) is not None and compare(bool(value), flag)
        if column in _NUMBERS:
            try:
                number = float(wanted)
            except ValueError:
                raise self.wrong(f"{column} is a number, and {wanted!r} is none") from None
            return lambda frame: isinstance(value := _value(frame, column), (int, float)) and compare(value, number)
        text = wanted.casefold()
        return lambda frame: (
            (value := _value(frame, column)) is not None and compare(str(value).casefold(), text)  # type: ignore[arg-type]
        )


def _value(frame: Frame, column: str) -> Scalar:
    if column == "name":
        return frame.path.replace("\\", "/").rpartition("/")[2]
    return field_value(frame, column)


def parse_exclusion(text: str, frames: Sequence[Frame], keywords: Sequence[str] = ()) -> Condition:
    """Return what ``--exclude`` selects: the files of a name or path, or those that satisfy a condition.

    Parameters
    ----------
    text : str
        Path, end of a path, file name with or without ``*`` and ``?``, or a condition.
    frames : sequence of Frame
        All that take part: tell a file's name from a condition.
    keywords : sequence of str
        As for :func:`parse_condition`.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    pattern = text.strip().replace("\\", "/").removeprefix("./")

    def named(frame: Frame) -> bool:
        path = frame.path.replace("\\", "/")
        return path == pattern or fnmatch.fnmatchcase(path, f"*/{pattern.lstrip('/')}")

    if pattern and any(named(frame) for frame in frames):
        return named
    if not re.search(r"[<>=~\s]", text) and text.strip().lower() not in _BOOLEANS:
        # A single word without a comparison can only be meant as a file.
        return lambda frame: False
    return parse_condition(text, keywords)
