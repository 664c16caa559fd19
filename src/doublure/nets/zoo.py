"""Networks of timm, torchvision and the Hugging Face hub, and their input contracts.

Weights are downloaded only if the reference names a hub; only tensors are read, and a repository
that needs its own code is refused.
"""

import contextlib
import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from doublure.core.optional import require
from doublure.nets.partial_contract import PartialContract
from doublure.nets.references import Reference

# Their weights expect another normalisation, which the network then does itself; the auxiliary
# heads are for their own training only.
_INCEPTION = {"transform_input": True, "aux_logits": False, "init_weights": False}
_TORCHVISION_OPTIONS = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


def stated_by_hub(reference: Reference) -> PartialContract:
    """Return the input contract that the hub states for its weights."""
    if reference.kind == "torchvision":
        return _torchvision_statement(reference)
    config = _timm_config(reference)
    channels, height, width = config["input_size"]
    classes = int(config["num_classes"])
    return PartialContract(
        size=(height, width),
        channels=channels,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        # 0: a network without a classifier.
        classes=classes or None,
        names=_label_names(config.get("label_names"), classes),
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
    )


def build_from_hub(
    reference: Reference, *, classes: int, channels: int, size: tuple[int, int], pretrained: bool
) -> nn.Module:
    """Return the network, with the hub's weights if `pretrained`."""
    # Both print their downloads to standard output, which belongs to the caller.
    with contextlib.redirect_stdout(sys.stderr):
        if reference.kind == "torchvision":
            return _build_torchvision(reference, classes, channels, size, pretrained)
        config = _timm_config(reference)
        options: dict[str, Any] = {"img_size": size} if config.get("fixed_input_size") else {}
        network = require("timm").create_model(
            f"hf-hub:{reference.target}" if reference.kind == "hf" else reference.target,
            pretrained=pretrained,
            num_classes=classes,
            in_chans=channels,
            **options,
        )
    assert isinstance(network, nn.Module)
    return network


def architecture_of(reference: Reference) -> str:
    """Return the REF that rebuilds the architecture, without the hub's weights where possible."""
    if reference.kind != "hf":
        return reference.text
    _, name, arguments = require("timm").models.load_model_config_from_hf(reference.target)
    # Only the repository knows its own arguments.
    return reference.text if arguments else f"timm/{name}"


def _timm_config(reference: Reference) -> Mapping[str, Any]:
    if reference.kind == "hf":
        _refuse_foreign_code(reference)
        models = require("timm").models
        config, _, _ = models.load_model_config_from_hf(reference.target)
        return {**models.PretrainedCfg().to_dict(), **config}
    timm = require("timm")
    if not timm.is_model(reference.target):
        raise ValueError(_unknown("timm", reference.target, timm.list_models()))
    try:
        config = timm.models.get_pretrained_cfg(reference.target)
    except RuntimeError as error:
        tags = timm.list_pretrained(reference.target.partition(".")[0] + ".*")
        raise ValueError(f"{reference.text}: {error} Known: {', '.join(tags)}") from error
    if config is None:
        raise ValueError(
            f"{reference.text}: timm has no configuration for it; use file:net.py:make_net"
        )
    return dict(config.to_dict())


def _refuse_foreign_code(reference: Reference) -> None:
    """Raise unless the repository holds a timm model, which needs no code of its own."""
    require("timm")  # checked first, so that nothing is downloaded in vain
    hub = require("huggingface_hub")
    repository, _, revision = reference.target.partition("@")
    try:
        file = hub.hf_hub_download(repository, "config.json", revision=revision or None)
        config = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, hub.errors.EntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{reference.text}: its config.json cannot be downloaded ({reason}); "
            "check name and connection, or download the weights and use --weights"
        ) from error
    if not isinstance(config, dict) or "architecture" not in config:
        what = "has its own code" if "auto_map" in config else "has no timm model"
        raise ValueError(
            f"{reference.text} {what}, and code of a repository is never run; download its weights "
            "and use file:net.py:make_net --weights FILE"
        )


def _label_names(names: Any, classes: int) -> tuple[str, ...] | None:
    """Return the names in the order of the outputs, or None if some are missing."""
    if isinstance(names, Mapping):
        by_index = {int(index): str(name) for index, name in names.items()}
        names = [by_index[i] for i in range(classes) if i in by_index]
    if not isinstance(names, Sequence) or isinstance(names, str) or len(names) != classes:
        return None
    return tuple(str(name) for name in names)


def _torchvision_weights(reference: Reference) -> Any:
    """Return the weights of a name: NAME for the default, NAME.TAG for others."""
    models = require("torchvision").models
    name, _, tag = reference.target.partition(".")
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(_unknown("torchvision", name, known))
    weights = models.get_model_weights(name)
    if tag and tag not in weights.__members__:
        raise ValueError(
            f"{reference.text}: unknown weights; known: {', '.join(weights.__members__)}"
        )
    return weights[tag] if tag else weights.DEFAULT


def _torchvision_statement(reference: Reference) -> PartialContract:
    weights = _torchvision_weights(reference)
    preset, names = weights.transforms(), tuple(weights.meta["categories"])
    (side,) = preset.crop_size
    (resized,) = preset.resize_size
    return PartialContract(
        size=(side, side),
        channels=len(preset.mean),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        classes=len(names),
        names=names,
        interpolation=preset.interpolation.value,
        crop_pct=side / resized,
    )


def _build_torchvision(
    reference: Reference, classes: int, channels: int, size: tuple[int, int], pretrained: bool
) -> nn.Module:
    weights = _torchvision_weights(reference)
    name = reference.target.partition(".")[0]
    if channels != 3:
        raise ValueError(
            f"{reference.text} takes 3 channels, not {channels}; use timm/ or builtin/, "
            "whose networks take any number"
        )
    options: dict[str, Any] = dict(_TORCHVISION_OPTIONS.get(name, {}))
    if name.startswith("vit_"):
        options["image_size"] = size[0]
    network = require("torchvision").models.get_model(name, num_classes=classes, **options)
    assert isinstance(network, nn.Module)
    if pretrained:
        # The builder itself would unpickle any file.
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        wanted = {key: value for key, value in state.items() if not key.startswith(_AUXILIARY)}
        network.load_state_dict(wanted)
    return network


def _unknown(hub: str, name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.partition(".")[0], known, n=3, cutoff=0.5)
    hint = f"; near: {', '.join(near)}" if near else ""
    return f"{hub} has no image classifier '{name}'{hint}"
