"""Reopens an exported file and saves its outputs: a separate program, not a module.

    python -P reopen.py FORM FILE PROBE.npy ANSWERS.npz CODE LOADER BATCH_SIZE...

It starts in a new process, like a deployed program, and imports only what the file needs: for ONNX
numpy and the runtime, for .pt2 only torch. ANSWERS has, as BATCH_SIZE/OUTPUT, the outputs for the
first probe images at every batch size, for all of them at the largest. CODE is the file whose code
builds a student's own architecture, or ""; LOADER the module whose `load` opens a student's folder.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Minimum number of images; at a batch size of 1, all of them would take long.
FEWEST = 6

Outputs = dict[str, np.ndarray]
Answer = Callable[[np.ndarray], Outputs]


def open_onnx(path: Path, code: str, loader: str) -> Answer:
    """Return the function of an ONNX file."""
    from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession
    from onnxruntime.capi.onnxruntime_pybind11_state import SessionOptions

    options = SessionOptions()
    options.log_severity_level = 3
    session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(
        zip(names, map(np.asarray, session.run(None, {name: images})), strict=True)
    )


def open_program(path: Path, code: str, loader: str) -> Answer:
    """Return the function of a .pt2 file."""
    import torch

    program = torch.export.load(path).module()
    return lambda images: _by_name(program(torch.from_numpy(images)))


def open_student(path: Path, code: str, loader: str) -> Answer:
    """Return the function of a student's network, rebuilt from its folder."""
    import importlib

    import torch

    load = importlib.import_module(loader).load
    network = load(str(path.parent), allow_code=[code] if code else False).eval()
    return lambda images: _by_name(network(torch.from_numpy(images)))


def _by_name(output: Any) -> Outputs:
    """Return a network's outputs by name, as in `engine.description.named_outputs`."""
    if isinstance(output, dict):
        parts = output
    elif isinstance(output, tuple | list):
        parts = {f"output_{place}": part for place, part in enumerate(output)}
    else:
        parts = {"logits": output}
    return {name: part.detach().numpy() for name, part in parts.items()}


OPENERS: dict[str, Callable[[Path, str, str], Answer]] = {
    "onnx": open_onnx,
    "int8-onnx": open_onnx,
    "pt2": open_program,
    "safetensors": open_student,
}


def main(
    form: str, path: str, probe: str, answers: str, code: str, loader: str, *sizes: str
) -> None:
    """Save the outputs of one file for probe images, at every given batch size."""
    images = np.load(probe, allow_pickle=False)
    answer = OPENERS[form](Path(path), code, loader)
    runs: dict[str, np.ndarray] = {}
    for size in map(int, sizes):
        some = images[: max(size, FEWEST)]
        batches = np.split(some, range(size, len(some), size))
        outputs = [answer(batch) for batch in batches]
        for name in outputs[0]:
            runs[f"{size}/{name}"] = np.concatenate([output[name] for output in outputs])
    np.savez(answers, allow_pickle=False, **runs)


if __name__ == "__main__":
    main(*sys.argv[1:])
