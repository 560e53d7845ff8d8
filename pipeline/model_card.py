"""The model card of an exported defence: what it is, what was measured, how it was made, what it cannot do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from ruamel.yaml import YAML

from pipeline.errors import printable
from pipeline.models import hub
from pipeline.models.recovery import Recovered
from pipeline.results.report import SECTIONS, markdown

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
# The licence of the models that come with this repository; that of another base model is not known here.
_WORLD = Path("pipeline/world/weights")
_LIBRARIES = ("torch", "transformers", "diffusers", "safetensors", "peft")


@dataclass(frozen=True)
class Card:
    """Facts for the template. `own`, `undefended`: rows of the `headline` view by name; `spec`: of the checkpoint.

    `about`: one sentence on the method, with its paper; `parts`: the folders beside the card; `diffusion`: the folder
    whose denoiser and VAE are in pipeline/, `slot` where the defended tower is in it and `pipeline_class` its class,
    all None without that part; `sampling`: steps, guidance and, in place of the folder's own, the scheduler that images
    were scored with; `adapter`: how well the adapter was found again.
    """

    defence: str
    method: str
    about: str
    kind: str
    towers: tuple[str, ...]
    seed: int
    hash: str
    base: Path
    parts: tuple[str, ...]
    diffusion: Path | None
    slot: str | None
    pipeline_class: str | None
    adapter: Recovered | None
    own: Mapping[str, Mapping[str, Any]]
    undefended: Mapping[str, Mapping[str, Any]]
    spec: Mapping[str, Any]
    sampling: Mapping[str, Any]
    revision: str | None


def render_card(card: Card) -> str:
    """The card in Markdown, with the front matter that model hubs read."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        card=card,
        front_matter=_yaml(_front_matter(card)).rstrip(),
        sections=[(section.title, section.reading, table) for section, table in _tables(card)],
        world=_is_world(card.base),
        base=shown(card.base),
        pinned=_pinned(card.base),
        diffusion=shown(card.diffusion) if card.diffusion else None,
        diffusion_pinned=_pinned(card.diffusion) if card.diffusion else None,
        source=_source(card) if card.kind == "imported" else None,
        settings=_yaml({key: card.spec[key] for key in ("params", "train") if key in card.spec}).rstrip(),
        inputs=dict(sorted(card.spec.get("inputs", {}).items())),
        trained_with=dict(sorted(card.spec.get("libraries", {}).items())),
        exported_with={library: version(library) for library in _LIBRARIES},
    )


def _front_matter(card: Card) -> dict[str, Any]:
    world = _is_world(card.base) and (card.diffusion is None or _is_world(card.diffusion))
    licence = {"license": "apache-2.0"} if world else {"license": "other", "license_name": "that-of-the-base-model"}
    kind = {"pipeline_tag": "text-to-image"} if card.diffusion else {}
    tags = ["nearsafe", card.method, "clip", *(["stable-diffusion"] if card.diffusion else []), "safety"]
    library = "diffusers" if card.diffusion else "peft" if card.parts == ("adapter",) else "transformers"
    return {**licence, "base_model": shown(card.base), "library_name": library, **kind, "tags": tags}


def _tables(card: Card) -> list[tuple[Any, list[str]]]:
    """One table for each section of the results table that has a number of this defence."""
    found = []
    for section in SECTIONS:
        body = [_line(column, card) for column in section.columns if column.name in card.own]
        if body:
            header = ["measure", card.defence, *(["original"] if card.undefended else []), "n", "interval", "judged by"]
            found.append((section, markdown(header, body)))
    return found


def _line(column: Any, card: Card) -> list[str]:
    row = card.own[column.name]
    values = [_cell(row, column.digits)]
    if card.undefended:
        values.append(_cell(card.undefended.get(column.name), column.digits))
    judge = "; ".join(fact for fact in (row["benchmark"], row["detector"], row["rule"]) if fact)
    return [column.header, *values, str(row["n"]), row["ci_method"] or "none", judge]


def _cell(row: Mapping[str, Any] | None, digits: int) -> str:
    if row is None or row["value"] is None:
        return "-"
    interval = (row["ci_low"], row["ci_high"])
    text = f"{row['value']:.{digits}f}"
    return text if None in interval else f"{text} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def shown(folder: Path) -> str:
    """A folder as others may see it: its hub id, its path in the clone, or its name where it lies elsewhere."""
    name = hub.hub_id(folder) or (folder.name if folder.is_absolute() else folder.as_posix())
    return printable(name).replace("`", "'").replace("|", "¦")  # it stands in code spans and tables


def _pinned(folder: Path) -> str | None:
    """The commit of a fetched folder."""
    record = hub.find_record(folder) if folder.is_dir() else None
    return record.revision if record else None


def _source(card: Card) -> dict[str, Any]:
    """Where an imported checkpoint is from."""
    folder = Path(card.spec["params"]["folder"])
    return {"layout": card.spec["params"]["layout"], "folder": shown(folder), "pinned": _pinned(folder)}


def _is_world(folder: Path) -> bool:
    return not folder.is_absolute() and folder.is_relative_to(_WORLD)


def _yaml(values: Mapping[str, Any] | Sequence[Any]) -> str:
    yaml, text = YAML(), StringIO()
    yaml.default_flow_style = False
    yaml.width = 10**6
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml.dump(values, text)
    return text.getvalue()
