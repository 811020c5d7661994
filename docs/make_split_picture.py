"""Draw docs/images/split.svg, the picture that README opens with: who holds which blocks, and what travels.

Run it after a change: python docs/make_split_picture.py
"""

from __future__ import annotations

from pathlib import Path

PICTURE = Path(__file__).with_name("images") / "split.svg"
WIDTH, HEIGHT = 960, 472
BLOCKS = 12
CLIENTS = {"hospital A": 2, "hospital B": 4, "hospital C": 1}  # name: cut
SIZE, STEP, ROW, TOP = 25, 31, 92, 76
# Left and right edge of the clients' and the server's panel; the wire lies between.
CLIENT, SERVER = (24, 344), (520, 936)

# One card with its own background: it reads on any page, light or dark.
STYLE = """
  .card { fill: #ffffff; stroke: #d5d8da }
  .client { fill: #eaf3f9; stroke: #0072b2 }
  .server { fill: #e8f5f0; stroke: #009e73 }
  .block { fill: #ffffff; stroke: #8a949c }
  .lora { fill: #d55e00 }
  .paper { fill: #ffffff; stroke: #56616b }
  .ink { fill: #1b2025 }
  .soft { fill: #56616b }
  .up { stroke: #0072b2; fill: none } .up-head { fill: #0072b2 }
  .down { stroke: #009e73; fill: none } .down-head { fill: #009e73 }
  .mean { stroke: #d55e00; fill: none } .mean-head { fill: #d55e00 }
  text { font: 14px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
  .big { font-weight: 600; font-size: 16px }
  .small { font-size: 12.5px }
  @media (prefers-color-scheme: dark) {
    .card { fill: #16191d; stroke: #3a4047 }
    .client { fill: #14283a; stroke: #56b4e9 }
    .server { fill: #12302a; stroke: #33c79b }
    .block { fill: #262b31; stroke: #8a949c }
    .lora { fill: #ff8a3c }
    .paper { fill: #262b31; stroke: #b8c0c7 }
    .ink { fill: #eef1f3 }
    .soft { fill: #b8c0c7 }
    .up { stroke: #56b4e9 } .up-head { fill: #56b4e9 }
    .down { stroke: #33c79b } .down-head { fill: #33c79b }
    .mean { stroke: #ff8a3c } .mean-head { fill: #ff8a3c }
  }
"""


def text(x: float, y: float, words: str, kind: str = "ink", anchor: str = "start") -> str:
    """Words at a place; kind: classes of the style."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{words}</text>'


def panel(kind: str, edges: tuple[float, float], top: float, height: float) -> str:
    """A rounded rectangle between two edges."""
    left, right = edges
    return (
        f'<rect class="{kind}" x="{left}" y="{top}" width="{right - left}" height="{height}" rx="10" '
        'stroke-width="1.5"/>'
    )


def block(x: float, y: float) -> str:
    """One frozen block with its adapter."""
    return (
        f'<rect class="block" x="{x}" y="{y}" width="{SIZE}" height="{SIZE + 9}" rx="4"/>'
        f'<rect class="lora" x="{x + 5}" y="{y + SIZE - 3}" width="{SIZE - 10}" height="7" rx="2"/>'
    )


def sheet(x: float, y: float) -> str:
    """A page of text, which stays where it is."""
    lines = "".join(
        f'<path d="M{x + 6} {y + 10 + 7 * line}h{12 if line == 3 else 16}" class="soft" stroke="#8a949c"/>'
        for line in range(4)
    )
    return f'<path class="paper" d="M{x} {y}h20l8 8v32h-28z"/>' + lines


def arrow(kind: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    """A straight arrow, horizontal or vertical."""
    (x, y), (u, v) = start, end
    along, across = ((u > x) - (u < x), (v > y) - (v < y))
    tip = f"M{u} {v}l{-9 * along - 5 * across} {-9 * across - 5 * along}"
    tip += f"l{10 * across} {10 * along}z"
    line = f'<path class="{kind}" stroke-width="2" d="M{x} {y}L{u - 7 * along} {v - 7 * across}"/>'
    return line + f'<path class="{kind}-head" d="{tip}"/>'


def picture() -> str:
    """The whole picture."""
    parts = [
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="14"/>',
        text(CLIENT[0] + 4, 38, "Sites", "ink big"),
        text(CLIENT[0] + 4, 58, "keep their files, run the first blocks", "soft small"),
        text(SERVER[0] + 4, 38, "Server", "ink big"),
        text(SERVER[0] + 4, 58, "runs the other blocks of the model", "soft small"),
        text((CLIENT[1] + SERVER[0]) / 2, 38, "the cut", "ink big", "middle"),
        text((CLIENT[1] + SERVER[0]) / 2, 58, "one for each site", "soft small", "middle"),
        panel("server", SERVER, TOP, ROW * len(CLIENTS) - 14),
    ]
    for row, (name, cut) in enumerate(CLIENTS.items()):
        top = TOP + ROW * row
        middle = top + (ROW - 14) / 2
        parts += [panel("client", CLIENT, top, ROW - 14), sheet(CLIENT[0] + 14, middle - 20)]
        parts += [
            text(CLIENT[0] + 54, middle - 2, name, "ink"),
            text(CLIENT[0] + 54, middle + 16, "text", "soft small"),
        ]
        fronts = [CLIENT[1] - 12 - STEP * (cut - place) for place in range(cut)]
        trunk = [SERVER[0] + 18 + STEP * place for place in range(BLOCKS - cut)]
        parts += [block(x, middle - (SIZE + 9) / 2) for x in [*fronts, *trunk]]
        parts += [
            arrow("up", (CLIENT[1] + 8, middle - 9), (SERVER[0] - 8, middle - 9)),
            arrow("down", (SERVER[0] - 8, middle + 13), (CLIENT[1] + 8, middle + 13)),
            text((CLIENT[1] + SERVER[0]) / 2, middle - 15, "activations", "soft small", "middle"),
            text((CLIENT[1] + SERVER[0]) / 2, middle + 29, "gradients", "soft small", "middle"),
        ]
    bottom = TOP + ROW * len(CLIENTS)
    parts += [
        arrow("mean", (CLIENT[0] + 160, bottom - 6), (CLIENT[0] + 160, bottom + 26)),
        arrow("mean", (SERVER[0] + 200, bottom - 6), (SERVER[0] + 200, bottom + 26)),
        panel("card", (CLIENT[0], SERVER[1]), bottom + 32, 46),
        f'<rect class="lora" x="{CLIENT[0] + 20}" y="{bottom + 51}" width="16" height="8" rx="2"/>',
        text(
            CLIENT[0] + 48,
            bottom + 60,
            "After each round the LoRA adapters of every block are averaged",
            "ink",
        ),
        text(SERVER[1] - 20, bottom + 60, "→ one standard PEFT adapter", "ink big", "end"),
    ]
    note = "Blocks are frozen, adapters are trained. The labels are the text: "
    note += "the job says if they go to the server, too."
    parts.append(text(WIDTH / 2, HEIGHT - 14, note, "soft small", "middle"))
    words = (
        "Three sites keep their files and run the first blocks of a model, two, four and one of twelve; a "
        "server runs the others. Activations go up, gradients come down. After each round the adapters of "
        "every block are averaged to one PEFT adapter."
    )
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{words}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
