"""The head of the report that `doublure demo` writes, as a browser shows it.

    doublure demo
    python docs/pictures/report.py [demo]

It needs chromium.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from drawing import HERE
from PIL import Image

WIDTH, TOP, BOTTOM = 660, 50, 686
SCALE = 2


def main() -> None:
    page = Path(sys.argv[1] if len(sys.argv) > 1 else "demo") / "report.html"
    with TemporaryDirectory() as folder:
        shot = Path(folder) / "report.png"
        subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--window-size={WIDTH},{BOTTOM}", f"--force-device-scale-factor={SCALE}"),
                *(f"--screenshot={shot}", page.resolve().as_uri()),
            ],
            check=True,
            capture_output=True,
        )
        head = Image.open(shot).convert("RGB").crop((0, SCALE * TOP, SCALE * WIDTH, SCALE * BOTTOM))
        head.quantize(24, dither=Image.Dither.NONE).save(HERE / "report.png", optimize=True)


if __name__ == "__main__":
    main()
