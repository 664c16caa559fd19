"""Reopens an exported file and writes down what it answers: a program of its own, not a module.

    python -P reopen.py FORM FILE PROBE.npy ANSWERS.npz CODE LOADER BATCH_SIZE...

It starts afresh, as a deployed program would, and imports nothing the file does not need: for
ONNX numpy and the runtime, for .pt2 torch alone. ANSWERS holds the logits of the first probe images
for every batch size, those of all of them for the largest. CODE is the file whose code a student's
own architecture stands in, or ""; LOADER the module whose `load` opens a student's folder.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

# Images answered at least; at a batch size of 1, all of them would take long.
FEWEST = 6

Answer = Callable[[np.ndarray], np.ndarray]


def open_onnx(path: Path, code: str, loader: str) -> Answer:
    """Return how an ONNX file answers a batch."""
    from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession
    from onnxruntime.capi.onnxruntime_pybind11_state import SessionOptions

    options = SessionOptions()
    options.log_severity_level = 3
    session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def open_program(path: Path, code: str, loader: str) -> Answer:
    """Return how a .pt2 file answers a batch."""
    import torch

    program = torch.export.load(path).module()
    return lambda images: program(torch.from_numpy(images)).detach().numpy()


def open_student(path: Path, code: str, loader: str) -> Answer:
    """Return how a student's network, rebuilt from the folder it is in, answers a batch."""
    import importlib

    import torch

    load = importlib.import_module(loader).load
    network = load(str(path.parent), allow_code=[code] if code else False).eval()
    return lambda images: network(torch.from_numpy(images)).detach().numpy()


OPENERS: dict[str, Callable[[Path, str, str], Answer]] = {
    "onnx": open_onnx,
    "int8-onnx": open_onnx,
    "pt2": open_program,
    "safetensors": open_student,
}


def main(
    form: str, path: str, probe: str, answers: str, code: str, loader: str, *sizes: str
) -> None:
    """Answer probe images as one file does, at every batch size asked for."""
    images = np.load(probe, allow_pickle=False)
    answer = OPENERS[form](Path(path), code, loader)
    runs = []
    for size in map(int, sizes):
        some = images[: max(size, FEWEST)]
        batches = np.split(some, range(size, len(some), size))
        runs.append(np.concatenate([answer(batch) for batch in batches]))
    np.savez(answers, *runs)


if __name__ == "__main__":
    main(*sys.argv[1:])
