"""Where everything lies. Nobody else builds a path or a file name."""

from dataclasses import dataclass
from pathlib import Path

SPEC = "spec.json"
MANIFEST = "manifest.json"


def table_file(table: str) -> str:
    """File name of a table that is one file."""
    return f"{table}.parquet"


def shard_file(table: str, number: int) -> str:
    """File name of one shard of a table; shards sort by number."""
    return f"{table}-{number:05d}.parquet"


def seed_folder(seed: int) -> str:
    """Folder of the checkpoint of one training seed, inside the checkpoints of a defence."""
    return f"seed-{seed}"


@dataclass(frozen=True)
class Data:
    """The directories that stages write, below `root` (`data` in a clone)."""

    root: Path = Path("data")

    @property
    def code(self) -> Path:
        """<stage>.txt: the Python files that each stage is made of."""
        return self.root / "code"

    @property
    def world(self) -> Path:
        """captions, images, pairs, classes, labels, prompts, filters."""
        return self.root / "world"

    @property
    def prompts(self) -> Path:
        """Every prompt set that passed the filters, and the labels of what its prompts ask for."""
        return self.root / "prompts"

    @property
    def embeddings(self) -> Path:
        """Embeddings of every caption and image by the undefended CLIP."""
        return self.root / "embeddings"

    @property
    def targets(self) -> Path:
        """Nearest safe captions of every unsafe one."""
        return self.root / "targets"

    @property
    def nsfwcaps(self) -> Path:
        """The benchmark of tight safe and unsafe quadruples."""
        return self.root / "nsfwcaps"

    @property
    def buckets(self) -> Path:
        """Difficulty of every training pair."""
        return self.root / "buckets"

    @property
    def paraphrases(self) -> Path:
        """Adversarial wordings of the benchmark's unsafe captions."""
        return self.root / "paraphrases"

    def checkpoints(self, defence: str) -> Path:
        """`seed-<s>/` model folders and the training log of one defence."""
        return self.root / "checkpoints" / defence

    def generations(self, defence: str) -> Path:
        """Images generated with one defence."""
        return self.root / "generations" / defence

    def replies(self, defence: str) -> Path:
        """What a language model says of images it sees through one defence."""
        return self.root / "replies" / defence

    def scores(self, defence: str) -> Path:
        """Scores and detections of one defence."""
        return self.root / "scores" / defence

    @property
    def runs(self) -> Path:
        """What each run of the pipeline took and found: a log that DVC does not know."""
        return self.root / "runs"


@dataclass(frozen=True)
class Results:
    """The files of the last stage, below `root` (`results` in a clone)."""

    root: Path = Path("results")

    @property
    def metrics(self) -> Path:
        """Headline numbers per defence, for `dvc metrics`."""
        return self.root / "metrics.json"

    @property
    def table(self) -> Path:
        """The table that ends `make repro`, in Markdown."""
        return self.root / "table.md"

    @property
    def picture(self) -> Path:
        """Generated images side by side, flagged ones pixelated."""
        return self.root / "generations.png"

    @property
    def separation(self) -> Path:
        """Safe and unsafe prompts before and after each defence."""
        return self.root / "separation.png"

    @property
    def plots(self) -> Path:
        """CSV files of the DVC plots."""
        return self.root / "plots"

    @property
    def database(self) -> Path:
        """DuckDB file that holds views over the Parquet tables and no data."""
        return self.root / "results.duckdb"


@dataclass(frozen=True)
class Report:
    """The page that people look at, below `root` (`report` in a clone)."""

    root: Path = Path("report")

    @property
    def page(self) -> Path:
        """One self-contained HTML file."""
        return self.root / "index.html"

    @property
    def frontier(self) -> Path:
        """Safety against utility as a picture, for where no page can be shown."""
        return self.root / "frontier.png"


@dataclass(frozen=True)
class Local:
    """What the orchestration keeps for itself, below `root` (`.nearsafe` in a clone, not in git)."""

    root: Path = Path(".nearsafe")

    @property
    def prefect(self) -> Path:
        """Prefect's home: its database and settings."""
        return self.root / "prefect"

    @property
    def server(self) -> Path:
        """Where the running server listens, and its process."""
        return self.root / "server.json"

    @property
    def cache(self) -> Path:
        """What detectors and models saw in images, by hashes: saves time and may be deleted."""
        return self.root / "cache"

    @property
    def lock(self) -> Path:
        """Held by the one flow of a clone, with its holder's name."""
        return self.root / "flow.lock"

    def workspace(self, experiment: str) -> Path:
        """The clone in which an experiment runs."""
        return self.root / "workspaces" / experiment
