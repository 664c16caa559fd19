"""The families of shader programs, and the map from a seed to a program.

A texture is a field in a palette; a scene puts surfaces, light and outlines together; a figure is a
scene loosely similar to a real object. The same seed always gives the same formula.
"""

from collections.abc import Callable
from functools import partial

from doublure.core.checks import one_of
from doublure.shaders import animals as animals
from doublure.shaders import scenes as scenes
from doublure.shaders import vehicles as vehicles
from doublure.shaders.colour import Colour, any_palette, toned
from doublure.shaders.expressions import Tape, X, Y, number
from doublure.shaders.fields import FIELDS, Field
from doublure.shaders.functions import Point
from doublure.shaders.program import Program
from doublure.shaders.sketch import Ranges, Sketch
from doublure.shaders.torch_code import compile_torch

Picture = Callable[[Sketch, Point], Colour]


def _texture(field: Field, sketch: Sketch, point: Point) -> Colour:
    return any_palette(sketch)(field(sketch, point))


TEXTURES: dict[str, Picture] = {name: partial(_texture, field) for name, field in FIELDS.items()}
SCENES: dict[str, Picture] = {
    scene.__name__: scene
    for scene in (
        scenes.blobs,
        scenes.leaves,
        scenes.spheres,
        scenes.hills,
        scenes.relief,
        scenes.masked,
        scenes.mirrored,
    )
}
FIGURES: dict[str, Picture] = {
    figure.__name__: figure
    for figure in (
        animals.creatures,
        animals.profiles,
        animals.faces,
        animals.perched,
        animals.crouchers,
        vehicles.vehicles,
        vehicles.wagons,
        vehicles.fronts,
        vehicles.vessels,
        vehicles.flyers,
    )
}
FAMILIES = TEXTURES | SCENES | FIGURES
# Abstract families, for a transfer set that is independent of what objects look like.
ABSTRACT = tuple(TEXTURES | SCENES)


def draw_program(seed: int, family: str) -> Program:
    """Return the program of that seed and family."""
    sketch, tape = _sketched(seed, family)
    return Program(
        seed=seed, family=family, ranges=Ranges.of(sketch.ranges), code=compile_torch(tape)
    )


def program_tape(seed: int, family: str) -> Tape:
    """Return the straight-line code of a program, for writing it in another language."""
    return _sketched(seed, family)[1]


def _sketched(seed: int, family: str) -> tuple[Sketch, Tape]:
    one_of("shader family", family, FAMILIES)
    sketch, point = Sketch(seed), Point(X, Y)
    painted = toned(sketch, FAMILIES[family](sketch, point), point)
    return sketch, number(tuple(painted))
