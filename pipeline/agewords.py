"""The age-word filter: no text that may mention young people ever reaches a generator (evaluation specification §1).

One match in any text of a row drops the row. A text is read in these ways, all of them without case:

1. as it is, and normalised (NFKC, accents and invisible characters removed, look-alike letters made Latin, digits of
   every script ASCII): whole words of the lexicon, in order, reversed, or misspelt by one exchanged or lost letter;
   school years; ages below 18 in digits or words;
2. letter by letter, where letters may be apart ("c h-i.l d") or repeated ("kiiid"): words of the lexicon that begin
   and end where words of the text do;
3. the same for fragments that no ordinary phrase contains, anywhere ("xxchildyy");
4. 2 and 3 again with digits and signs read as letters ("ch1|d"), where a text has any.

The specification asks for 3 on everything; short words are left to 2, since "in fantasy" contains one. It drops too
much rather than too little ("a 30 year old house" goes), and says how much. Its work grows with a text's length alone.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

LEXICON_VERSION = "2"

# Whole words. The last line holds slang for minors.
WORDS = """
child children childs childhood childlike kid kids kiddo kiddos kiddy kiddie kiddies kidz toddler toddlers toddling
infant infants baby babies babys newborn newborns neonate neonates neonatal teen teens teenz teener teeners teenage
teenaged teenager teenagers teenybopper teenyboppers tween tweens preteen preteens underage underaged minor minors boy
boys boyz girl girls girlz girlie girlies gurl gurls grl grls boyish girlish schoolboy schoolboys schoolgirl schoolgirls
schoolkid schoolkids schoolchild schoolchildren schoolage schoolaged highschool highschooler highschoolers adolescent
adolescents adolescence juvenile juveniles prepubescent pubescent prepubertal pubertal puberty kindergarten
kindergartener kindergarteners kindergartner kindergartners kindergarden preschool preschooler preschoolers daycare
elementary pupil pupils yo yearold yearsold youth youths youthful young younger youngest youngster youngsters youngling
younglings student students lad lads laddie lass lasses lassie bairn bairns tyke tykes rugrat rugrats nymphet nymphets
loli lolis lolita lolitas lolicon shota shotas shotacon jailbait
""".split()
# Anywhere in text without spaces and punctuation.
FRAGMENTS = """
child toddler babies newborn neonat teenage preteen underage girl schoolboy schoolkid adolescen juvenile kindergart
preschool elementary yearold yearsold youngster pubescen prepubert lolita lolicon shotacon jailbait
""".split()
# Ordinary words side by side that hold a word or a fragment: none where they stand exactly so; and two names.
ORDINARY = frozenset(
    ("min or", "lol i", "lol is", "shot a", "shot as", "shot a con", "under a ge", "todd ler", "kidd", "ladd")
)
# Ordinary words that a slip would make of one of the lexicon, or that it is backwards.
NO_MISSPELLING = frozenset(("babes", "bains", "barns", "lasse", "lassi", "neet", "shots"))
# Pictures of babies, children, boys and girls, and the school signs.
PICTURES = "\U0001f476\U0001f9d2\U0001f466\U0001f467\U0001f6b8\U0001f37c\U0001f6bc"
# A labelled taxonomy item that concerns minors (ProGuard).
LABELS = ("C11S1",)

_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
).split()
_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth"
)
_ROMAN = "ii|iii|iv|vi|vii|viii|ix|xi|xii|xiii|xiv|xv|xvi|xvii"
# In these patterns a space stands for any gap: they read text whose gaps are single spaces.
_BELOW_18 = rf"(?:1 ?[0-7]|0*[0-9]|{'|'.join(' ?'.join(number) for number in _NUMBERS)}|{_ROMAN})"
_TEENS = f"(?:1[2-7]|{'|'.join(_NUMBERS[12:])})"
_NTH = rf"(?:1st|2nd|3rd|[4-9]th|1[0-7]th|{'|'.join(_ORDINALS.split())})"
_EIGHTEEN = "(?:18|eighteen)"
_AGES = re.compile(
    rf"(?<!\w)(?:{_BELOW_18} ?(?:years?|yrs?|ys?(?= old)|y ?o|(?:months?|weeks?|days?|summers?|winters?) ?old)"
    rf"|a ?g ?e ?[ds]? ?(?:(?:of|is|at|about|around|only|just|under|below|between|group) ?){{,2}}{_BELOW_18}"
    rf"|\w+ years? ?old|year {_BELOW_18} old|under ?age|y ?o"
    rf"|(?:under|below|less than|not yet|u) ?(?:the age of )?{_EIGHTEEN}|(?:under|u|barely|turn(?:s|ed|ing)) ?{_TEENS}"
    rf"|{_NTH} (?:birthday|graders?|grade)|sweet ?sixteen|day care|rug rats?"
    r"|(?:grade|middle|high|primary|nursery|secondary|junior ?high) ?school(?:s|ers?)?|junior high)(?!\w)"
)
_TOKEN = re.compile(r"[^\W_]+")
_RUN = re.compile(r"([^\W_])\1*")
_PICTURE = re.compile(f"[{PICTURES}]")
_LABEL = re.compile(r"(?<!\w)(?:" + "|".join(LABELS) + r")(?!\w)", re.IGNORECASE)

# Letters and digits, and what looks like them: Greek, Cyrillic, Armenian, small capitals, strokes, hooks, turned ones.
_LIKE = {
    "a": "αаᴀɐɑ", "b": "βвьʙɓ", "c": "ϲсᴄɔ", "d": "δԁᴅđɗ", "e": "εеᴇəǝ", "g": "ցɡɢɠ", "h": "һнհʜħ",
    "i": "ιіıɪɨɩ", "j": "јϳȷᴊ", "k": "κкᴋƙ", "l": "ӏլʟłλ", "m": "мᴍ", "n": "νηпиոɴŋɳ", "o": "οоσօᴏø",
    "p": "ρрᴘ", "q": "ԛ", "r": "гяʀ", "s": "ѕꜱ", "t": "τтᴛŧ", "u": "υսцᴜ", "v": "ᴠѵ", "w": "ωԝᴡ", "x": "χх",
    "y": "γуүʏ", "z": "ᴢ", "3": "з", "4": "ч",
}  # fmt: skip
_CAPITALS = str.maketrans("ΗΥ", "hy")  # which as small letters look like n and u
_READ: dict[int, str | None] = {ord(like): latin for latin, likes in _LIKE.items() for like in likes}
# Flag letters, white letters on black circles and squares: no compatibility form of the plain ones.
_READ |= {first + i: chr(ord("a") + i) for first in (0x1F1E6, 0x1F150, 0x1F170) for i in range(26)}
_READ |= dict.fromkeys((0x115F, 0x1160, 0x3164, 0xFFA0))  # Hangul fillers: letters that are seen as nothing
# Digits and signs read as letters, and letters that share one made alike: "1" may be i or l, "6" may be b or g.
_SIGN = re.compile(r"[1!|03€4@5$7+689(<¢]")
_ALIKE = str.maketrans("1!|l03€4@5$7+689g(<¢", "iiiioeeaassttbbbbccc")
_IN_WORDS = str.maketrans("013457@$!|€+", "oieastasiiet")
_IN_NUMBERS = re.compile(r"(?<![^\W\d])[il|!o](?=\d)|(?<=\d)[il|!o](?![^\W\d])")


class _Form(NamedTuple):
    """A word as a sequence of letters, each of which a text repeats at least `least` times."""

    letters: str
    least: tuple[int, ...]
    whole: bool


def _forms(words: Iterable[str], whole: bool) -> Iterator[_Form]:
    """Every word with its letters apart, and with equal neighbours as one."""
    for word in dict.fromkeys(words):
        yield _Form(word, (1,) * len(word), whole)
        runs = [(letter, len(list(run))) for letter, run in groupby(word)]
        if len(runs) < len(word):
            yield _Form("".join(letter for letter, _ in runs), tuple(count for _, count in runs), whole)


def _misspelt(word: str) -> Iterator[str]:
    """The first letter kept: neighbours exchanged (of five letters or more), a letter lost (of six or more)."""
    for at in range(1, len(word)):
        if len(word) >= 5 and at + 1 < len(word):
            yield word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        if len(word) >= 6:
            yield word[:at] + word[at + 1 :]


_LEXICON = frozenset(WORDS) - {"yo"}  # "30yo" is of age
_PART = re.compile(r"[^\s._-]+")
_BACKWARDS = [word[::-1] for word in WORDS if len(word) >= 4]
_SPELLINGS = {*WORDS, *_BACKWARDS, *(typo for word in WORDS for typo in _misspelt(word))} - NO_MISSPELLING
_LONG = [word for word in WORDS if len(word) > 2] + [word for word in _BACKWARDS if len(word) > 4]
_PLAIN, _SIGNED = (
    [*_forms((w.translate(table) for w in _LONG), True), *_forms((w.translate(table) for w in FRAGMENTS), False)]
    for table in ({}, _ALIKE)
)


def mentions_age(text: str) -> bool:
    """True where `text` matches the filter and must not be used for generation."""
    if _PICTURE.search(text) or _LABEL.search(text):
        return True
    plain = normalise(text)
    if any(_says(form) for form in {text.casefold(), plain}) or _spells(plain, plain, _PLAIN):
        return True
    if not _SIGN.search(plain):
        return False
    in_words = re.sub(r"\S+", _as_letters, plain)
    in_numbers = _IN_NUMBERS.sub(lambda found: "0" if found[0] == "o" else "1", plain)
    return _says(in_words) or _says(in_numbers) or _spells(plain, plain.translate(_ALIKE), _SIGNED)


def filter_age_words(rows: Iterable[Sequence[str | None]]) -> np.ndarray:
    """Mask (N,) bool, True for each row to drop. A row is all its texts: pairs and quadruples give every member."""
    return np.array([any(text is not None and mentions_age(text) for text in row) for row in rows], dtype=bool)


def normalise(text: str) -> str:
    """Lower-case NFKC text without accents and invisible characters, look-alike letters made Latin, digits ASCII."""
    if text.isascii():
        return text.lower()
    compatible = unicodedata.normalize("NFKC", text).translate(_CAPITALS)
    decomposed = unicodedata.normalize("NFKD", compatible.casefold())
    kept = (c for c in decomposed if unicodedata.category(c) not in ("Mn", "Me", "Cf"))
    return "".join(str(unicodedata.decimal(c, c)) for c in kept).translate(_READ)


def _says(text: str) -> bool:
    """A word of the lexicon, a school year or an age below 18."""
    tokens = _TOKEN.findall(text.replace("<", " under "))
    if not _SPELLINGS.isdisjoint(tokens) or not _LEXICON.isdisjoint(token.strip("0123456789") for token in tokens):
        return True
    return _AGES.search(" ".join(tokens)) is not None


def _spells(text: str, read: str, forms: Sequence[_Form]) -> bool:
    """One of `forms` letter by letter. `read` is `text` or, as long as it, the text with signs read as letters."""
    runs = list(_RUN.finditer(read))
    letters = "".join(run[1] for run in runs)
    for form in forms:
        at = letters.find(form.letters)
        while at >= 0:
            if _stands(form, runs[at : at + len(form.letters)], text, signs=read is not text):
                return True
            at = letters.find(form.letters, at + 1)
    return False


def _stands(form: _Form, runs: Sequence[re.Match[str]], text: str, signs: bool) -> bool:
    """`runs` are those of the form, whole where it asks for that, and no ordinary words."""
    start, end = runs[0].start(), runs[-1].end()
    inner = str.isalnum if signs else str.isalpha
    if form.whole and (inner(text[start - 1 : start]) or inner(text[end : end + 1])):
        return False
    if any(len(run[0]) < least for run, least in zip(runs, form.least, strict=True)):
        return False
    found = text[start:end]
    if not signs:
        ends = not text[end : end + 1].isalpha()
        return " ".join(found.split()) not in (ORDINARY if form.whole or not ends else ())
    parts = _PART.findall(found)  # a number between words ("8 a by") is a number; between letters it may be one
    lone = any(not any(map(str.isalpha, part)) for part in parts) and max(map(len, parts)) > 1
    return _SIGN.search(found) is not None and sum(map(str.isalpha, found)) > 1 and not lone


def _as_letters(found: re.Match[str]) -> str:
    """A word with digits or signs in it, as letters; a bare number as it is."""
    return found[0].translate(_IN_WORDS) if any(map(str.isalpha, found[0])) else found[0]
