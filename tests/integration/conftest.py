"""What the integration tests share: commands in an environment of their own, and a run small enough
for them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tasks.runtime.environment import ROOT

COMMAND_TIMEOUT_S = 400
KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "OMP_NUM_THREADS", "VIRTUAL_ENV")

CONFIG = f"""
name: miniature
workers: 0
model:
  name: {ROOT}/configs/models/tiny-vit.json
pretrain: {{epochs: 8, batch_size: 16, optimizer: muon, lr: 1.0e-3, warmup_steps: 1}}
finetune: {{epochs: 15, batch_size: 16, optimizer: muon, lr: 1.0e-3, warmup_steps: 1}}
evaluate: {{gallery_queries: 2}}
"""

# What the README tells a person to type, with Rank@1 computed the slow, obvious way; argv: the test
# split's TSV.
USE_CHAMPION = """
import base64, json, sys
import mlflow, numpy, pandas

rows = [line.split(b"\\t") for line in open(sys.argv[1], "rb").read().splitlines()]
captions = pandas.DataFrame({"caption": [caption.decode() for caption, _ in rows]})
images = pandas.DataFrame({"image": [base64.b64decode(image) for _, image in rows]})
model = mlflow.pyfunc.load_model("models:/commerce-clip@champion")
text = numpy.array(model.predict(captions)["text_embedding"].tolist())
image = numpy.array(model.predict(images)["image_embedding"].tolist())
similarity = text @ image.T
right = similarity.diagonal()[:, None]
found = ((similarity >= right).sum(axis=1) == 1).mean()
norms = [float(abs(numpy.linalg.norm(each, axis=1) - 1).max()) for each in (text, image)]
print(json.dumps({"rank_at_1": float(found), "norm_error": max(norms), "shape": list(text.shape)}))
"""


@dataclass(frozen=True)
class Shell:
    """Commands in a repository with an empty HOME and a state folder of their own; nothing else is
    inherited."""

    folder: Path
    more: Mapping[str, str] = field(default_factory=dict)
    root: Path = ROOT
    timeout_s: int = COMMAND_TIMEOUT_S

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def python(self, *arguments: object, **more: str) -> "subprocess.CompletedProcess[str]":
        """Run the interpreter and return what it did; ``more`` are further environment
        variables."""
        self.home.mkdir(parents=True, exist_ok=True)
        own = {"HOME": str(self.home), "COMMERCE_CLIP_STATE": str(self.state)}
        inherited = {name: os.environ[name] for name in KEPT if name in os.environ}
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.root,
            env=inherited | own | dict(self.more) | more,
            capture_output=True,
            text=True,
            timeout=self.timeout_s,
            check=False,
        )

    def flows(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """Run `python -m flows`."""
        return self.python("-m", "flows", *arguments)

    def use_champion(self, split: Path, **tracking: str) -> dict[str, Any]:
        """Embed a split with the champion in a process that knows MLflow only; return what
        USE_CHAMPION prints."""
        own = {"MLFLOW_DISABLE_TELEMETRY": "true", **tracking}
        done = self.python("-c", USE_CHAMPION, split, **own)
        assert done.returncode == 0, done.stderr
        used: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return used


@pytest.fixture(scope="session")
def miniature_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config that trains for a few steps, enough to beat base weights."""
    path = tmp_path_factory.mktemp("configs") / "miniature.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path
