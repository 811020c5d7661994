"""Draw docs/images/report.png, the picture of a report in README: the upper part of a page in a browser.

Its runs take about a quarter of an hour on one core:

    splitft compare study-smollm2 --methods same_split,splitft,makespan --seeds 3 --out runs/pictured \\
      rounds=4 local_steps=2 cuts=8 server_adapter=per_client lora_r_cut=16 max_length=32 \\
      max_train_samples=600 max_eval_samples=60 partition.alpha=0.1 \\
      'devices=[phone, laptop, laptop, workstation, workstation]'
    python docs/make_report_picture.py runs/pictured/runs
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from splitft.tools.report.page import render_page
from splitft.tools.report.runs import collect_runs

PICTURE = Path(__file__).with_name("images") / "report.png"
TITLE = "Three ways to cut: five devices, three seeds"
WIDTH, HEIGHT = 1430, 1156
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def main(runs: Path) -> None:
    """Show the page of the runs in a browser without a window, and keep a picture of it."""
    browser = next(found for name in BROWSERS if (found := shutil.which(name)))
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        page.write_text(render_page(collect_runs([runs])[0], TITLE), encoding="utf-8")
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--user-data-dir={folder}/profile", f"--window-size={WIDTH},{HEIGHT}",
                f"--screenshot={PICTURE}", page.as_uri(),
            ],
            check=True, capture_output=True,
        )  # fmt: skip
    Image.open(PICTURE).convert("RGB").quantize(256).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
