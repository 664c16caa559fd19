"""doublure: distil and compress trained networks without their data.

Every verb of the command line is a function here, of the same name and arguments; networks may be
given as modules in place of references. Names are resolved at their first use, so that the import
of the package is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from doublure.core.protocols import Batch, InputContract, Outputs
    from doublure.nets.network import Network
    from doublure.nets.references import NetworkRef
    from doublure.verbs.audit_quantization import audit_quantization
    from doublure.verbs.audit_saliency import audit_saliency
    from doublure.verbs.continual import continual
    from doublure.verbs.demo import demo
    from doublure.verbs.distill import distill
    from doublure.verbs.doctor import doctor
    from doublure.verbs.evaluate import evaluate
    from doublure.verbs.export import export
    from doublure.verbs.inspect import inspect
    from doublure.verbs.methods import methods
    from doublure.verbs.prune import prune
    from doublure.verbs.quantize import quantize
    from doublure.verbs.report import report
    from doublure.verbs.score import score
    from doublure.verbs.shrink import shrink
    from doublure.verbs.synthesize import synthesize
    from doublure.verbs.train import train
    from doublure.verbs.train_generator import train_generator

VERBS = (
    "audit_quantization",
    "audit_saliency",
    "continual",
    "demo",
    "distill",
    "doctor",
    "evaluate",
    "export",
    "inspect",
    "methods",
    "prune",
    "quantize",
    "report",
    "score",
    "shrink",
    "synthesize",
    "train",
    "train_generator",
)
_HOMES = {
    "Batch": "core.protocols",
    "InputContract": "core.protocols",
    "Network": "nets.network",
    "NetworkRef": "nets.references",
    "Outputs": "core.protocols",
    **{verb: f"verbs.{verb}" for verb in VERBS},
}

__all__ = [
    "Batch",
    "InputContract",
    "Network",
    "NetworkRef",
    "Outputs",
    "audit_quantization",
    "audit_saliency",
    "continual",
    "demo",
    "distill",
    "doctor",
    "evaluate",
    "export",
    "inspect",
    "methods",
    "prune",
    "quantize",
    "report",
    "score",
    "shrink",
    "synthesize",
    "train",
    "train_generator",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # slow to import, so only here

        return version("doublure")
    if name not in _HOMES:
        raise AttributeError(f"module 'doublure' has no attribute '{name}'")
    return getattr(importlib.import_module(f"doublure.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
