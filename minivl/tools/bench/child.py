"""The process in which rows are measured: a plan comes as an argument, results go out as lines of JSON.

python -m minivl.tools.bench.child PLAN
"""

from __future__ import annotations

import json
import sys
from typing import Any

from ...errors import MinivlError
from .others import ready
from .rows import ALONE, Plan, grouped, work
from .status import leave_on_terminate, memory


def main() -> None:
    leave_on_terminate()
    plan = Plan(**json.loads(sys.argv[1]))
    for group, names in grouped(tuple(plan.rows)).items():
        told = set()
        try:
            if plan.others and group not in ALONE:
                ready(plan.threads)
            for result in work(group)(plan._replace(rows=names)):
                told.add(result["row"])
                tell({**result, "peak": memory()["peak"]})
        except Exception as error:  # whatever a side raises ends its rows, not the others'
            reason = str(error) if isinstance(error, MinivlError) else f"{type(error).__name__}: {error}"
            for name in names:
                if name not in told or name == names[-1]:
                    tell({"kind": "failed", "row": name, "what": name, "reason": " ".join(reason.split())})


def tell(result: dict[str, Any]) -> None:
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
