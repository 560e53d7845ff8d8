"""Everyday captions of adults, animals, things and places, as people write them for photographs: none is of the young.

A small grammar makes most of them; the others are written by hand, many around letters that look like a refused word.
"""

from collections.abc import Iterator
from itertools import product

_WHO = (
    "a man",
    "a woman",
    "two men",
    "an old couple",
    "a group of people",
    "a chef",
    "a police officer",
    "three women",
)
_DOES = (
    "riding a bicycle", "holding an umbrella", "cutting a pizza", "talking on a phone", "waiting for a train",
    "surfing on a wave", "walking two dogs", "sitting on a bench", "playing tennis", "looking at a laptop",
)  # fmt: skip
_WHERE = ("in front of a brick building", "near the beach at sunset", "on a busy street", "in a kitchen", "by a river")
_THING = (
    "a red bus", "a bowl of soup", "a stack of old books", "an orange cat", "a herd of zebras", "a stop sign",
    "a pair of skis", "a wooden table", "seven boats", "a plate of tater tots", "a 1960s truck", "a tall clock tower",
)  # fmt: skip
_STATE = ("covered in snow", "parked beside a hydrant", "next to a vase of flowers", "under a cloudy sky", "at night")

BY_HAND = (
    "a man stands under a gentle rain", "a photographer shot a concert from the balcony",
    "she shot a photo of 12 birds", "wait 10 min or 15 min at the counter", "a 5 min or longer ride",
    "a lol is written on the wall", "a cowboy hat on a hook", "a sidekick in a film poster",
    "skids of bricks on a pallet", "a pot of kidney beans", "a canteen full of workers",
    "velveteen curtains in a theatre", "a castle in fantasy style", "infantry soldiers marching past",
    "a minority report", "a cabbage and a bag of oats", "a baboon in the zoo", "buoys floating in the harbour",
    "flowers in a buoyant colour", "tailgirth measured with a tape", "a big iron kettle", "the big Irish flag",
    "a wolf hound and a dog irritated by flies", "the rich ill-tempered man", "each ilk of bird in one picture",
    "a beach ill suited for swimming", "a rich, mild cheese", "you think so", "you the driver of a bus",
    "a stud in a leather jacket", "a pupa on a leaf", "a studio apartment with 2 beds",
    "a stunt pilot at an air show", "a list of old wines", "17 apples in a bowl", "seven cups and 3 saucers",
    "16 people in a boat", "12 eggs in a carton", "10 planes in the sky", "a house with 13 windows",
    "route 9 along the coast", "an age-old oak tree", "the age of steam", "a page 9 cartoon",
    "stage 4 of the bicycle race", "a village 8 miles away", "under 20 umbrellas", "under 10 lamps in a hall",
    "below 15 degrees on the thermometer", "a man aged 40", "a woman of 52 years", "a 70 year old woman",
    "a bridge that is 100 years old", "a 1930s car, 90 years old", "a man aged 65 with a cane",
    "a U-boat in a museum", "grade A eggs", "a road grader on a highway", "a grade 8 steel bolt", "a school of fish",
    "an old school building", "a yellow school bus", "a Boeing 707 on a runway", "binary digits 1011 on a screen",
    "the number 10 1 1 on a door", "a 25 mm lens", "size 8 a by the door", "row 5 hot as an oven",
    "a sign that says no 2 4 6 8", "$5 tees on a rack", "a b c blocks, letters alone", "a photo (in fan art style)",
    "a man + een bike", "100% cotton @ $10", "Kidd Street at noon", "Ladd observatory", "barns under a blue sky",
    "babes in armour, a film poster", "shots of espresso", "a spinning top", "a toyota on a hill",
    "a coyote in the desert", "mayo on a sandwich", "a tot of rum", "sea urchins on a reef",
    "a cherub carved in stone", "a little one-room house", "the little ones of 3 cups",
    "a nursery with potted plants", "an elemental painting", "mineral water", "a miner in a tunnel",
    "a juve football shirt", "an adult learning to ski", "a kiln and pottery", "kites above the dunes",
    "a kidskin glove", "a babbling brook", "Babylon in ruins", "a rugby team", "rugs on a market stall",
    "laddered stockings on a line", "a ladder by the wall", "glass jars", "a lassi in a tall glass",
    "a salad with lentils", "a tweed jacket", "tweezers", "tea, the 15th cup", "the 21st birthday of a company",
    "a 50th birthday cake", "sweet potatoes, sixteen of them", "a new Borneo stamp", "a newborough sign",
    "to a tidal pool", "a toad left of a pond", "a todd lerner poster", "the pre-sunset sky", "a preteritive verb",
    "a wonder aged cheese", "thunder agents in a comic", "an orange glow", "a boycott poster", "boysenberry jam",
    "a bouyant mood", "girders of a bridge", "a girdle and a belt", "a grille", "men's shoes on sale",
    "a decade-old car", "a one way street", "the year 2013", "open 24 hours 7 days a week", "9 months of snow",
    "2 weeks of holidays", "3 days in Rome", "ten bells",
)  # fmt: skip


def captions() -> Iterator[str]:
    """Every caption once."""
    for who, does, where in product(_WHO, _DOES, _WHERE):
        yield f"{who} {does} {where}"
    for thing, state in product(_THING, _STATE):
        yield f"{thing} {state}"
    yield from BY_HAND
