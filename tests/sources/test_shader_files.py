"""A user's shader files: every dialect is painted, every mistake is named with its line."""

from pathlib import Path

import pytest
import torch

from doublure.core import optional
from doublure.core.protocols import InputContract, StreamContext
from doublure.core.seeding import from_seed
from doublure.shaders.opengl import OpenGLError, open_context
from doublure.sources.shader_files import FileStream, ShaderFiles, shader_files


def two_files(folder: Path) -> ShaderFiles:
    text = "void main() { gl_FragColor = vec4(fract(sin(gl_FragCoord.xyx + time)), 1.0); }"
    for name in ("one", "two"):
        (folder / f"{name}.frag").write_text(text)
    return ShaderFiles(folder=folder)


EXAMPLES = (two_files,)

# The same picture in every dialect: red from left to right, green from bottom to top.
PLAIN = """precision highp float;
uniform vec2 resolution;
uniform float time;
void main() {
    gl_FragColor = vec4(gl_FragCoord.xy / resolution, fract(time), 1.0);
}
"""
DIALECTS = {
    "plain.frag": PLAIN,
    "modern.glsl": "#version 300 es\n"
    + PLAIN.replace("void main", "out vec4 outColor;\nvoid main").replace(
        "gl_FragColor", "outColor"
    ),
    "shadertoy.frag": "void mainImage(out vec4 c, in vec2 p) {"
    "c = vec4(p / iResolution.xy, fract(iTime), 1.0); }",
    "book.frag": "uniform vec2 u_resolution; uniform float u_time; void main() {"
    "gl_FragColor = vec4(gl_FragCoord.xy / u_resolution, fract(u_time), 1.0); }",
    "geek.frag": "precision highp float; uniform vec2 r; uniform float t; void main() {"
    "gl_FragColor = vec4(gl_FragCoord.xy / r, fract(t), 1.0); }",
    "geeker.twigl": "void main() { gl_FragColor = vec4(FC.xy / r, fract(t), 1.0); }",
    "geekest.twigl": "o = vec4(FC.xy / r, fract(t), 1.0);",
}


@pytest.fixture(scope="module", autouse=True)
def _needs_opengl() -> None:
    try:
        open_context()
    except (OpenGLError, optional.MissingExtraError) as error:
        pytest.skip(str(error))


def opened(folder: Path, split="train", size=(6, 8), batch_size=8, **settings) -> FileStream:
    grey = (0.5,) * 3
    contract = InputContract(size=size, channels=3, mean=grey, std=grey, classes=10)
    context = StreamContext(
        contract=contract,
        device=torch.device("cpu"),
        batch_size=batch_size,
        steps=9,
        split=split,
    )
    return ShaderFiles(folder=folder, **settings).open(context, None, from_seed(0))


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_paints_the_same_picture_upright(name, tmp_path):
    images = opened(written(tmp_path, {name: DIALECTS[name]})).draw(0, None).images
    across = ((torch.arange(8) + 0.5) / 8).expand(6, 8)
    down = ((5.5 - torch.arange(6)) / 6).view(6, 1).expand(6, 8)
    for image in images:
        torch.testing.assert_close(image[0], across, rtol=0, atol=1 / 255)
        torch.testing.assert_close(image[1], down, rtol=0, atol=1 / 255)
    assert len(images[:, 2].unique()) > 4


def test_twigls_helpers_are_there(tmp_path):
    text = """vec3 p=vec3((FC.xy*2.-r)/r.y,1.);p.xy*=rotate2D(PI2*.1);p*=rotate3D(.3,vec3(0,1,1));
    o.rgb=hsv(snoise2D(p.xy),.5,1.)*(snoise3D(p*2.)*.5+.5)+.1*snoise4D(vec4(p,t))
    +.1*fsnoise(FC.xy)+.1*fsnoiseDigits(FC.xy);"""
    images = opened(written(tmp_path, {"a.twigl": text}), size=(32, 32)).draw(0, None).images
    assert images.std() > 0.05


def test_the_same_step_shows_the_same_images(tmp_path):
    folder = written(tmp_path, DIALECTS)
    first, second = opened(folder), opened(folder)
    first.draw(3, None)
    assert torch.equal(first.draw(1, None).images, second.draw(1, None).images)
    assert not torch.equal(first.draw(1, None).images, first.draw(2, None).images)
    assert first.state_dict() == {}


def test_every_broken_file_is_reported_with_its_line(tmp_path):
    broken = {
        "typo.frag": PLAIN.replace("fract(time)", "fract(tiem)"),
        "short.twigl": "o.r = FC.x / r.x;\no.g = nothing(2.0);\n",
        "wants.frag": "uniform float speed;\nvoid main() { gl_FragColor = vec4(speed); }",
        "toy.frag": "void mainImage(out vec4 c, vec2 p) { c = texture(iChannel0, p); }",
    }
    written(tmp_path, {"fine.frag": PLAIN, **broken})
    with pytest.raises(ValueError, match="4 of 5 shaders do not compile") as caught:
        opened(tmp_path)
    message = str(caught.value)
    assert "typo.frag:5: " in message
    assert "tiem" in message
    assert "short.twigl:2: " in message
    assert "wants.frag: needs the input 'speed'" in message
    assert "toy.frag: needs the input 'iChannel0'" in message
    assert "fine.frag" not in message


def test_a_few_files_are_split_by_time(tmp_path):
    folder = written(tmp_path, {"plain.frag": PLAIN})
    streams = {split: opened(folder, split) for split in ("train", "held_out")}
    times = {
        split: [stream._choice(place, 0)[1] for place in range(300)]
        for split, stream in streams.items()
    }
    slots = {split: {int((time - 0.1) / 9.9 * 100) for time in times[split]} for split in times}
    assert all(slot % 10 == 0 for slot in slots["held_out"])
    assert all(slot % 10 != 0 for slot in slots["train"])


def test_many_files_are_split_by_file(tmp_path):
    folder = written(tmp_path, {f"{i}.frag": PLAIN for i in range(20)})
    streams = {split: opened(folder, split) for split in ("train", "held_out")}
    files = {
        split: {stream._choice(place, 0)[0] for place in range(300)}
        for split, stream in streams.items()
    }
    assert len(files["held_out"]) == 2
    assert len(files["train"]) == 18
    assert files["train"].isdisjoint(files["held_out"])


def test_a_file_that_never_shows_anything_is_named(tmp_path):
    written(
        tmp_path, {"black.frag": "uniform float time; void main() { gl_FragColor = vec4(0.0); }"}
    )
    with pytest.raises(ValueError, match=r"constant at 16 random times: .*black.frag"):
        opened(tmp_path).draw(0, None)


def test_a_folder_without_shaders_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no shader in .*expected files named \*.frag"):
        shader_files(tmp_path)
    with pytest.raises(ValueError, match="no shader folder"):
        shader_files(tmp_path / "absent")
