"""The template lists by which He et al. 2023 (arXiv:2210.07574, appendix B.4 and released code) make zero-shot heads.

Most are those of CLIP (Radford et al. 2021, arXiv:2103.00020); `openai_imagenet`, `fmow` and `iwildcam` came with WiSE-FT
(Wortsman et al. 2021, arXiv:2109.01903), from which that code was derived. Which list made which row of a table is not
recorded, but for EuroSAT.
"""

from __future__ import annotations

from bridgejax.errors import UserError, choices

_BOTH = ("a", "the")
_SHOTS = ("", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")
_CIFAR = (
    *(f"a {shot}photo of {article} {{}}." for article in _BOTH for shot in _SHOTS),
    *(f"a photo of {article} {size} {{}}." for article in _BOTH for size in ("small", "big")),
)
_DEPICTIONS = (
    *(f"a {kind}photo" for kind in ("", "bad ", "good ", "blurry ", "pixelated ", "jpeg corrupted ", "low resolution ")),
    *(f"a {kind} photo" for kind in ("cropped", "close-up", "bright", "dark", "black and white")),
    *(f"a {kind}" for kind in ("sculpture", "rendering", "rendition", "tattoo", "drawing", "painting", "doodle", "sketch")),
    *("graffiti", "art", "itap"),
)
_LOOKS = ("hard to see", "clean", "dirty", "cool", "nice", "weird", "large", "small")
_MADE = ("embroidered {}", "plastic {}", "origami {}", "toy {}", "cartoon {}", "plushie {}", "{} in a video game")
_PLACES = ("", " in asia", " in africa", " in the americas", " in europe", " in oceania")

TEMPLATE_LISTS: dict[str, tuple[str, ...]] = {
    "simple": ("a photo of a {}.",),
    **{
        name: (f"a photo of a {{}}, a type of {kind}.",)
        for name, kind in (
            ("aircraft", "aircraft"),
            ("birds", "bird"),
            ("flowers", "flower"),
            ("food", "food"),
            ("pets", "pet"),
        )
    },
    "eurosat": ("a centered satellite photo of {}.",),
    "dtd": ("{} texture.",),
    # Commented out in the released code.
    "dtd_ensemble": tuple(f"a photo of {a} {{}} {kind}." for a in _BOTH for kind in ("texture", "pattern", "thing", "object")),
    "sun": ("a photo of a {}.", "a photo of the {}."),
    "cars": (
        *(f"a photo of {whose} {{}}." for whose in ("a", "the", "my", "my dirty", "my clean", "my new", "my old")),
        "i love my {}!",
    ),
    "imagenet": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "openai_imagenet": (
        *(f"{depiction} of {article} {{}}." for depiction in _DEPICTIONS for article in _BOTH),
        *(f"a photo of {article} {look} {{}}." for look in _LOOKS for article in _BOTH),
        *(f"{article} {made}." for made in _MADE for article in _BOTH),
        *("a photo of many {}.", "a photo of my {}.", "a photo of one {}.", "itap of my {}."),
    ),
    # Two of the original choose between "a" and "an" by the name; here they stand without an article.
    "fmow": (
        *(f"{kind} photo of a {{}}{place}." for place in _PLACES for kind in ("satellite", "aerial")),
        *("satellite photo of {}.", "aerial photo of {}.", "a photo of a {}.", "{}."),
    ),
    "iwildcam": ("a photo of {}.", "{} in the wild."),
}


def template_list(name: str) -> tuple[str, ...]:
    """Returns a list of `TEMPLATE_LISTS`, each text with one `{}` for the class name.

    Raises:
      UserError: there is no such list.
    """
    if name not in TEMPLATE_LISTS:
        raise UserError(f"there is no template list {name!r}; {choices(name, TEMPLATE_LISTS)}")
    return TEMPLATE_LISTS[name]
