"""The environment of a user's shader file: uniforms, and twigl's names and functions.

The format is recognised from the text. With `mainImage` it is Shadertoy's; with `main` and long
names it is a plain fragment shader; with `main` and short names it is twigl's "geek" or "geeker";
without a `main` it is "geekest", a bare list of statements.
"""

import re

# An input's name, twigl's short one, and its type.
_INPUTS = (
    ("resolution", "r", "vec2"),
    ("time", "t", "float"),
    ("mouse", "m", "vec2"),
    ("frame", "f", "float"),
    ("backbuffer", "b", "sampler2D"),
)
_ALIASES = {
    "u_resolution": "resolution",
    "u_time": "time",
    "u_mouse": "mouse",
    "u_frame": "frame",
    "iResolution": "vec3(resolution, 1.0)",
    "iTime": "time",
    "iGlobalTime": "time",
    "iMouse": "vec4(mouse, 0.0, 0.0)",
    "iFrame": "int(frame)",
    "iTimeDelta": "(1.0 / 60.0)",
    "iDate": "vec4(2000.0, 0.0, 1.0, time)",
}
_ALWAYS = {
    "painted_place": "(gl_FragCoord - vec4(origin, 0.0, 0.0))",
    "outColor": "painted_colour",
    "texture2D": "texture",
}

# The functions twigl offers, written anew: integer hashes in place of fract(sin(x)), and noise
# over simplices, whose corners contribute a random slope times a bump (r^2 - d^2)^4.
_FUNCTIONS = """
#define PI 3.141592653589793
#define PI2 6.283185307179586
uint hash_of(uint h) {
    h ^= h >> 16u; h *= 0x7feb352du; h ^= h >> 15u; h *= 0x846ca68bu; return h ^ (h >> 16u);
}
uint hash_of(ivec4 p) {
    uint h = hash_of(uint(p.x)); h = hash_of(h + uint(p.y));
    h = hash_of(h + uint(p.z)); return hash_of(h + uint(p.w));
}
float fsnoise(vec2 c) {
    return float(hash_of(floatBitsToUint(c.x) ^ hash_of(floatBitsToUint(c.y)))) / 4294967296.0;
}
float fsnoiseDigits(vec2 c) { return fsnoise(floor(c * 1000.0)); }
mat2 rotate2D(float a) { float c = cos(a), s = sin(a); return mat2(c, s, -s, c); }
mat3 rotate3D(float angle, vec3 axis) {
    vec3 a = normalize(axis);
    float c = cos(angle), s = sin(angle);
    mat3 cross_product = mat3(0.0, a.z, -a.y, -a.z, 0.0, a.x, a.y, -a.x, 0.0);
    return c * mat3(1.0) + (1.0 - c) * outerProduct(a, a) + s * cross_product;
}
vec3 hsv(float h, float s, float v) {
    vec3 ramp = abs(fract(h + vec3(0.0, 2.0, 1.0) / 3.0) * 6.0 - 3.0) - 1.0;
    return v * mix(vec3(1.0), clamp(ramp, 0.0, 1.0), s);
}
float bump(vec4 away, ivec4 corner, float reach) {
    float left = reach - dot(away, away);
    if (left <= 0.0) return 0.0;
    uint h = hash_of(corner);
    vec4 slope = vec4(h & 255u, (h >> 8u) & 255u, (h >> 16u) & 255u, h >> 24u) / 127.5 - 1.0;
    return left * left * left * left * dot(slope, away);
}
// Noise over the simplices of `count` dimensions: skew to a cubic lattice, walk from the cell's
// lowest corner to its highest along the axes in the order of the coordinates' sizes.
float simplex_noise(vec4 p, int count) {
    float n = float(count);
    float skew = (sqrt(n + 1.0) - 1.0) / n, unskew = (1.0 - 1.0 / sqrt(n + 1.0)) / n;
    vec4 used = vec4(1.0, count > 1, count > 2, count > 3);
    ivec4 cell = ivec4(floor(p + used * dot(p, used) * skew)) * ivec4(used);
    vec4 away = (p - vec4(cell)) * used + used * dot(vec4(cell), used) * unskew;
    vec4 rank = vec4(0.0);
    for (int i = 0; i < count; i++) for (int j = 0; j < count; j++)
        if (away[j] > away[i] || (away[j] == away[i] && j < i)) rank[i] += 1.0;
    float sum = 0.0;
    for (int k = 0; k <= count; k++) {
        vec4 step_to = used * vec4(lessThan(rank, vec4(float(k))));
        sum += bump(away - step_to + used * float(k) * unskew, cell + ivec4(step_to), 0.5);
    }
    return sum;
}
float snoise2D(vec2 p) { return clamp(simplex_noise(vec4(p, 0.0, 0.0), 2) * 76.0, -1.0, 1.0); }
float snoise3D(vec3 p) { return clamp(simplex_noise(vec4(p, 0.0), 3) * 65.0, -1.0, 1.0); }
float snoise4D(vec4 p) { return clamp(simplex_noise(p, 4) * 65.0, -1.0, 1.0); }
"""

_UNIFORM = re.compile(r"\buniform\s+(?:(?:lowp|mediump|highp)\s+)?\w+\s+([^;]+);")
_VERSION = re.compile(r"^[ \t]*#version[^\n]*", re.MULTILINE)
_MAIN = re.compile(r"\bvoid\s+main\s*\(")
_MAIN_IMAGE = re.compile(r"\bvoid\s+mainImage\s*\(")
_OUT = re.compile(r"^[ \t]*(?:layout\s*\([^)]*\)\s*)?out\s+(?:\w+\s+)?vec4\s+\w+\s*;", re.MULTILINE)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def complete(text: str) -> str:
    """Return a GLSL 3.30 fragment shader for `text`, with unchanged line numbers.

    Its uniforms are resolution, time, mouse, frame, backbuffer (or twigl's r, t, m, f, b), and
    `origin`: position of the image's lower left corner in the framebuffer.

    Raises:
        ValueError: the file needs an input that a still image does not have.
    """
    bare = _COMMENT.sub(" ", text)
    body, strangers = _without_known_uniforms(text)
    strangers += re.findall(r"\biChannel\d\b|\biSampleRate\b", bare)
    if strangers:
        raise ValueError(f"needs the input '{strangers[0]}', which nobody provides")
    body = _VERSION.sub("", body)
    body = re.sub(r"\bgl_FragColor\b", "painted_colour", body)
    body = re.sub(r"\bgl_FragCoord\b", "painted_place", body)
    has_main = _MAIN.search(bare) is not None
    shadertoy = not has_main and _MAIN_IMAGE.search(bare) is not None
    short = not shadertoy and not re.search(r"\b(u_)?(resolution|time)\b", bare)
    header = ["#version 330", "uniform vec2 origin;", _FUNCTIONS if short else ""]
    header += [
        f"uniform {kind} {short_name if short else name};" for name, short_name, kind in _INPUTS
    ]
    names = _ALWAYS | ({"FC": "painted_place"} if short else _ALIASES)
    header += [f"#define {name} {meaning}" for name, meaning in names.items()]
    if not _OUT.search(bare):
        header.append(f"out vec4 {'painted_colour' if has_main or shadertoy else 'o'};")
    if shadertoy:
        body += "\nvoid main() { mainImage(painted_colour, painted_place.xy); }"
    elif not has_main:
        header.append("void main() { o = vec4(0.0, 0.0, 0.0, 1.0);")
        body += "\n;}"
    return "\n".join((*header, "#line 1", body, ""))


def _without_known_uniforms(text: str) -> tuple[str, list[str]]:
    """Return the text without the declarations of `complete`, and the names of other uniforms."""
    known = {name for each in _INPUTS for name in each[:2]} | set(_ALIASES)
    strangers: list[str] = []

    def keep(declaration: re.Match[str]) -> str:
        names = [name.split("[")[0].strip() for name in declaration[1].split(",")]
        strangers.extend(name for name in names if name not in known)
        return "\n" * declaration[0].count("\n")

    return _UNIFORM.sub(keep, text), strangers
