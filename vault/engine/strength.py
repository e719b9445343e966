"""How strong a new vault password is, and phrases that are strong. Control plane; pure.

The floor is 14 characters that are not a common password, a pattern or a repetition, or a generated phrase: six words of
2,048, drawn with equal chance, 66 bits. Each try costs Argon2id's 64 MiB and about a tenth of a second, so that 2^66 tries
are out of reach. How strong a chosen password is, nobody can compute: the estimate counts what a guesser tries first
(words, repetitions, rows of the keyboard, years) as little and other letters as those of some language, and knows nothing
of who chose it, nor of lists of leaked passwords.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vault.engine.buffers import Fill, fill_random
from vault.engine.errors import PasswordTooWeak
from vault.engine.words import WORDS

MIN_CHARACTERS: Final = 14
MIN_BITS: Final = 45.0
PHRASE_WORDS: Final = 6
PHRASE_BITS: Final = PHRASE_WORDS * math.log2(len(WORDS))

COMMON: Final = frozenset(
    """
    123456 password passw0rd admin administrator qwerty qwertz azerty letmein welcome monkey dragon master login abc123
    iloveyou sunshine princess football baseball shadow superman batman trustno1 starwars whatever freedom secret changeme
    default root toor guest test tester testing tokenhub vault unlock gateway openai anthropic provider company business
    summer winter spring autumn january february march april june july august september october november december monday
    tuesday wednesday thursday friday saturday sunday hello world access manager system server database postgres redis
    correcthorsebatterystaple correct horse battery staple thequickbrownfox mynameis ihateyou iloveyouverymuch
    """.split()  # noqa: SIM905 - as it is easiest to read
)
_ROWS = (
    "1234567890",
    "qwertyuiop",
    "qwertzuiop",
    "asdfghjkl",
    "zxcvbnm",
    "yxcvbnm",
    "azertyuiop",
    "abcdefghijklmnopqrstuvwxyz",
)
_SUBSTITUTES = str.maketrans("013457@$!", "oleastasi")
_KNOWN = COMMON | frozenset(WORDS)
_LONGEST_KNOWN = max(map(len, _KNOWN))
_LETTER_BITS = 3.3
"""For each letter of an unknown word: between a language's (about 2) and a random one (4.7)."""
_CUT = "\0"
_LOOKED_AT = 256


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is looked for: what to say of it, its length at a place, how many bits it counts besides log2 of the length."""

    name: str
    find: Callable[[str, int], int]
    bits: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """About how many bits a guesser has to find, and what makes it weak, in words to show."""

    characters: int
    bits: float
    weaknesses: tuple[str, ...]

    @property
    def acceptable(self) -> bool:
        """Whether it is above the floor."""
        return self.characters >= MIN_CHARACTERS and self.bits >= MIN_BITS


def estimate_password(text: str) -> Estimate:
    """The estimate of a password. A pure function; it keeps nothing.

    The text is cut into the longest known pieces (words, keyboard rows, repetitions, digits); each counts as one choice
    among its kind, and what is between them by its characters.
    """
    characters = len(text)
    text = unicodedata.normalize("NFC", text[:_LOOKED_AT])
    plain = text.lower()
    bits, found = 0.0, set[str]()
    rest = ""
    at = 0
    while at < len(text):
        piece = next((piece for piece in _PIECES if piece.find(plain, at)), None)
        if piece is None:
            rest += text[at]
            at += 1
        else:
            length = piece.find(plain, at)
            bits += piece.bits + math.log2(length)
            found.add(piece.name)
            # A mark between two pieces, so that letters before and after a piece are no run of letters.
            rest += _CUT
            at += length
    bits += _count_rest(rest)
    weaknesses = (
        [f"it has {characters} characters, not {MIN_CHARACTERS}"] if characters < MIN_CHARACTERS else []
    )
    if bits < MIN_BITS:
        weaknesses += sorted(found) or ["it is too easy to guess"]
    return Estimate(characters, bits, tuple(weaknesses))


def check_password(text: str) -> None:
    """Raises PasswordTooWeak for a new password below the floor, saying why and what to do."""
    estimate = estimate_password(text)
    if estimate.acceptable:
        return
    raise PasswordTooWeak(
        f"this password is too weak: {'; '.join(estimate.weaknesses)}",
        param="password",
        hint=f"use {MIN_CHARACTERS} characters or more that nobody would try first, or a generated phrase of "
        f"{PHRASE_WORDS} words",
        details={"bits": round(estimate.bits), "weaknesses": list(estimate.weaknesses)},
    )


def generate_phrase(*, fill: Fill = fill_random) -> str:
    """Six random words with dashes: 66 bits. A text, which can't be overwritten: it is shown once."""
    numbers = bytearray(2 * PHRASE_WORDS)
    fill(memoryview(numbers))
    # 65,536 is a multiple of 2,048, so that each word has the same chance.
    chosen = [
        WORDS[int.from_bytes(numbers[at : at + 2], "big") % len(WORDS)] for at in range(0, len(numbers), 2)
    ]
    numbers[:] = bytes(len(numbers))
    return "-".join(chosen)


def _find_repetition(plain: str, at: int) -> int:
    """The length of what only repeats the one to four characters before `at`, three characters or more."""
    for period in range(1, min(4, at) + 1):
        end = at
        while end < len(plain) and plain[end] == plain[end - period]:
            end += 1
        if end - at >= max(2, period):
            return end - at
    return 0


def _find_word(plain: str, at: int) -> int:
    for length in range(min(_LONGEST_KNOWN, len(plain) - at), 2, -1):
        piece = plain[at : at + length]
        if piece in _KNOWN or piece.translate(_SUBSTITUTES) in _KNOWN:
            return length
    return 0


def _find_row(plain: str, at: int) -> int:
    for length in range(min(26, len(plain) - at), 2, -1):
        piece = plain[at : at + length]
        if any(piece in row or piece[::-1] in row for row in _ROWS):
            return length
    return 0


def _find_year(plain: str, at: int) -> int:
    piece = plain[at : at + 4]
    return 4 if len(piece) == 4 and piece.isdigit() and piece[:2] in ("19", "20") else 0


def _count_rest(rest: str) -> float:
    """The bits of what is no known piece: letters in a run as a language's, others by the kinds of characters there are."""
    runs = re.findall(r"[^\W\d_]{4,}", rest)
    others = re.sub(r"[^\W\d_]{4,}", "", rest).replace(_CUT, "")
    # The same sign between all words is one choice, not many.
    signs = [character for character in others if not character.isalnum()]
    repeated = len(signs) - len(set(signs))
    return (
        sum(map(len, runs)) * _LETTER_BITS
        + (len(others) - repeated) * math.log2(_alphabet(others) or 1)
        + repeated
    )


def _alphabet(text: str) -> int:
    """How many characters there are of the kinds in this text."""
    kinds = (
        (26, any("a" <= c <= "z" for c in text)),
        (26, any("A" <= c <= "Z" for c in text)),
        (10, any("0" <= c <= "9" for c in text)),
        (33, any(c.isascii() and not c.isalnum() for c in text)),
        (100, any(not c.isascii() for c in text)),
    )
    return sum(size for size, there in kinds if there)


_PIECES = (
    _Piece("it repeats itself", _find_repetition, 1.0),
    _Piece("it follows a row of the keyboard or the alphabet", _find_row, 4.0),
    _Piece("it is made of common words", _find_word, math.log2(len(_KNOWN)) - 2),
    _Piece("it has a year in it", _find_year, 5.0),
)
"""What is looked for at each place, in this order."""
