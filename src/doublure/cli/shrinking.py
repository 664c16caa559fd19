"""Commands that change a trained network: call the verb, print the result."""

from typing import Any

import typer

from doublure.cli.commands import Options, add_command
from doublure.cli.console import print_json, progression, results
from doublure.cli.runs import require, run_verb


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command."""
    for verb in (shrink, prune, quantize, continual):
        add_command(app, verb)


def shrink(options: Options, *, json: bool) -> None:
    """Create several smaller networks, compare them, and recommend one."""
    from doublure.verbs.shrink import shrink as work

    with progression() as shown:
        summary = work(**options, say=shown.say, watch=shown.watch)
    if json:
        print_json(summary)
        return
    for row in (summary["teacher"], *summary["rows"]):
        results.print(_line(row, summary), markup=False)
    for item in (*summary["failed"], *summary["left_out"]):
        results.print(f"without {item['name']}: {item['why']}", markup=False)
    out, recommended = options["out"], summary["recommendation"]
    results.print(recommended["reason"], markup=False)
    results.print(f"file       {out / recommended['path']}", markup=False)
    results.print(f"report     {out / 'report.html'}", markup=False)


def _line(row: dict[str, Any], summary: dict[str, Any]) -> str:
    form = "int8" if row["form"] == "int8-onnx" else "float32"
    agreed = " ".join(f"{ratio:6.1%}" for ratio in row["agreement"].values())
    scored = "" if row["accuracy"] is None else f"  accuracy {row['accuracy']:.1%}"
    chosen = "  <-" if row["path"] == summary["recommendation"]["path"] else ""
    return (
        f"{row['candidate']:20}{form:8}{row['bytes']:>12,} bytes "
        f"{row['parameters']:>11,} parameters {row['macs'] / 1e6:8.1f} MMACs "
        f"{row['latency_ms']:8.3f} ms  agreement {agreed}{scored}{chosen}"
    )


def prune(options: Options, *, json: bool) -> None:
    """Remove the least important filters of a network, and distil it back."""
    require(options, "model")
    from doublure.verbs.prune import prune as work

    run_verb(work, options, json=json)


def quantize(options: Options, *, json: bool) -> None:
    """Quantize a network, calibrated on any images, optionally with distillation."""
    require(options, "model")
    from doublure.verbs.quantize import quantize as work

    summary = run_verb(work, options, json=json)
    if summary and not json:
        share = summary["quantization"]
        results.print(
            f"rounded    {share['layers']} layers, {share['share']:.1%} of "
            f"{share['all_weights']:,} weights, {share['mean_weight_bits']:.2f} bits a weight; "
            f"inputs of {share['input_layers']} layers"
        )
        results.print(
            "speed      not timed: rounding is simulated here; export int8-onnx, timed there"
        )


def continual(options: Options, *, json: bool) -> None:
    """Train a network on new classes without the data of the old ones."""
    require(options, "model", "data")
    from doublure.verbs.continual import continual as work

    summary = run_verb(work, options, json=json)
    if summary and not json:
        for part in ("old", "new"):
            scored, count = summary[f"{part}_accuracy"], summary[f"{part}_count"]
            if scored is not None:
                results.print(f"{part:11}classes {scored:.1%} of {count:,}")
        if summary["forgetting"] is not None:
            results.print(
                f"{'forgotten':11}{100 * summary['forgetting']:.1f} points of old classes"
            )
