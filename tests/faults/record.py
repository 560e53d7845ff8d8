"""What the fault tests count: inputs tried, faults survived. `make faults` turns the lines into docs/reliability.md."""

import json
import os
from pathlib import Path


def record(subject: str, tried: int, survived: int, note: str = "") -> None:
    """Append one line to the file `$NEARSAFE_FAULTS_LOG`; does nothing where it is not set (`make test`).

    `tried` inputs or faults, `survived` of them: refused in one line, counted, or finished with the right bytes.
    """
    log = os.environ.get("NEARSAFE_FAULTS_LOG")
    if log:
        line = json.dumps({"subject": subject, "tried": tried, "survived": survived, "note": note}, sort_keys=True)
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
