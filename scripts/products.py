"""The sample's products: which attributes a garment may have, and how a caption tells of them.

A caption names every attribute that the picture shows; only the unmarked ones (plain cloth, no
detail) may go unsaid. So two products of different attributes never share a caption, and a person
can find each picture among the others. 17 garments, 14 colours and 6 patterns make about 28,000
possible products; naming 1,220 takes about 30 ms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Product:
    """The attributes of one product; an empty string where a garment has no such attribute."""

    garment: str
    colour: str
    pattern: str
    sleeve: str
    neck: str
    cut: str
    detail: str


@dataclass(frozen=True)
class Range:
    """What the shop stocks of one garment."""

    category: str
    subcategory: str
    nouns: tuple[str, ...]
    sleeves: tuple[str, ...] = ("",)
    necks: tuple[str, ...] = ("",)
    cuts: tuple[str, ...] = ("",)
    details: tuple[str, ...] = ("",)


ALL_SLEEVES = ("sleeveless", "short sleeve", "long sleeve")
LONG = ("long sleeve",)

RANGES: dict[str, Range] = {
    "T-shirt": Range(
        "Tops",
        "T-shirts",
        ("jersey top", "jersey T-shirt", "T-shirt"),
        ALL_SLEEVES,
        ("crewneck", "V-neck", "turtleneck"),
        details=("", "bow", "chest pocket", "contrast trim"),
    ),
    "shirt": Range(
        "Tops",
        "Shirts",
        ("poplin shirt", "button-up shirt", "shirt"),
        ("short sleeve", "long sleeve"),
        ("shirt collar", "band collar"),
        details=("", "bow", "chest pocket", "contrast trim"),
    ),
    "sweater": Range(
        "Tops",
        "Sweaters",
        ("knit sweater", "wool sweater", "sweater"),
        LONG,
        ("crewneck", "V-neck", "turtleneck"),
        details=("", "bow", "chest pocket", "contrast trim"),
    ),
    "hoodie": Range(
        "Tops",
        "Hoodies",
        ("fleece hoodie", "hoodie"),
        ("short sleeve", "long sleeve"),
        ("hood",),
        details=("", "zip", "kangaroo pocket", "contrast trim"),
    ),
    "dress": Range(
        "Dresses",
        "Dresses",
        ("dress", "crepe dress"),
        ALL_SLEEVES,
        ("crewneck", "V-neck", "shirt collar"),
        ("mini", "midi", "maxi"),
        ("", "bow", "belt", "buttons"),
    ),
    "skirt": Range(
        "Bottoms",
        "Skirts",
        ("skirt", "twill skirt"),
        cuts=("mini", "midi", "maxi"),
        details=("", "bow", "belt", "buttons", "pleats", "contrast trim"),
    ),
    "trousers": Range(
        "Bottoms",
        "Trousers",
        ("trousers", "cotton trousers"),
        cuts=("slim leg", "wide leg", "cropped"),
        details=("", "belt", "cargo pockets", "contrast trim"),
    ),
    "shorts": Range(
        "Bottoms",
        "Shorts",
        ("shorts", "cotton shorts"),
        cuts=("short", "knee length"),
        details=("", "belt", "cargo pockets", "contrast trim"),
    ),
    "jacket": Range(
        "Outerwear",
        "Jackets",
        ("jacket", "canvas jacket"),
        ("sleeveless", "long sleeve"),
        ("shirt collar", "band collar", "hood"),
        details=("buttons", "zip", "chest pocket"),
    ),
    "coat": Range(
        "Outerwear",
        "Coats",
        ("coat", "wool coat"),
        LONG,
        ("lapel collar", "hood"),
        ("knee length", "ankle length"),
        ("buttons", "zip", "belt"),
    ),
    "handbag": Range(
        "Accessories",
        "Handbags",
        ("handbag", "leather handbag"),
        cuts=("top handle", "shoulder strap"),
        details=("", "bow", "buckle", "tassel", "contrast trim"),
    ),
    "backpack": Range(
        "Accessories",
        "Backpacks",
        ("backpack", "nylon backpack"),
        cuts=("flap top", "round top"),
        details=("", "zip", "buckle", "front pocket", "contrast trim"),
    ),
    "sneaker": Range(
        "Shoes",
        "Sneakers",
        ("sneaker", "canvas sneaker"),
        cuts=("low top", "high top"),
        details=("laces", "strap", "zip", "contrast trim"),
    ),
    "boot": Range(
        "Shoes",
        "Boots",
        ("boot", "leather boot"),
        cuts=("ankle", "knee high"),
        details=("laces", "zip", "buckle", "bow", "contrast trim"),
    ),
    "cap": Range(
        "Accessories",
        "Caps",
        ("cap", "baseball cap"),
        details=("", "bow", "buckle", "contrast trim"),
    ),
    "beanie": Range(
        "Accessories",
        "Beanies",
        ("beanie", "knit beanie"),
        details=("", "bow", "pompom", "contrast trim"),
    ),
    "scarf": Range(
        "Accessories",
        "Scarves",
        ("scarf", "wool scarf"),
        cuts=("short", "long"),
        details=("", "fringe", "pompom", "contrast trim"),
    ),
}


@dataclass(frozen=True)
class Wording:
    """The words for an attribute, before the noun or in a phrase; either may be missing."""

    adjectives: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()


WORDINGS: dict[str, Wording] = {
    "solid": Wording(("", "", "solid", "plain")),
    "striped": Wording(("striped", "stripe"), ("stripes throughout", "striped pattern")),
    "dotted": Wording(("dotted", "polka dot"), ("polka dots throughout", "dotted pattern")),
    "checked": Wording(("checked", "check"), ("checks throughout", "checked pattern")),
    "floral": Wording(
        ("floral", "flower print"), ("floral print throughout", "flowers throughout")
    ),
    "chevron": Wording(("chevron", "zigzag"), ("chevron pattern", "zigzags throughout")),
    "sleeveless": Wording(("sleeveless",), ("sleeveless cut",)),
    "short sleeve": Wording(("short sleeve",), ("short sleeves",)),
    "long sleeve": Wording(("long sleeve",), ("long sleeves",)),
    "crewneck": Wording(("crewneck",), ("crewneck collar", "round crewneck")),
    "V-neck": Wording(("V-neck",), ("V-neck collar", "deep V-neck")),
    "turtleneck": Wording(("turtleneck",), ("turtleneck collar", "high turtleneck")),
    "shirt collar": Wording((), ("shirt collar", "spread shirt collar")),
    "band collar": Wording((), ("band collar", "low band collar")),
    "lapel collar": Wording((), ("lapel collar", "wide lapel collar")),
    "hood": Wording((), ("drawstring hood", "hood with drawstrings")),
    "mini": Wording(("mini",), ("mini length",)),
    "midi": Wording(("midi",), ("midi length",)),
    "maxi": Wording(("maxi",), ("maxi length",)),
    "knee length": Wording(("knee length",), ("knee length cut",)),
    "ankle length": Wording(("ankle length",), ("ankle length cut",)),
    "slim leg": Wording(("slim leg",), ("slim leg cut",)),
    "wide leg": Wording(("wide leg",), ("wide leg cut",)),
    "cropped": Wording(("cropped",), ("cropped leg",)),
    "short": Wording(("short",), ("short length",)),
    "long": Wording(("long",), ("long ends",)),
    "top handle": Wording(("top handle",), ("single top handle",)),
    "shoulder strap": Wording((), ("shoulder strap", "long shoulder strap")),
    "flap top": Wording(("flap top",), ("flap top closure",)),
    "round top": Wording(("round top",), ("round top shape",)),
    "low top": Wording(("low top",), ("low top shape",)),
    "high top": Wording(("high top",), ("high top shape",)),
    "ankle": Wording(("ankle",), ("ankle height shaft",)),
    "knee high": Wording(("knee high",), ("knee high shaft",)),
    "bow": Wording((), ("bow accent", "bow detail")),
    "chest pocket": Wording((), ("chest pocket", "patch pocket at chest")),
    "contrast trim": Wording((), ("contrast trim", "trim in contrasting colour")),
    "kangaroo pocket": Wording((), ("kangaroo pocket", "kangaroo pocket at front")),
    "zip": Wording((), ("zip closure", "exposed zip")),
    "buttons": Wording((), ("button closure", "buttons at front")),
    "belt": Wording(("belted",), ("belt with buckle", "belted waist")),
    "pleats": Wording(("pleated",), ("pleats throughout",)),
    "cargo pockets": Wording(("cargo",), ("cargo pockets", "two cargo pockets")),
    "buckle": Wording((), ("buckle closure", "strap with buckle")),
    "tassel": Wording((), ("tassel detail", "hanging tassel")),
    "front pocket": Wording((), ("front pocket", "patch pocket at front")),
    "laces": Wording((), ("laces at front",)),
    "strap": Wording((), ("two strap closure", "contrasting straps")),
    "pompom": Wording((), ("pompom detail", "pompom accent")),
    "fringe": Wording(("fringed",), ("fringed ends",)),
}


def caption_product(product: Product, random: Random) -> str:
    """Return a caption as a shop writes it: what the product is, then its remaining attributes."""
    adjectives, phrases = [], []
    for attribute in (product.sleeve, product.cut, product.neck, product.detail, product.pattern):
        wording = WORDINGS.get(attribute, Wording())
        if wording.phrases and (
            not wording.adjectives or random.random() < phrase_share(attribute, product)
        ):
            phrases.append(random.choice(wording.phrases))
        elif wording.adjectives:
            adjectives.append(random.choice(wording.adjectives))

    random.shuffle(phrases)
    title = name_product(product, adjectives, random)

    # A detail may be named with the product itself.
    accent = next(
        (phrase for phrase in phrases if phrase in WORDINGS.get(product.detail, Wording()).phrases),
        None,
    )
    if accent and random.random() < 0.4:
        phrases.remove(accent)
        title += f" with {accent}"

    sentences = map(capitalise, (title, *join_phrases(phrases, random)))
    return ". ".join(sentences) + "."


def phrase_share(attribute: str, product: Product) -> float:
    """Return how often an attribute gets a phrase of its own: necks and details mostly."""
    return 0.8 if attribute in (product.neck, product.detail) else 0.25


def name_product(product: Product, adjectives: Sequence[str], random: Random) -> str:
    """Return the words around the noun; the colour stands before them or after."""
    words = [*(word for word in adjectives if word), random.choice(RANGES[product.garment].nouns)]
    if random.random() < 0.3:
        return " ".join([product.colour, *words])
    return " ".join([*words, "in", product.colour])


def join_phrases(phrases: Sequence[str], random: Random) -> list[str]:
    """Return the phrases as sentences; two of them may share one."""
    if len(phrases) >= 2 and random.random() < 0.4:
        return [f"{phrases[0]} and {phrases[1]}", *phrases[2:]]
    return list(phrases)


def capitalise(sentence: str) -> str:
    """Raise the first letter alone: ``V-neck`` keeps its own."""
    return sentence[:1].upper() + sentence[1:]
