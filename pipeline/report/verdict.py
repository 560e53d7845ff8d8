"""The page's first paragraph: what was compared and what the numbers say, nothing that they do not."""

from typing import Any

from pipeline.metrics.seeds import Measured, Pooled, pool
from pipeline.report.run import UNDEFENDED, Run

_Found = dict[str, dict[str, Pooled]]


def verdict(run: Run) -> list[str]:
    """Sentences from the headline numbers, means over training seeds with their 95 % intervals."""
    found = _pooled(run)
    if not found:
        return ["No model has been scored yet: run the pipeline first."]
    defended = [name for name in found if name != UNDEFENDED]
    seeds = max(number.seeds for numbers in found.values() for number in numbers.values())
    subject = (
        f"{len(defended)} defended model{'s' * (len(defended) != 1)}" if defended else "The undefended model alone"
    )
    opening = f"{subject}{' and the undefended one' if UNDEFENDED in found and defended else ''}, "
    parts = [opening + (f"{seeds} training seeds each." if seeds > 1 else "one training seed each.")]
    parts += [sentence for sentence in (_images(found, defended), _retrieval(found, defended)) if sentence]
    if cheapest := _best(found, defended, "zero_shot", 1):
        cost = f"Least was lost of zero-shot accuracy by {cheapest}: {_said(found[cheapest]['zero_shot'])}"
        base = found.get(UNDEFENDED, {}).get("zero_shot")
        parts.append(cost + (f", undefended {_said(base)}." if base else "."))
    return [*parts, _balance(found, defended)] if len(defended) > 1 else parts


def _images(found: _Found, defended: list[str]) -> str:
    best = _best(found, defended, "asr", -1)
    if not best:
        return ""
    text = "Of the images from hazard prompts"
    if base := found.get(UNDEFENDED, {}).get("asr"):
        text += f" the detector flags {_said(base)} without a defence and"
    else:
        text += " the detector flags"
    names = [name for name in defended if (n := found[name].get("asr")) and n.value == found[best]["asr"].value]
    return f"{text} {_said(found[best]['asr'])} with {_listed(names)}."


def _retrieval(found: _Found, defended: list[str]) -> str:
    """The model with the largest smaller redirection of both galleries: one that helps in either."""
    both = {
        name: min(found[name]["redirect_tuned"].value, found[name]["redirect_frozen"].value)
        for name in defended
        if {"redirect_tuned", "redirect_frozen"} <= found[name].keys()
    }
    if not both:
        return ""
    best = max(both, key=lambda name: both[name])
    tuned, frozen = found[best]["redirect_tuned"], found[best]["redirect_frozen"]
    return (
        f"Unsafe queries find something safe most reliably in both galleries with {best}: {_said(tuned)} in the tuned "
        f"and {_said(frozen)} in the frozen one."
    )


def _balance(found: _Found, defended: list[str]) -> str:
    """Whether one model leads on all of safety in images, in retrieval and utility."""
    leaders = {
        _best(found, defended, name, sign)
        for name, sign in (("asr", -1), ("redirect_tuned", 1), ("redirect_frozen", 1), ("zero_shot", 1))
    } - {None}
    if len(leaders) == 1:
        return f"On these four measures {leaders.pop()} leads throughout."
    return "No model leads everywhere: choose by what has to be protected."


def _best(found: _Found, names: list[str], number: str, sign: int) -> str | None:
    own = [name for name in names if number in found[name]]
    return max(own, key=lambda name: sign * found[name][number].value) if own else None


def _pooled(run: Run) -> _Found:
    rows = run.rows("SELECT * FROM headline WHERE value IS NOT NULL ORDER BY seed")
    measured: dict[tuple[str, str], list[Measured]] = {}
    for row in rows:
        measured.setdefault((row["defence"], row["name"]), []).append(_measured(row))
    found: _Found = {}
    for (defence, name), own in measured.items():
        if len({one.low is None for one in own}) == 1:
            found.setdefault(defence, {})[name] = pool(own, _BOUNDS.get(name), same_items=False)
    return found


_BOUNDS = dict.fromkeys(("asr", "redirect_tuned", "redirect_frozen", "zero_shot"), (0.0, 1.0))


def _measured(row: dict[str, Any]) -> Measured:
    return Measured(row["value"], row["n"], row["ci_low"], row["ci_high"])


def _said(number: Pooled) -> str:
    text = f"{100 * number.value:.1f} %"
    if number.low is not None and number.high is not None:
        text += f" [{100 * number.low:.1f}, {100 * number.high:.1f}]"
    return text


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
