"""What an exported file says about itself: the input contract, as text values by name."""

import importlib.metadata
import json

from doublure.nets.network import Network

INPUT, OUTPUT = "images", "logits"


def describe(network: Network) -> dict[str, str]:
    """Return the network's contract, each value as JSON; normalisation is told, not asked for."""
    contract = network.contract
    values = {
        "input": f"{INPUT}: float NCHW in [0, 1]; mean and std are applied inside",
        "output": OUTPUT,
        "class_names": contract.names,
        "classes": contract.classes,
        "channels": contract.channels,
        "size": contract.size,
        "mean": contract.mean,
        "std": contract.std,
        "interpolation": contract.interpolation,
        "crop_pct": contract.crop_pct,
        "reference": network.reference,
        "doublure": importlib.metadata.version("doublure"),
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
