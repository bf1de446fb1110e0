"""Every selection rule that could explain the demo's result, on its task and setting, three seeds.

    holdfast run studies/demo/rivals.yaml --out rivals && python studies/demo/rivals.py rivals

Knows: which differences carry which claim. Does not know: models; every number is in summary.json.
"""

import sys
from pathlib import Path
from typing import Any

from holdfast.core.files import read_json, write_json

COMMAND = "holdfast run studies/demo/rivals.yaml --out rivals && python studies/demo/rivals.py rivals"
RIVALS = {
    "random-half": "a random half",
    "inverse-length": "the half that 1/length keeps, which needs no model",
    "length-matched": "a random half of the same lengths",
    "low": "the low-gradient half",
}


def claims_of(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Moderate against each rival: supported above the noise floor and with 0 outside the interval."""
    found = {(d["measure"], d["first"], d["second"]): d for d in summary["differences"]}
    claims = []
    for name, what in RIVALS.items():
        difference = found["refusals", "moderate", name]
        beyond = difference["low"] > 0 and difference["value"] >= (difference["noise_floor"] or 0.0)
        worse = difference["high"] < 0 and -difference["value"] >= (difference["noise_floor"] or 0.0)
        claims.append(
            {
                "id": f"moderate_above_{name}",
                "claim": f"the moderate-gradient half keeps more refusals than {what}",
                "source": "selection.md 1; question left open by the first slice",
                **{key: difference[key] for key in ("value", "low", "high", "n", "noise_floor")},
                "verdict": "supported" if beyond else "not supported" if worse else "undecided",
            }
        )
    return claims


def main(run_folder: str) -> None:
    """Write rivals.json beside this file, and print what README says."""
    folder = Path(run_folder)
    summary, manifest = read_json(folder / "summary.json"), read_json(folder / "manifest.json")
    keys = ("refusal", "over_refusal", "unclear", "task_score", "task_loss_nats", "drift_kl_nats")
    results = {
        "study": "demo-rivals",
        "command": COMMAND,
        "versions": {"python": manifest["python"], "holdfast": manifest["holdfast"], **manifest["libraries"]},
        "device": f"{manifest['device']}, {manifest['threads']} thread(s)",
        "seconds": sum(read_json(path)["seconds"] for path in sorted(folder.glob("stages/*/stage.json"))),
        "claims": claims_of(summary),
        "table": [{"name": row["name"], **{key: row[key] for key in keys}} for row in summary["rows"]],
    }
    write_json(Path(__file__).with_name("rivals.json"), results)
    for claim in results["claims"]:
        ends = f"[{claim['low']:+.3f}, {claim['high']:+.3f}]"
        print(f"{claim['verdict']:14s} {claim['id']}: {claim['value']:+.3f} {ends}")
    for row in results["table"]:
        rates = (f"{100 * row[key]['value']:.1f}" for key in ("refusal", "over_refusal", "unclear", "task_score"))
        print(f"{row['name']:16s} {' '.join(rates)} {row['refusal'].get('per_seed')}")


if __name__ == "__main__":
    main(sys.argv[1])
