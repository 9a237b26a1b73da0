"""The sections of a config: described knobs, validated once, frozen afterwards."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from model.config.base import ColumnName, Share, is_unset
from model.config.base import Name as Name  # the sections' vocabulary, whole, from one module
from model.config.base import Section as Section
from model.config.leaks import LeakPolicies
from model.config.model import ModelConfig as ModelConfig
from model.errors import FaultReason

LanguageChoice = Literal["auto", "en", "other"]
FEWEST_CAPTIONS = 2  # that can name a concept


class DataConfig(Section):
    """Where the pairs lie and what they must satisfy before anything is trained on them."""

    path: str = Field(
        "data",
        description="Folder with pretrain/*.tsv and finetune/{train,valid,test}.tsv, or flat with "
        "train.tsv and test.tsv. 'data' is the DVC-tracked folder of this repository.",
    )
    valid_share: Share = Field(
        0.1,
        description="Share of train carved out as valid where the folder has no valid.tsv, 0 to 1.",
    )
    pretrain_valid_share: Share = Field(
        0.05,
        description="Share of the pretraining pairs that no stage trains on, nor on their "
        "products, captions or images: what fine-tuning forgets is measured on them, 0 to 1.",
    )
    min_rows: int = Field(2, ge=1, description="Fewest accepted pairs a split may have, rows.")
    max_fault_share: Share = Field(
        0.01,
        description="Largest share of faulty lines a split may have, and of captions whose length "
        "is out of bounds, 0 to 1.",
    )
    max_fault_share_by_reason: dict[FaultReason, Share] = Field(
        default_factory=dict,
        description="Largest share of lines with one kind of fault, by its name (bad_base64: "
        "0.001), beside the limit on all faults, 0 to 1.",
    )
    max_duplicate_share: Share = Field(
        0.3,
        description="Largest share of pairs that repeat an earlier pair's words and image, 0 to 1.",
    )
    on_leak: LeakPolicies = Field(
        default_factory=LeakPolicies,
        description="What happens when pairs of another split share something with test: refuse "
        "stops the run, drop leaves those pairs out of training, allow trains on them. One word "
        "for all kinds, or one a kind (caption: allow).",
    )
    language: LanguageChoice = Field(
        "auto",
        description="Language of the captions: en takes singular and plural for one concept and "
        "'s off, other leaves words as they are written; auto looks at the captions.",
    )
    min_caption_words: int = Field(1, ge=0, description="Fewest words of a caption.")
    max_caption_words: int = Field(
        200,
        ge=1,
        description="Most words of a caption; a model reads about 60, or 50 characters of Chinese. "
        "Longer ones are kept and named, and stop the run where they are over a tenth.",
    )
    max_caption_chars: int = Field(
        1000,
        ge=1,
        description="Longest caption, characters. Longer ones are kept and named, and stop the run "
        "where they are over a tenth.",
    )
    scripts: tuple[Annotated[str, Field(pattern=r"^[a-z]{1,32}$")], ...] = Field(
        (),
        description="Scripts of captions (latin, cjk, …; none for digits alone); empty for any.",
    )
    min_script_share: Share = Field(
        0.9,
        description="Smallest share of captions mostly written in these scripts, 0 to 1.",
    )
    min_image_side: int = Field(16, ge=2, description="Shortest side an image may have, pixels.")
    max_pixels: int = Field(
        25_000_000, ge=4, description="Largest image that is decoded, pixels (width times height)."
    )
    max_line_bytes: int = Field(
        16_000_000, ge=1000, description="Longest line of a TSV that is read, bytes."
    )
    require_side_table: bool = Field(
        False,
        description="Whether every split needs its <split>.products.csv (id, title, category, …).",
    )
    side_table_columns: tuple[ColumnName, ...] = Field(
        (),
        description="Columns that every side table must have beside id, with a value in every row.",
    )
    drift_warn: float = Field(
        0.1,
        ge=0,
        description="Drift of a column against the champion's data that is warned of: population "
        "stability index above what chance alone gives. 0.1 is usually called some, 0.25 a lot.",
    )
    max_drift: float | None = Field(
        None,
        ge=0,
        description="Drift that stops the run, measured as drift_warn is; null never stops it.",
    )


class StageConfig(Section):
    """One training stage (pretrain or finetune)."""

    epochs: int = Field(
        1, ge=0, description="Passes over the stage's pairs; 0 leaves the stage out."
    )
    batch_size: int = Field(256, ge=2, description="Pairs a step.")
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="adamw; or muon, which updates the matrices of the blocks by orthogonalised "
        "momentum and the rest by AdamW: for towers from scratch, not for pretrained ones.",
    )
    lr: float = Field(5e-4, gt=0, description="Peak learning rate.")
    matrix_lr: float = Field(
        2e-3, gt=0, description="Peak learning rate of the matrices that muon updates."
    )
    min_lr: float = Field(
        0.0, ge=0, description="Learning rate that the cosine falls to after the last step."
    )
    warmup_steps: int = Field(20, ge=0, description="Steps of linear warm-up from 0 to lr.")
    weight_decay: float = Field(
        0.2, ge=0, description="AdamW decay of weights; norms, biases and scales have none."
    )
    beta2: float = Field(0.98, gt=0, lt=1, description="AdamW's second moment decay.")
    grad_clip: float = Field(1.0, gt=0, description="Largest global gradient norm.")
    crop_scale: Share = Field(
        0.9,
        description="Smallest share of an image's area that a random crop keeps; 1: the centre.",
    )
    flip: bool = Field(False, description="Whether training images are mirrored at random.")
    loss: Literal["auto", "info_nce", "sigmoid"] = Field(
        "auto",
        description="How image and text are brought together: info_nce; sigmoid, for towers with a "
        "logit bias (SigLIP); auto, sigmoid where the towers have one.",
    )
    concept_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the concept-matching loss beside InfoNCE; 0 leaves it out.",
    )
    nearest_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of nearest-neighbour supervision: InfoNCE of each image with the "
        "feature queue's text that is nearest to its own caption; 0 leaves it out.",
    )
    queue_size: int = Field(
        65_536, ge=1, description="Rows of the feature queue that prototypes are means over."
    )
    min_concept_count: int = Field(
        5, ge=FEWEST_CAPTIONS, description="Captions that must name a concept before it is one."
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Factor of the learning rate from each layer to the one below it in both "
        "towers, for fine-tuning pretrained towers; projections and scales learn at lr. 1 is off.",
    )
    freeze: Literal["none", "image", "text"] = Field(
        "none",
        description="Tower that keeps still for the whole stage, its projection and running "
        "statistics included.",
    )
    locked_image_epochs: int = Field(
        0,
        ge=0,
        exclude_if=is_unset,
        description="Epochs at the begin in which the image tower is locked below its projection: "
        "its features are computed once, without augmentation, and kept on disk, so an epoch "
        "costs the rest alone. 0 is off, epochs the whole stage.",
    )
    locked_text_epochs: int = Field(
        0,
        ge=0,
        exclude_if=is_unset,
        description="The same for the text tower; keyword_share has to be 0.",
    )
    image_lr: float | None = Field(
        None,
        gt=0,
        exclude_if=is_unset,
        description="Peak learning rate of the image tower below its projection; null takes lr.",
    )
    text_lr: float | None = Field(
        None,
        gt=0,
        exclude_if=is_unset,
        description="Peak learning rate of the text tower below its projection; null takes lr.",
    )
    learning_layers: int | None = Field(
        None,
        ge=0,
        exclude_if=is_unset,
        description="Topmost layers of both towers that learn beside the projections, those below "
        "keep still; null: all.",
    )
    keep_batch_norm: bool = Field(
        False,
        exclude_if=is_unset,
        description="Whether batch norm keeps its running statistics and uses them in training, "
        "for fine-tuning pretrained convolutions by small batches.",
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay a step of the moving average of weights that is validated and kept as "
        "the best; it grows from 0.1 as (1 + step) / (10 + step) does. 0 is off.",
    )
    distill_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the distance from the start weights' embeddings; 0 is off.",
    )
    interpolation: tuple[Share, ...] = Field(
        (),
        description="Coefficients a of the weights (1 - a) * start + a * trained that are tried on "
        "valid after the last epoch, beside a = 1; trained is the best epoch's. Empty is off.",
    )
    interpolation_tolerance: Share = Field(
        0.0,
        description="Mean recall on valid that may be given up for a smaller coefficient: the "
        "smallest one is taken that is so near to the best, 0 to 1.",
    )
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="Pairs that a process embeds at a time where memory does not hold its part of "
        "the batch: the gradient is that of the whole batch, for about a third of a step's time "
        "more. Null embeds it at once.",
    )
    checkpoint_activations: bool = Field(
        False,
        description="Whether each layer's activations are computed again in the backward pass "
        "instead of kept: memory for about a third of a step's time, the same gradients.",
    )
    mask_duplicates: bool = Field(
        True,
        description="Whether pairs that share a caption or image are no negatives of each other.",
    )
    patch_dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of an image's patches that a training step leaves out at random, which "
        "saves as much time; null keeps the model's own, 0 for most.",
    )
    checkpoint_share: Share = Field(
        0.02,
        description="Largest share of the time that saving checkpoints within an epoch may take, "
        "which sets how often it is done; 0 saves at the ends of epochs alone, 1 after every "
        "step.",
    )
    on_divergence: Literal["stop", "rewind"] = Field(
        "stop",
        description="What happens when a loss or the weights become NaN or infinite: stop ends the "
        "run, rewind goes back to the last checkpoint and on with half the rate, once.",
    )
    max_concepts: int = Field(
        20_000,
        ge=1,
        description="Most concepts that are mined, the most frequent; each costs memory.",
    )
    concepts: str | None = Field(
        None,
        description="Table of concepts to use instead of mining them: a concepts.parquet that a "
        "run left, rows deleted or added by hand; only its column concept is read. null mines "
        "them.",
    )
    keyword_share: Share = Field(
        0.0,
        description="Share of train captions that are replaced, anew at every epoch, by two to "
        "four of their concepts, as shoppers type them; captions that name fewer stay. 0 is off.",
    )

    @model_validator(mode="after")
    def _rewords_what_is_read(self) -> Self:
        if self.locked_text_epochs and self.keyword_share:
            raise ValueError("locked_text_epochs needs captions as they are: keyword_share: 0")
        return self


class EvaluateConfig(Section):
    """How a model is evaluated."""

    batch_size: int = Field(256, ge=1, description="Captions or images encoded at a time.")
    block_rows: int = Field(
        1024, ge=1, description="Queries ranked at a time; memory is block_rows times candidates."
    )
    gallery_queries: int = Field(12, ge=1, description="Captions shown in the gallery.")
    bootstrap_draws: int = Field(
        2000, ge=100, description="Bootstrap draws behind the interval of a mean recall difference."
    )
    protocols: tuple[Literal["full", "101"], ...] = Field(
        ("full", "101"),
        description="How queries are ranked: full, which is always measured, among every candidate "
        "of test; 101, beside it, the right answer among 100 wrong ones drawn from its "
        "subcategory.",
    )
    sampled_column: ColumnName = Field(
        "subcategory",
        description="Column of the side table that the wrong candidates of protocol 101 share.",
    )
    slice_columns: tuple[ColumnName, ...] = Field(
        ("category", "subcategory", "colour"),
        description="Columns of the side table by whose values test is sliced.",
    )
    age_column: ColumnName = Field(
        "date",
        description="Column of the side table with a date (ISO 8601, or a year) by whose quarters "
        "test is sliced.",
    )
    label_columns: tuple[ColumnName, ...] = Field(
        ("category", "subcategory", "article_type", "colour", "gender"),
        description="Columns of the side table whose values are searched for as queries and "
        "classified by prompts; those that test lacks are passed over.",
    )
    query_nouns: tuple[ColumnName, ...] = Field(
        ("article_type", "subcategory", "category"),
        description="Columns of the side table that can end a query of fields; the first that test "
        "has does.",
    )
    query_words: tuple[ColumnName, ...] = Field(
        ("gender", "colour", "pattern", "material"),
        description="Columns of the side table whose values a query of fields puts before its "
        "noun, in this order.",
    )
    prompts: tuple[Annotated[str, Field(pattern=r"\{label\}")], ...] = Field(
        (
            "A photo of a {label}.",
            "a product photo of a {label}.",
            "a studio photo of a {label} on a white background.",
            "a {label} from an online shop.",
            "{label}",
        ),
        min_length=1,
        description="Prompts of zero-shot classification, {label} standing for the label; the "
        "first is measured alone, all of them as an ensemble.",
    )
    gallery_lines: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (),
        description="Lines of test.tsv, from 1, shown in the gallery in place of captions spread "
        "over test.",
    )
    gallery_worst: int = Field(
        6, ge=0, description="Captions shown in the gallery that the new model does worst on."
    )


class ExportConfig(Section):
    """Which products get embeddings."""

    files: tuple[str, ...] = Field(
        ("test.tsv",),
        min_length=1,
        description="TSV files to embed, relative to the folder of the finetune splits.",
    )
    batch_size: int = Field(256, ge=1, description="Rows encoded at a time.")
