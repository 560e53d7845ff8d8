"""The age-word filter: no text that may mention young people ever reaches a generator (evaluation specification §1).

Three passes, all case-insensitive; one match in any text of a row drops the row:

1. whole words of the lexicon, and ages below 18 in digits or words, in the text as it is;
2. the same on normalised text (NFKC, accents and invisible characters removed, look-alike letters and digits replaced),
   where the letters of a word may also be split by spaces or punctuation ("c h-i.l d");
3. words that no ordinary phrase contains, anywhere in the normalised text without spaces and punctuation.

The specification asks for pass 3 on everything; short words are left to pass 2, since "in fantasy" contains one.
It drops too much rather than too little ("a 30 year old house" goes), and says how much.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

LEXICON_VERSION = "1"

# Whole words. The last line holds slang for minors.
WORDS = """
child children childs childhood childlike kid kids kiddo kiddie kiddies toddler toddlers infant infants baby babies
newborn newborns teen teens teenage teenaged teenager teenagers tween tweens preteen preteens underage underaged minor
minors boy boys girl girls boyish girlish schoolboy schoolboys schoolgirl schoolgirls schoolkid schoolkids schoolchild
schoolchildren adolescent adolescents adolescence juvenile juveniles kindergarten kindergartener kindergartner preschool
preschooler preschoolers elementary pupil pupils yo yearold yearsold youth youths youthful young younger youngest
youngster youngsters student students
loli lolis lolita lolitas lolicon shota shotas shotacon jailbait
""".split()
# Anywhere in text without spaces and punctuation.
FRAGMENTS = """
child toddler babies newborn teenage preteen underage girl schoolboy schoolkid adolescen juvenile kindergart preschool
elementary yearold yearsold youngster lolita lolicon shotacon jailbait
""".split()
# Pictures of babies, children, boys and girls, and the school signs.
PICTURES = "\U0001f476\U0001f9d2\U0001f466\U0001f467\U0001f6b8\U0001f37c\U0001f6bc"
# A labelled taxonomy item that concerns minors (ProGuard).
LABELS = ("C11S1",)

_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
)
_BELOW_18 = "(?:" + "|".join(["1[0-7]", "0?[0-9]", *_NUMBERS.split()]) + ")"
_GAP = r"[\W_]*"
_AGES = re.compile(
    rf"(?<!\w)(?:{_BELOW_18}{_GAP}(?:years?|yrs?|y\W?o|months?{_GAP}old|weeks?{_GAP}old|days?{_GAP}old)"
    rf"|age[ds]?{_GAP}(?:of{_GAP}|is{_GAP}|at{_GAP})?{_BELOW_18}"
    rf"|\w+{_GAP}years?{_GAP}old|under{_GAP}(?:18|eighteen|age))(?!\w)",
    re.IGNORECASE,
)
_WHOLE = re.compile(r"(?<![^\W_])(?:" + "|".join(WORDS) + r")(?![^\W_])", re.IGNORECASE)
_SPLIT = re.compile(r"(?<![^\W_])(?:" + "|".join(_GAP.join(word) for word in WORDS) + r")(?![^\W_])")
_FRAGMENT = re.compile("|".join(FRAGMENTS))
_PICTURE = re.compile(f"[{PICTURES}]")
_LABEL = re.compile(r"(?<!\w)(?:" + "|".join(LABELS) + r")(?!\w)", re.IGNORECASE)
# Cyrillic and Greek letters that look like Latin ones; digits and signs read as letters. "1" is read as i and as l.
_LOOKALIKE = str.maketrans("асеһіјӏорѕухукмтԁԛԝαεικνορτυχ", "acehijlopsyxykmtdqwaeiknoptux")
_SIGNS = str.maketrans("0345789@$!|", "oeasteqasil")


def mentions_age(text: str) -> bool:
    """True where `text` matches the filter and must not be used for generation."""
    if _PICTURE.search(text) or _LABEL.search(text) or _WHOLE.search(text) or _AGES.search(text):
        return True
    plain = normalise(text)
    if _WHOLE.search(plain) or _AGES.search(plain):
        return True
    return any(_SPLIT.search(variant) or _FRAGMENT.search(_squeeze(variant)) for variant in _variants(plain))


def filter_age_words(rows: Iterable[Sequence[str | None]]) -> np.ndarray:
    """Mask (N,) bool, True for each row to drop. A row is all its texts: pairs and quadruples give every member."""
    return np.array([any(text is not None and mentions_age(text) for text in row) for row in rows], dtype=bool)


def normalise(text: str) -> str:
    """Lower-case NFKC text without accents and invisible characters, look-alike letters made Latin."""
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    kept = (c for c in decomposed if unicodedata.category(c) not in ("Mn", "Me", "Cf"))
    return "".join(kept).translate(_LOOKALIKE)


def _variants(plain: str) -> list[str]:
    """The text as it is, and where it has digits or signs among letters, with these read as letters."""
    signs = [plain]
    if re.search(r"[013457@$!|89]", plain):
        signs += [plain.translate(_SIGNS).replace("1", letter) for letter in "il"]
    return signs


def _squeeze(text: str) -> str:
    return re.sub(r"[\W_]+", "", text)
