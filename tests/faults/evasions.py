"""Spellings that try to get past the age-word filter: single words and ages, by technique, made by rule and by hand.

They are here to measure the filter and for nothing else; the words are plain ones, and none stands in a sentence.
"""

import unicodedata
from collections.abc import Callable, Iterator

WORDS = (
    "child", "children", "kid", "kids", "toddler", "infant", "baby", "babies", "teen", "teenager", "underage", "minor",
    "preteen", "boy", "girls", "schoolboy", "adolescent", "juvenile", "kindergarten", "pupil", "youth", "young",
    "student",
)  # fmt: skip
AGES = ("13 years old", "aged 9", "twelve year old", "17yo", "aged fifteen")

_LEET = str.maketrans("aeiost", "431057")
_CYRILLIC = str.maketrans("aceijopsxykmtbnh", "асеіјорѕхукмтвпһ")
_CYRILLIC_CAPITALS = str.maketrans("abcehikmnopstxy", "АВСЕНІКМNОРЅТХУ")
_GREEK = str.maketrans("abeikmnoptuyd", "αβεικмηορτυγδ")
_STROKES = str.maketrans("bdhiltogk", "ɓđħɨłŧøɡƙ")
_SMALL_CAPITALS = str.maketrans("abcdeghijklmnoprtuvwy", "ᴀʙᴄᴅᴇɢʜɪᴊᴋʟᴍɴᴏᴘʀᴛᴜᴠᴡʏ")
_SIGNS = str.maketrans({"i": "!", "l": "|", "a": "@", "s": "$", "t": "+", "c": "(", "e": "€"})


def _letters(text: str, first_small: int, first_capital: int = 0, digit: int = 0) -> str:
    """ASCII letters and digits moved to another alphabet of Unicode."""
    moved = []
    for c in text:
        if c.islower():
            moved.append(chr(first_small + ord(c) - ord("a")))
        elif c.isdigit() and digit:
            moved.append(chr(digit + int(c)))
        else:
            moved.append(chr(first_capital + ord(c) - ord("A")) if c.isupper() and first_capital else c)
    return "".join(moved)


def _every_second(text: str, change: Callable[[str], str]) -> str:
    return "".join(change(c) if i % 2 else c for i, c in enumerate(text))


# Every technique is a rule on one word or age.
RULES: dict[str, tuple[Callable[[str], str], ...]] = {
    "letter case": (str.upper, str.title, lambda t: _every_second(t, str.upper)),
    "compatibility forms (NFKC)": (
        lambda t: _letters(t, 0xFF41, 0xFF21, 0xFF10),  # full-width
        lambda t: _letters(t, 0x1D41A, 0x1D400, 0x1D7CE),  # mathematical bold
        lambda t: _letters(t, 0x24D0, 0x24B6),  # circled
        lambda t: _every_second(t, lambda c: _letters(c, 0xFF41, 0xFF21, 0xFF10)),
    ),
    "enclosed and flag letters": (
        lambda t: _letters(t.lower(), 0x1F170), lambda t: _letters(t, 0x1F1E6), lambda t: _letters(t, 0x1F150),
    ),
    "spaces": (" ".join, "  ".join, lambda t: f"{t[:2]} {t[2:]}", lambda t: f"{t[:-1]} {t[-1]}"),
    "punctuation": (".".join, "-".join, "_".join, "*".join, lambda t: f"{t[:2]}-{t[2:]}", lambda t: f"{t[:1]}·{t[1:]}"),
    "zero-width and invisible": (
        "\u200b".join, "\u00ad".join, "\u2060".join, "\u034f".join, "\u3164".join, "\ufe0f".join,
        lambda t: f"\u202e{t}\u202c",
    ),
    "combining marks": (
        "\u0301".join, lambda t: "".join(f"{c}\u0336" for c in t), lambda t: "".join(f"{c}\u20dd" for c in t),
        lambda t: unicodedata.normalize("NFC", "\u0308".join(t)),
    ),
    "homoglyphs (Cyrillic, Greek)": (
        lambda t: t.translate(_CYRILLIC), lambda t: t.translate(_CYRILLIC_CAPITALS), lambda t: t.translate(_GREEK),
    ),
    "homoglyphs (Latin look-alikes)": (lambda t: t.translate(_STROKES), lambda t: t.translate(_SMALL_CAPITALS)),
    "mixed scripts": (
        lambda t: _every_second(t, lambda c: c.translate(_CYRILLIC)),
        lambda t: t[:1].translate(_CYRILLIC) + t[1:-1] + t[-1:].translate(_GREEK),
    ),
    "signs for letters": (lambda t: t.translate(_SIGNS), lambda t: t[:1] + t[1:].translate(_SIGNS)),
    "glued to other letters": (lambda t: f"the{t}", lambda t: f"{t}1", lambda t: f"x_{t}_x", lambda t: f"#{t}pic"),
}  # fmt: skip
# Rules that make sense of words alone.
WORD_RULES: dict[str, tuple[Callable[[str], str], ...]] = {
    "leetspeak": (lambda t: t.translate(_LEET), lambda t: t[:1] + t[1:].translate(str.maketrans("aeios", "4310$"))),
    "repeated letters": (
        lambda t: t[:1] + t[1] * 3 + t[2:],
        lambda t: t + t[-1] * 4,
        lambda t: "".join(c * 2 for c in t),
    ),
    "reversed": (lambda t: t[::-1], lambda t: " ".join(t[::-1])),
}

BY_HAND: dict[str, tuple[str, ...]] = {
    "leetspeak": (
        "ch1ld", "ch!ld", "chi1d", "ch11d", "(hild", "<hild", "k1d", "k!ds", "k1d5", "kid5", "b0y", "8oy", "6oy",
        "b0ys", "g1rl", "gir1", "g1r1s", "9irl", "6irl", "gi|2l", "t33n", "te3ns", "7een", "+een", "b4by", "8aby",
        "b@by", "b4bie5", "t0ddler", "1nfant", "inf4n7", "m1nor", "min0r", "y0uth", "y0ung", "5tudent", "$tudent",
        "pup1l", "juven1le", "schoolb0y", "sch00lgirl", "pr3teen", "und3rage", "k 1 d", "g-1-r-l", "l0li", "lol1ta",
        "5hota", "th1rteen year5 old",
    ),
    "numeric ages": (
        "13 years old", "aged 13", "13yo", "13-year-old", "thirteen y/o", "1 3 years old", "13 y/o", "13 y.o.",
        "13yrs", "13 yrs old", "13yr old", "13 yr-old", "age 13", "age: 13", "age=13", "age of 13", "ages 10-12",
        "aged thirteen", "13 year olds", "13yearold", "thirteen-year-olds", "aged 7", "7 yo", "seven years",
        "six-year-old", "8 years young", "4 months old", "10 month old", "6-week-old", "3 days old", "under 18",
        "under eighteen", "under the age of 18", "below 18", "below the age of eighteen", "younger than 18",
        "less than 18 years", "not yet 18", "<18", "u18", "under-16", "under sixteen", "13 years of age",
        "thirteen years of age", "turning 13", "turned thirteen", "5th birthday", "first birthday",
        "sixteenth birthday", "sweet sixteen", "five and a half years old", "1.5 years old", "009 years",
        "XIII years old", "aged xiii", "thir teen years old", "t h i r t e e n years", "1З years old",
        "l3 years old", "l3yo", "aged l3", "aged 1o", "١٣ years old", "aged ١٣", "⑬ years old", "aged ⑬",
        "1️⃣3️⃣ years", "aged １３", "13 ans years old", "13 summers old", "13 winters old", "10y/o", "11 y old",
        "14 y. o.", "year 13 old", "13 ys old", "aged about 13", "aged only 13", "aged between 10 and 12",
        "aged under 10", "age group 8-10", "13-17 years", "barely 13", "only 13 years", "fifteen yo", "fifteenyo",
        "fifteenyearold", "13y.o", "13 Y/O", "5 yearold", "one-year-old", "2-yr-old", "two yrs",
    ),
    "plurals and forms": (
        "childs", "childern", "childrens", "childlike", "childish", "kiddies", "kiddos", "kidz", "kiddy",
        "toddlers", "infants", "babys", "newborns", "teens", "teenz", "teeners", "teenagers", "tweens", "preteens",
        "pre-teens", "minors", "boyz", "boyish", "girlz", "girlies", "gurl", "gurls", "grils", "schoolboys",
        "school-girls", "school boys", "schoolkids", "school kids", "schoolchild", "school children", "adolescents",
        "juveniles", "kindergartners", "kindergarteners", "preschoolers", "pre-schooler", "pupils", "students",
        "youths", "youngsters", "younger", "underaged", "under-aged", "under age", "minor's", "kid's", "baby's",
        "boys'", "lolis", "lolitas", "shotas", "jail bait",
    ),
    "other words of the young": (
        "neonate", "neonates", "neonatal", "prepubescent", "pre-pubescent", "pubescent", "prepubertal", "puberty",
        "schoolage", "school-aged", "first grader", "5th grader", "sixth-grader", "third grade", "grade 4 class",
        "grade school", "middle school", "middle schooler", "high school", "high-schooler", "primary school",
        "junior high", "nursery school", "daycare", "day care", "tot", "tots", "youngling", "teenybopper",
        "little one", "little ones", "nymphet", "bairn", "sophomore", "lass", "lad", "laddie", "lassie", "urchin",
        "foster child", "toddling", "cherub", "rugrat", "rug rats",
    ),
    "pictures": (
        "👶", "👧", "👦🏽", "🧒", "👨‍👩‍👧", "🚸", "🍼", "🚼",
    ),
    "misspelt": (
        "chlid", "cihld", "chld", "chidl", "chiild", "chil", "childd", "todler", "toddlr", "infnat", "teneager",
        "tennager", "adolesent", "adolecent", "juvinile", "kindergarden", "babby", "gril", "yuong", "yung",
        "studnet", "underaeg",
    ),
}  # fmt: skip

# Long texts on which a careless pattern goes back and forth.
LONG = [
    "a " * 10_000, "_" * 20_000, "c " * 10_000, "1 " * 10_000, "!" * 20_000, "kid" * 6_000 + "x", "akid" * 6_000,
    "year " * 4_000, "a" * 40_000, "age " * 6_000, "0" * 20_000, "c!" * 10_000, "l1|" * 8_000, "<" * 20_000,
    "t h i r t e e " * 2_000, "\u0301" * 20_000, "under the " * 2_000, "shot a " * 4_000, "n e w b o r " * 4_000,
    "c" + " " * 20_000 + "h", "age" + "-" * 20_000, "min" + " " * 20_000 + "or", "C11S" * 4_000, "8 " * 10_000,
    "\u1100\u1161" * 6_000, "ﷺ" * 1_000, "b0" * 10_000, "less than " * 2_000, "1st birthda " * 2_000,
]  # fmt: skip


def evasions() -> Iterator[tuple[str, str]]:
    """Technique and spelling, each pair once; a rule that leaves a base as it is gives nothing."""
    seen = set()
    for technique, rules in {**RULES, **WORD_RULES}.items():
        for base in (*WORDS, *(AGES if technique in RULES else ())):
            for rule in rules:
                spelling = rule(base)
                if spelling != base and (technique, spelling) not in seen:
                    seen.add((technique, spelling))
                    yield technique, spelling
    for technique, spellings in BY_HAND.items():
        for spelling in spellings:
            if (technique, spelling) not in seen:
                seen.add((technique, spelling))
                yield technique, spelling
