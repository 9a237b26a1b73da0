"""The towers that most forms know: CLIP's own vision and text transformer, nothing beside them."""

import open_clip

from model.towers.towers import Towers

USUAL_VISION = {
    "image_size",
    "layers",
    "width",
    "patch_size",
    "head_width",
    "mlp_ratio",
    "patch_dropout",
}
USUAL_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}


def is_plain(towers: Towers) -> bool:
    """Return whether these are CLIP's own vision and text transformers, in shape and function."""
    architecture = towers.config["model_cfg"]
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    return (
        type(towers.clip) is open_clip.CLIP
        and getattr(towers.clip, "logit_bias", None) is None
        and towers.clip.logit_scale.ndim == 0
        and vision.keys() <= USUAL_VISION
        and text.keys() <= USUAL_TEXT
        and isinstance(vision.get("layers", 12), int)
    )
