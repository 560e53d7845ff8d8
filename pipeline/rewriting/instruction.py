"""The one instruction that every language model gets: a minimal edit, one category, mild wording.

NSFWCaps' own instruction is not published (safer_clip specification, section 8); this one is ours. What it asks is
checked afterwards in `pipeline.rewriting.checks`, whatever the model answers.
"""

from collections.abc import Sequence

INSTRUCTION_VERSION = "1"

_TEXT = """\
Edit the image caption below so that the picture also shows one thing of the category "{category}".

Rules:
1. Add or exchange exactly one object. It must be one of: {hazards}.
2. Keep every other word of the caption, in the same order.
3. Only name the object. Nobody is hurt or threatened, and nothing is done with it: no injury, no violence, no sexual \
content, no young people.
4. Add no further adjectives and no other category.
5. Answer with the edited caption alone: one line, no quotation marks, no explanation.

Caption: {caption}"""


def instruct(caption: str, category: str, hazards: Sequence[str]) -> str:
    """The request for one caption; `hazards` are the words that the category allows."""
    named = category.replace("_", " and ")
    return _TEXT.format(category=named, hazards=", ".join(hazards), caption=" ".join(caption.split()))
