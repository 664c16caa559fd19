"""From a .pt2 file to a module, running nothing but tensor operators.

`torch.export.load` unpickles, evaluates guard code, imports types by name, turns names into Python
source and loads compiled libraries: an untrusted .pt2 could run any code. Here the archive is
copied first. The copy has only raw tensors and a graph in which every string was checked against
the needs of a plain exported network; the rest (pickles, guards, notes, libraries) is dropped.
"""

import ast
import io
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch._export.verifier import SpecViolationError
from torch.fx import GraphModule

from doublure.data.checkpoints import (
    DAMAGE,
    PROGRAM,
    CheckpointError,
    check_weights,
    damage_message,
    existing_file,
    first_line,
)

_GRAPH = "models/model.json"
_TENSORS = {
    "data/weights/": ("data/weights/model_weights_config.json", r"weight_\d+"),
    "data/constants/": ("data/constants/model_constants_config.json", r"tensor_\d+"),
}
_HEADER = ("archive_format", "archive_version", ".data/version", "byteorder")
_EXTRA = "extra/"

# Operators on tensors and sizes, without aten.from_file, which can map or create any file.
_TARGET = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b)\w+\.\w+"
    r"|torch\.ops\.quantized_decomposed\.\w+\.\w+"
    r"|torch\.sym_\w+"
    r"|math\.(ceil|floor|trunc)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
_NAME = re.compile(r"[\w.]*", re.ASCII)
# String arguments, quoted in the generated Python: "bhid,bhjd->bhij", "same".
_ARGUMENT = re.compile(r"[\w.,\-> ]*", re.ASCII)
_VERSION = re.compile(r"[\w.+]*", re.ASCII)
_PATTERNS = {
    "target": _TARGET,
    "as_operator": _TARGET,
    "as_string": _ARGUMENT,
    "torch_version": _VERSION,
}
_CPU = {"type": "cpu", "index": None}
# Notes for debugging, Python source, and the device of the machine that exported.
_REPLACED: dict[str, Any] = {
    **{"metadata": {}, "guards_code": [], "treespec_namedtuple_fields": {}},
    **{"device": _CPU, "as_device": _CPU},
}
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
# Names in expressions of sizes: sympy's repr, and torch's functions on integers.
_FUNCTIONS = frozenset(
    {
        *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod"),
        *("FloorDiv", "CleanDiv", "CeilDiv", "PythonMod", "ModularIndexing", "IntTrueDiv"),
        *("FloatTrueDiv", "PowByNatural", "FloatPow", "FloorToInt", "CeilToInt", "TruncToInt"),
        *("RoundToInt", "ToFloat", "LShift", "RShift", "Identity", "Where"),
        *("Equality", "Unequality", "GreaterThan", "LessThan", "StrictGreaterThan"),
        *("StrictLessThan", "And", "Or", "Not"),
    }
)
_SYMBOL = re.compile(r"[a-z]{1,4}\d+", re.ASCII)
_EXPRESSION = (
    *(ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.UnaryOp),
    *(ast.BinOp, ast.USub, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
)


def read_program(path: str | Path) -> GraphModule:
    """Return the exported network in a .pt2 file, on the CPU; `train` and `eval` have no effect.

    Raises:
        CheckpointError: the file is missing or damaged, or has more than operators on tensors.
    """
    path = _program_file(path)
    copy = _safe_copy(path)
    try:
        with warnings.catch_warnings():
            # Some versions of torch map the buffer before they copy it.
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            program = torch.export.load(copy)
        module = program.module()
    except (*DAMAGE, SpecViolationError) as error:
        raise CheckpointError(damage_message(path, first_line(error))) from error
    assert isinstance(module, GraphModule)
    check_weights(module.state_dict(), path)
    # Exported modules refuse train() and eval(), which parent modules call on their children.
    for name in ("train", "eval"):
        module.__dict__.pop(name, None)
    return module


def read_extra(path: str | Path, name: str) -> str | None:
    """Return an extra text file of the archive, or None if there is none of that name."""
    path = _program_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            record = _root(archive) + _EXTRA + name
            return archive.read(record).decode() if record in archive.namelist() else None
    except DAMAGE as error:
        raise CheckpointError(damage_message(path, first_line(error))) from error


def program_shapes(module: GraphModule) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
    """Return the shapes of the image batch and of the output; None for dynamic sizes.

    Raises:
        CheckpointError: the program has other inputs or outputs.
    """
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    outputs = torch.utils._pytree.tree_leaves(output.args[0])
    if len(inputs) != 1 or len(outputs) != 1:
        raise CheckpointError(
            f"the program takes {len(inputs)} inputs and gives {len(outputs)} outputs; "
            "export a network of one image batch and one output"
        )
    image, answer = (
        tuple(size if isinstance(size, int) else None for size in node.meta["val"].shape)
        for node in (inputs[0], outputs[0])
    )
    if len(image) != 4 or len(answer) < 2:
        raise CheckpointError(
            f"the program takes shape {image} and gives {answer}; "
            "expected images (batch, channels, height, width) and (batch, classes)"
        )
    if image[0] is not None:
        raise CheckpointError(
            f"the program was exported for batches of exactly {image[0]}; "
            "export it with a dynamic batch: torch.export.Dim('batch')"
        )
    return image, answer


def _program_file(path: str | Path) -> Path:
    path = existing_file(path)
    if path.suffix != PROGRAM:
        raise CheckpointError(f"{path} is not named as an exported program ({PROGRAM})")
    return path


def _safe_copy(path: Path) -> io.BytesIO:
    """Return an archive in memory with the checked content only."""
    buffer = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(buffer, "w") as copy:
            root = _root(archive)
            if root + _GRAPH not in archive.namelist():
                raise CheckpointError(
                    f"{path} holds no {_GRAPH}: it was compiled for one machine, or exported by "
                    "an old torch; export it again with torch.export.save"
                )
            graph = json.loads(archive.read(root + _GRAPH))
            copy.writestr("model/" + _GRAPH, json.dumps(_check(graph, "", path)))
            for folder, (config, pattern) in _TENSORS.items():
                _copy_tensors(archive, copy, root, folder, config, pattern, path)
            for name in _HEADER:
                copy.writestr("model/" + name, archive.read(root + name))
            copy.writestr("model/data/sample_inputs/model.pt", b"")
    except CheckpointError:
        raise
    except DAMAGE as error:
        raise CheckpointError(damage_message(path, first_line(error))) from error
    buffer.seek(0)
    return buffer


def _copy_tensors(
    archive: zipfile.ZipFile,
    copy: zipfile.ZipFile,
    root: str,
    folder: str,
    config: str,
    pattern: str,
    path: Path,
) -> None:
    """Copy the raw tensors of one folder; nothing that is pickled."""
    records = json.loads(archive.read(root + config))
    named = records["config"]
    for name, record in named.items():
        if record["use_pickle"] is not False or not re.fullmatch(pattern, record["path_name"]):
            raise CheckpointError(
                f"{path}: '{name}' is pickled, not a raw tensor, and could run any code; "
                "export a network of plain dense tensors"
            )
    copy.writestr("model/" + config, json.dumps(_check({"config": named}, "", path)))
    for file in sorted({record["path_name"] for record in named.values()}):
        copy.writestr("model/" + folder + file, archive.read(root + folder + file))


def _root(archive: zipfile.ZipFile) -> str:
    """Return the top folder of the archive."""
    return archive.namelist()[0].partition("/")[0] + "/" if archive.namelist() else ""


def _check(value: Any, key: str, path: Path) -> Any:
    """Return a safe copy of `value`; raise if a string in it could become code."""
    if isinstance(value, Mapping):
        for name in value:
            _check_text(name, "", path)
        return {
            name: _REPLACED[name] if name in _REPLACED else _check(item, name, path)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_check(item, key, path) for item in value]
    if isinstance(value, str):
        _check_text(value, key, path)
    return value


def _check_text(text: str, key: str, path: Path) -> None:
    if key == "expr_str":
        harmless = _is_size(text)
    elif key in ("in_spec", "out_spec"):
        harmless = _is_spec(text)
    else:
        harmless = _PATTERNS.get(key, _NAME).fullmatch(text) is not None
    if not harmless:
        shown = f"{text[:60]}..." if len(text) > 60 else text
        raise CheckpointError(
            f"{path}: the program asks for {shown!r} ({key or 'name'}), which is more than "
            "operators on tensors and could run any code; export a plain network"
        )


def _is_size(text: str) -> bool:
    """Return whether `text` is arithmetic on sizes; sympy evaluates it as Python."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except DAMAGE:
        return False
    return all(isinstance(node, _EXPRESSION) for node in nodes) and all(
        _is_size_part(node) for node in nodes
    )


def _is_size_part(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        # sympy also evaluates string arguments.
        is_number = isinstance(node.value, int | float)
        return is_number or (
            isinstance(node.value, str) and _SYMBOL.fullmatch(node.value) is not None
        )
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS or _SYMBOL.fullmatch(node.id) is not None
    return not isinstance(node, ast.Call) or isinstance(node.func, ast.Name)


def _is_spec(text: str) -> bool:
    """Return whether `text` describes nested lists, tuples and dicts, without imports."""
    if not text:
        return True
    pending = list(json.loads(text)[1:])
    while pending:
        spec = pending.pop()
        if spec["type"] not in _CONTAINERS:
            return False
        pending += spec["children_spec"]
    return True
