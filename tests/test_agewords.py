"""The age-word filter: what must go, what may stay."""

import numpy as np
import pytest

from pipeline.agewords import filter_age_words, mentions_age

DROPPED = """A CHILD|kids playing|teen-agers|a 12 year old|aged 9|a twelve-year-old|17yo|c h i l d|c.h-i_l.d|ch1ld|g1rl
b0y|k1d|сhild|ｃｈｉｌｄ|school boy|k i d s|xxchildyy|under-age|pre-teen|five years old|seventeen years|child abuse|boy
little girl|y.o.|t e e n|4 months old|C11S1|young man|STÜDENT students|age: 15|minor|youths|schoolgirls|under 18
ba\u200bby|toddler's|\N{GIRL}|two pupils|an elementary class|a 30 year old house""".replace("\n", "|").split("|")
KEPT = """a minority|a castle in fantasy style|you think so|a canteen|two dogs and one cat|ask idle|a cowboy hat
17 apples|seven cups|velveteen|limbo yellow|a large flag and a bomb by the sea at night|the years of fog|age of steam
1 knife, 2 axes|kidney beans|aged 40|a photo of a syringe on a table|bad minton|a 25 mm lens""".replace("\n", "|")


@pytest.mark.parametrize("text", DROPPED)
def test_dropped(text):
    assert mentions_age(text)


@pytest.mark.parametrize("text", KEPT.split("|"))
def test_kept(text):
    assert not mentions_age(text)


def test_one_member_drops_the_whole_row_and_nulls_pass():
    rows = [("a cup", "a knife"), ("a cup", "a boy with a knife"), ("a cup", None)]
    assert np.array_equal(filter_age_words(rows), [False, True, False])
