"""understudy: from a trained network without its data to one that can be deployed.

Every verb of the command line is a function here, of the same name and arguments; networks may be
given as modules in place of references. Names are resolved when they are first used, so that
importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.nets.network import Network
    from understudy.nets.references import NetworkRef
    from understudy.protocols import Batch, InputContract, Trace
    from understudy.verbs.continual import continual
    from understudy.verbs.demo import demo
    from understudy.verbs.distill import distill
    from understudy.verbs.doctor import doctor
    from understudy.verbs.evaluate import evaluate
    from understudy.verbs.export import export
    from understudy.verbs.inspect import inspect
    from understudy.verbs.methods import methods
    from understudy.verbs.prune import prune
    from understudy.verbs.quantize import quantize
    from understudy.verbs.report import report
    from understudy.verbs.score import score
    from understudy.verbs.shrink import shrink
    from understudy.verbs.synthesize import synthesize
    from understudy.verbs.train import train
    from understudy.verbs.train_generator import train_generator

_HOMES = {
    "Batch": "protocols",
    "InputContract": "protocols",
    "Network": "nets.network",
    "NetworkRef": "nets.references",
    "Trace": "protocols",
    **{
        verb: f"verbs.{verb}"
        for verb in (
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
    },
}

__all__ = [
    "Batch",
    "InputContract",
    "Network",
    "NetworkRef",
    "Trace",
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
    if name not in _HOMES:
        raise AttributeError(f"module 'understudy' has no attribute '{name}'")
    return getattr(importlib.import_module(f"understudy.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
