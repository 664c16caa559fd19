"""Three shader files, as plain GLSL, in Shadertoy's form and in twigl's, at seven random times."""

from pathlib import Path
from tempfile import TemporaryDirectory

from drawing import COLOUR, context, label, picture, plain, tile

from doublure.core.seeding import from_seed
from doublure.sources.shader_files import ShaderFiles

COLUMNS = 7
FILES = {
    "rings.frag": """
void main() {
    vec2 p = (2.0 * gl_FragCoord.xy - resolution) / resolution.y;
    float wave = sin(20.0 * length(p) - 4.0 * time);
    gl_FragColor = vec4(0.5 + 0.5 * vec3(wave, p), 1.0);
}
""",
    "petals.glsl": """
void mainImage(out vec4 colour, in vec2 place) {
    vec2 p = (2.0 * place - iResolution.xy) / iResolution.y;
    float petals = cos(5.0 * atan(p.y, p.x) + iTime) - 2.0 * length(p) + 1.0;
    vec3 inside = 0.5 + 0.5 * cos(iTime + 3.0 * length(p) + vec3(0.0, 2.0, 4.0));
    colour = vec4(mix(vec3(0.1, 0.15, 0.2), inside, smoothstep(0.0, 0.1, petals)), 1.0);
}
""",
    "noise.twigl": """
vec2 p = FC.xy / r.y * 4.;
o.rgb = hsv(snoise3D(vec3(p, t)) * .2 + t * .1, .6, .8 - .4 * snoise2D(p));
""",
}


def main() -> None:
    with (
        TemporaryDirectory() as name,
        picture("shader_files", 200, colours=128, scale=1.5) as figure,
    ):
        grid = figure.subplots(len(FILES), COLUMNS)
        for row, (file, text) in zip(grid, FILES.items(), strict=True):
            folder = Path(name) / Path(file).stem
            folder.mkdir()
            (folder / file).write_text(text)
            stream = ShaderFiles(folder=folder).open(context(COLOUR, COLUMNS), None, from_seed(0))
            for axes, image in zip(row, stream.draw(0, None).images, strict=True):
                tile(axes, image)
                plain(axes)
            label(row[0], f".{file.partition('.')[2]}")


if __name__ == "__main__":
    main()
