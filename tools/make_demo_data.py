"""Makes the embedded demo's fine-tuning data; the same seed gives the same bytes everywhere.

python -m tools.make_demo_data
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from tools.demo_data.rows import rows

_DATA = Path(__file__).resolve().parents[1] / "llamaforge" / "embedded" / "data" / "memory.jsonl"
_SEED = 7


def main() -> None:
    """Write the rows, one JSON object a line, and print how many there are of each kind."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=_DATA, help="the file to write")
    options = parser.parse_args()
    made = rows(_SEED)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in made)
    options.out.write_text("".join(lines), encoding="utf-8", newline="\n")
    for (split, task), count in sorted(
        Counter((row.get("split", "free"), row["meta"]["task"]) for row in made).items()
    ):
        print(f"{split:>5} {task:<8} {count:>5}")


if __name__ == "__main__":
    main()
