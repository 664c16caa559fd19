"""Do the public CIFAR-10 checkpoints score on the JPEG test split what is known of them?

They were trained on the lossless images, where they score 91.7 % and 93.4 %; the JPEG coding costs
them about ten points. Loading, normalisation and decoding must all be right to meet the figures.

    DOUBLURE_DATA=... python benchmarks/evaluate_cifar10.py
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path

from doublure.data.datasets import open_data
from doublure.nets.network import count_parameters
from doublure.nets.references import NetworkRef
from doublure.networks import load
from doublure.tasks.classification.evaluation import evaluate
from real_data import cifar10_folder, data_folder

RESULT = Path(__file__).parent / "results" / "evaluate_cifar10.json"
CHECKPOINTS = {
    "resnet20": ("resnet20-12fca82f.th", 0.810),
    "resnet56": ("resnet56-4bfd9763.th", 0.832),
}


def measure(name: str, file: str, expected: float) -> dict[str, object]:
    """Return one network's score beside the figure known of it."""
    network = load(
        NetworkRef(
            ref=f"builtin/{name}",
            weights=str(data_folder() / "cifar10-resnet" / file),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            classes=10,
        )
    )
    found = evaluate(network, open_data(cifar10_folder(), network.contract, split="test"))
    return {
        "network": name,
        "parameters": count_parameters(network),
        **found.to_json(),
        "interval": found.interval(),
        "nll": found.nll,
        "calibration_error": found.calibration_error,
        "expected": expected,
        "gap": round(found.accuracy, 3) - expected,
    }


def main() -> None:
    rows = []
    for name, (file, expected) in CHECKPOINTS.items():
        rows.append(measure(name, file, expected))
        print(f"{name}: {rows[-1]['accuracy']:.2%} of {rows[-1]['count']}, known {expected:.1%}")
    packages = ("torch", "numpy", "pillow")
    result = {
        "question": __doc__.splitlines()[0],
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
