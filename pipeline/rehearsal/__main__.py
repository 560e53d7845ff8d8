"""Run both paper profiles end to end at reduced depth: made-up checkpoints, mild made-up data, the same DAG.

python -m pipeline.rehearsal [PROFILE ...]        # or: make rehearse
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.child import Child, environment, interruptible
from pipeline.errors import NearsafeError, run
from pipeline.layout import Report, Results
from pipeline.progress import Progress, duration
from pipeline.rehearsal.workspace import PROFILES, prepare


def main(profiles: Sequence[str], prepare_only: bool = False) -> None:
    """Prepare and run the workspace of each profile; a second call continues, or finds all up to date.

    Raises NearsafeError for an unknown profile and where a stage fails, naming the workspace.
    """
    root, lines = Path.cwd(), []
    if not (root / "dvc.yaml").is_file():
        raise NearsafeError(f"{root}: no dvc.yaml: call this in the folder of the clone")
    for profile in profiles:
        start = time.monotonic()
        place = prepare(root, profile)
        print(f"rehearse: {profile}: workspace {place.relative_to(root)}", flush=True)
        if not prepare_only:
            lines.append(_rehearse(profile, place, root, start))
    print("\n".join(lines))


def _rehearse(profile: str, place: Path, root: Path, start: float) -> str:
    """Run the DAG of a workspace, print its table; a line on what was run."""
    progress = Progress(_stages(place))
    with interruptible():
        child = Child([sys.executable, "-m", "dvc", "repro"], place)
        try:
            for line in child.lines():
                sys.stdout.write(progress.line(line, time.monotonic() - start))
                sys.stdout.flush()
            code = child.wait()
        except BaseException:
            child.stop()
            raise
    if code:
        raise NearsafeError(f"{profile}: a stage failed in {place}; the next call goes on there")
    progress.end(time.monotonic() - start, "ran")
    print(f"\n{Results(place / 'results').table.read_text(encoding='utf-8')}")
    ran = sum(done.state == "ran" for done in progress.ended.values())
    took = duration(time.monotonic() - start)
    page = Report(place / "report").page.relative_to(root)
    return f"rehearsed {profile}: {ran} of {len(progress.ended)} stages ran, {took}; page: {page}"


def _stages(place: Path) -> list[str]:
    """Names of the workspace's stages, those of its profile's defences included."""
    command = [sys.executable, "-m", "dvc", "stage", "list", "--name-only"]
    done = subprocess.run(command, cwd=place, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise NearsafeError(f"{place}: dvc stage list: {done.stderr.strip()}")
    return done.stdout.split()


def parser() -> argparse.ArgumentParser:
    """Command line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("profiles", nargs="*", default=list(PROFILES), help="default: %(default)s")
    arguments.add_argument("--prepare-only", action="store_true", help="make the workspaces and run nothing")
    return arguments


if __name__ == "__main__":
    run(main, parser())
