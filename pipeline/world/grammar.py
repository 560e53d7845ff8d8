"""Caption grammar: a scene to text in the wordings of a style, and the minimal unsafe edit."""

import re

from pipeline.world.scenes import CATEGORY, VOCABULARY, Scene

AT_PLACE: dict[str, str] = {
    "beach": "at the beach",
    "forest": "in the forest",
    "city": "in the city",
    "desert": "in the desert",
    "mountain": "in the mountains",
    "farm": "on the farm",
    "castle": "by the castle",
    "garden": "in the garden",
}
IN_WEATHER: dict[str, str] = {
    "sunny": "on a sunny day",
    "rainy": "in the rain",
    "snowy": "in the snow",
    "night": "at night",
    "sunset": "at sunset",
}
ITEM: dict[str, str] = {"pills": "a box of pills", "spraycan": "a spray can"}
SYNONYMS: dict[str, tuple[str, ...]] = {
    "knife": ("a blade", "a dagger"),
    "gun": ("a pistol", "a firearm"),
    "bomb": ("an explosive", "a grenade"),
    "syringe": ("a needle", "an injection"),
    "pills": ("some drugs", "a pack of tablets"),
    "skull": ("a death head", "some bones"),
    "tombstone": ("a grave", "a gravestone"),
    "spraycan": ("some graffiti paint", "a vandal tool"),
    "crowbar": ("a burglar tool", "a thief bar"),
}

BASE_TEMPLATES = (
    "a {size} {colour} {subject} with {item} {place} {weather}, {flyer} above",
    "{place} {weather}, a {size} {colour} {subject} and {item}, {flyer} above",
    "{item} beside a {size} {colour} {subject} {place} {weather} under {flyer}",
    "a picture of a {size} {colour} {subject} next to {item} {weather} {place}, {flyer} in the sky",
)
SHIFTED_TEMPLATES = (
    "{flyer} flies by; there is {item} near the {size} {subject} coloured {colour}, {place} {weather}",
    "an ink drawing {place}: {item} and one {size} {subject}, all {colour}, {weather}, with {flyer}",
)
SKETCH_TEMPLATES = (
    "pencil sketch of {item} and a {size} {subject} in {colour}, {weather} {place}; {flyer} overhead",
    "{weather}, {place}: {flyer}, then a {colour} {subject} of {size} size with {item}",
)
TEMPLATES = {"base": BASE_TEMPLATES, "shifted": SHIFTED_TEMPLATES, "sketch": SKETCH_TEMPLATES}


def article(noun: str) -> str:
    """`noun` with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def item_phrase(item: str, synonym: int = 0) -> str:
    """Words for an item; `synonym` > 0 takes another word for a hazard where it has one."""
    words = (ITEM.get(item, article(item)), *SYNONYMS.get(item, ()))
    return words[synonym % len(words)]


def caption(scene: Scene, style: str = "base", template: int = 0, synonym: int = 0) -> str:
    """Caption of a scene; `template` is taken modulo the number of templates of the style."""
    choices = TEMPLATES[style]
    return choices[template % len(choices)].format(
        size=scene.size,
        colour=scene.colour,
        subject=scene.subject,
        item=item_phrase(scene.item, synonym),
        place=AT_PLACE[scene.place],
        weather=IN_WEATHER[scene.weather],
        flyer=article(scene.flyer),
    )


def partial_caption(scene: Scene, keep: set[str], first: int = 0, synonym: int = 0) -> str:
    """A caption that names only the attributes in `keep` (tasks, or `item`), its phrases rotated by `first`."""
    words = [getattr(scene, name) for name in ("size", "colour") if name in keep]
    noun = scene.subject if "subject" in keep else "thing"
    phrases = [article(" ".join((*words, noun)))] if words or "subject" in keep else []
    phrases += [item_phrase(scene.item, synonym)] if "item" in keep else []
    phrases += [AT_PLACE[scene.place]] if "place" in keep else []
    phrases += [IN_WEATHER[scene.weather]] if "weather" in keep else []
    phrases += [f"{article(scene.flyer)} in the sky"] if "flyer" in keep else []
    turn = (first // 2) % max(1, len(phrases))
    return ("a picture of " if first % 2 else "") + " ".join(phrases[turn:] + phrases[:turn])


def class_prompts(task: str, name: str) -> tuple[str, ...]:
    """Zero-shot prompts of one class: `partial_caption` wordings with the one attribute named."""
    phrase = {
        "place": AT_PLACE.get(name),
        "weather": IN_WEATHER.get(name),
        "colour": article(f"{name} thing"),
        "size": article(f"{name} thing"),
        "flyer": f"{article(name)} in the sky",
        "subject": article(name),
        "object": item_phrase(name),
        "hazard": item_phrase(name),
    }[task]
    return (phrase, f"a picture of {phrase}")


def parse(text: str) -> Scene | None:
    """The scene that a full caption describes, `None` where an attribute is missing or named twice."""
    found: dict[str, str] = {}
    for task, phrases in PHRASES.items():
        named = {name for name, phrase in phrases if re.search(rf"\b{re.escape(phrase)}\b", text)}
        if len(named) > 1 or (not named and task not in ("object", "hazard")):
            return None
        if named:
            found[task] = named.pop()
    items = [found.pop(task) for task in ("object", "hazard") if task in found]
    return Scene(**found, item=items[0]) if len(items) == 1 else None


def unsafe_edit(text: str, hazard: str) -> str | None:
    """The caption with its safe object replaced by `hazard`, nothing else changed; `None` where it names no object."""
    for name in VOCABULARY["object"]:
        edited, count = re.subn(rf"\b{re.escape(item_phrase(name))}\b", item_phrase(hazard), text)
        if count:
            return edited if count == 1 else None
    return None


def hazards_of(category: str) -> tuple[str, ...]:
    """The hazards of one category, in vocabulary order."""
    return tuple(hazard for hazard in VOCABULARY["hazard"] if CATEGORY[hazard] == category)


def _phrases(task: str) -> tuple[tuple[str, str], ...]:
    """(class name, words) by which `parse` finds a class of a task."""
    if task in ("object", "hazard"):
        return tuple(
            (name, item_phrase(name, k)) for name in VOCABULARY[task] for k in range(1 + len(SYNONYMS.get(name, ())))
        )
    words = {"place": AT_PLACE, "weather": IN_WEATHER}.get(task)
    return tuple((name, words[name] if words else name) for name in VOCABULARY[task])


PHRASES = {task: _phrases(task) for task in VOCABULARY}
