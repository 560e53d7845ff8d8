"""Checks of `nearsafe doctor` on models from a hub, and on defended checkpoints of others. Offline."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.doctor import Check
from pipeline.errors import NearsafeError
from pipeline.fetching import read_pins, references
from pipeline.models import hub

Checks = Iterator[Check]
# Gigabytes that `nearsafe fetch` loads, by the numbers of parameters and their format in the published folders.
_SIZES = (
    (r"clip-vit-base|CLIP-ViT-B-", 0.6), (r"clip-vit-large|CLIP-ViT-L-14|safeclip_vit-l|SafeR_CLIP", 1.7),
    (r"CLIP-ViT-H-14|safeclip_vit-h", 3.9), (r"stable-diffusion-v1-", 4.3), (r"stable-diffusion-2", 5.2),
    (r"stable-diffusion-xl-base", 13.9), (r"llava-1\.5-7b", 14.1), (r"llava-1\.5-13b", 26.7),
)  # fmt: skip


def size(name: str) -> float | None:
    """Gigabytes of a hub model, as far as known."""
    return next((found for pattern, found in _SIZES if re.search(pattern, name, re.IGNORECASE)), None)


def to_get(folder: Path, otherwise: str) -> str:
    """How a missing model folder is got; `otherwise`: what to say of one that is on no hub."""
    name = hub.hub_id(folder)
    if name is None:
        return otherwise
    known = size(name)
    return f"`nearsafe fetch` gets it{f', about {known:g} GB' if known else ''}: docs/models.md"


def fetched(root: Path, params: Path) -> Checks:
    """Every hub/<org>/<name> of the parameter file: pinned, of that commit, its files there and of their sizes.

    Bytes are compared when a model is loaded, and by `nearsafe fetch`.
    """
    try:
        names, pins = references(params), read_pins(params)
    except NearsafeError as error:
        yield Check("hub", "missing", str(error), "correct section `hub`: docs/models.md")
        return
    for name in names:
        where, folder = f"hub {name}", root / hub.ROOT / name
        try:
            record = hub.find_record(folder) if folder.is_dir() else None
            if record:
                hub.check_revision(record, pins.get(name))
                _sizes(record)
        except NearsafeError as error:
            fix = "`nearsafe fetch`; where a file was changed, remove the folder first"
            yield Check(where, "missing", str(error), fix)
            continue
        if name not in pins:
            text = f"named in {params} and not pinned"
            yield Check(where, "warn", text, "`nearsafe fetch` says the newest commit; write it into section `hub`")
        if not folder.is_dir():
            yield Check(where, "missing", hub.missing(Path(hub.ROOT) / name), to_get(Path(hub.ROOT) / name, ""))
        elif record is None:
            text = f"put there by hand, without {hub.RECORD}"
            yield Check(where, "warn", text, "nothing says its revision; `nearsafe fetch` into an empty folder does")
        else:
            total = sum(one for one, _ in record.files.values()) / 1e9
            yield Check(where, "ok", f"{len(record.files)} files, {total:.2f} GB, revision {record.revision[:12]}")


def imported(root: Path, entries: Mapping[str, Any]) -> Checks:
    """Folders of defences that others made: there, of their layout, and their model hash."""
    from pipeline.models.hashing import model_hash
    from pipeline.models.layouts import locate

    for name, entry in entries.items():
        if not isinstance(entry, Mapping) or entry.get("method") != "imported" or not entry.get("folder"):
            continue  # an entry that lacks something is said by `defences`
        where, folder = f"checkpoint {name}", Path(str(entry["folder"]))
        try:
            place = locate(entry.get("layout"), root / folder)
            digest = model_hash(place)
        except NearsafeError as error:
            yield Check(where, "missing", str(error), to_get(folder, "put the release there: docs/models.md"))
            continue
        if entry.get("hash") == digest:
            yield Check(where, "ok", f"{folder}: model hash {digest}, as the entry says")
        elif entry.get("hash"):
            text = f"{folder}: model hash {digest}, the entry says {entry['hash']}"
            yield Check(where, "missing", text, "put the right folder there, or correct `hash`")
        else:
            fix = f"write `hash: {digest}` into the entry, so that a changed folder is noticed"
            yield Check(where, "warn", f"{folder}: model hash {digest}", fix)


def _sizes(record: hub.Record) -> None:
    for name, (expected, _) in record.files.items():
        file = record.folder / name
        if not file.is_file() or file.stat().st_size != expected:
            what = "is gone" if not file.is_file() else "has another size than the file fetched"
            raise NearsafeError(f"{file}: {what} from {record.id} at {record.revision[:12]}")
