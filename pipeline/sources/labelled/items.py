"""An image as a data set holds it, and the one place that looks at what kind of files it lies in."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import NearsafeError
from pipeline.sources.protocol import Drops, Place

SHARDS = (".parquet", ".tar", ".tar.gz", ".tgz")
Label = str | int | None


@dataclass(frozen=True)
class Item:
    """`key` is unique in its source and does not depend on where the files lie; `label` is as the files have it."""

    key: str
    place: Place
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    label: Label = None
    caption: str | None = None


@dataclass(frozen=True)
class Columns:
    """Columns of a Parquet file; those of the label and the caption are read where they are there.

    Where `caption` is None, no captions are looked for in any kind of file.
    """

    image: str = "image"
    label: str = "label"
    caption: str | None = None


def read_items(where: Path, columns: Columns, drops: Drops) -> Iterator[Item]:
    """Every image of a folder or of its shards, in order of names; `where` may be a pattern ("shards/*.tar").

    A folder that holds Parquet files or archives is read as shards, any other one as folders of image files. Raises
    NearsafeError where nothing is found.
    """
    from pipeline.sources.labelled.folders import read_folder
    from pipeline.sources.labelled.parquet_shards import read_parquet
    from pipeline.sources.labelled.tar_shards import read_tar

    try:
        base, shards = _shards(where)
    except (OSError, ValueError, NotImplementedError) as error:  # a folder that cannot be read, a pattern that is none
        raise NearsafeError(f"{where}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not shards:
        if not where.is_dir():
            raise NearsafeError(f"{where}: no such folder or file; paths of a source count from sources.root")
        yield from read_folder(where, captions=columns.caption is not None)
        return
    for shard in shards:
        name = shard.relative_to(base).as_posix()
        if shard.suffix.lower() == ".parquet":
            yield from read_parquet(shard, name, columns, drops)
        else:
            yield from read_tar(shard, name, drops)


def _shards(where: Path) -> tuple[Path, list[Path]]:
    """The folder that shards' names count from, and the shards that `where` means: none for a folder of images."""
    if where.is_file():
        found, base = [where], where.parent
    elif where.is_dir():
        found, base = sorted(path for path in where.iterdir() if is_shard(path)), where
    else:
        fixed = next((n for n, part in enumerate(where.parts) if any(c in part for c in "*?[")), len(where.parts))
        base = Path(*where.parts[:fixed])
        found = sorted(base.glob(str(Path(*where.parts[fixed:])))) if fixed < len(where.parts) else []
        if fixed < len(where.parts) and not found:
            raise NearsafeError(f"{where}: no file matches; paths of a source count from sources.root")
    if wrong := [path for path in found if not is_shard(path)]:
        raise NearsafeError(f"{wrong[0]}: expected a folder, or a file that ends in {', '.join(SHARDS)}")
    return base, found


def is_shard(path: Path) -> bool:
    """A Parquet file or an archive, by its name."""
    return path.name.lower().endswith(SHARDS) and not path.name.startswith(".")
