"""Look up known faults of the locked dependencies with pip-audit: `make audit`.

Exit code 1 where it finds some. Where its service is out of reach, or a mirror that knows no faults
answers for it, one sentence and 0: that says nothing about the dependencies.
"""

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"


def main() -> int:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--format", "json"),
            *("--require-hashes", "--disable-pip", "--requirement", str(LOCK)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip() or "it printed nothing").splitlines()[-1][:200]
        print(f"audit: pip-audit reached no service ({last}); nothing is known about the lock")
        return 0

    # A mirror that lacks an address answers "not found" for every package.
    known = [package for package in found if "skip_reason" not in package]
    if not known:
        print(f"audit: the index here knows no faults of {len(found)} packages, so none was asked")
        return 0
    faulty = [package for package in known if package["vulns"]]
    for package in faulty:
        for fault in package["vulns"]:
            repaired = ", ".join(fault["fix_versions"]) or "no version"
            print(f"{package['name']} {package['version']}: {fault['id']}, repaired in {repaired}")
    print(f"audit: {len(known)} of {len(found)} packages asked about, {len(faulty)} with faults")
    return int(bool(faulty))


if __name__ == "__main__":
    sys.exit(main())
